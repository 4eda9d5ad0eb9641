import os
import re
from pathlib import Path

import pytest
from absl import flags

from experiments.harness import path_flags

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def parsed(monkeypatch, tmp_path):
    """Parses arguments for a flag of one path and one of many."""
    monkeypatch.setenv("HOME", str(tmp_path))
    values = flags.FlagValues()
    monkeypatch.setattr(
        path_flags.flags,
        "DEFINE",
        lambda parser, name, default, help, serializer: flags.DEFINE_flag(
            flags.Flag(parser, serializer, name, default, help), values
        ),
    )
    path_flags.define_path("place", None, "A place.")
    path_flags.define_paths("places", "Places.")

    def parse(*arguments):
        values.unparse_flags()
        values(["program", *arguments])
        return values

    return parse


def test_a_home_folder_takes_the_place_of_a_tilde(parsed, tmp_path):
    values = parsed("--place=~/out", "--places=~/a,b,~/c")
    assert values.place == f"{tmp_path}/out"
    assert values.places == [f"{tmp_path}/a", "b", f"{tmp_path}/c"]
    # As a file of flags holds them.
    assert values["place"].serialize() == f"--place={tmp_path}/out"
    assert values["places"].serialize() == f"--places={tmp_path}/a,b,{tmp_path}/c"


def test_other_paths_stay_as_they_are(parsed):
    # A rule's name and a folder of that name are told apart by the dot.
    values = parsed("--place=./mnist_lstm", "--places=käte/日本,./x,~no_such_user/y")
    assert values.place == "./mnist_lstm"
    assert values.places == ["käte/日本", "./x", "~no_such_user/y"]


def test_without_flags_there_is_no_path(parsed):
    values = parsed("--places=")
    assert values.place is None
    assert values.places == []


@pytest.mark.parametrize("argument", ["--place=", "--places=a,,b"])
def test_an_empty_path_is_refused(parsed, argument):
    name, _, value = argument.partition("=")
    with pytest.raises(flags.IllegalFlagValueError) as raised:
        parsed(argument)
    assert str(raised.value) == (
        f"flag {name}={value}: A path must not be empty. Received: ''. Name a file or folder, '.' "
        "for the current folder, or leave the flag out."
    )


def test_a_path_that_is_not_in_utf_8_is_refused(parsed):
    with pytest.raises(flags.IllegalFlagValueError) as raised:
        parsed("--place=" + os.fsdecode(b"out/\xfc\xff"))
    assert str(raised.value).endswith(
        ": A path must be in UTF-8, since TensorFlow takes no other. "
        "Received: b'out/\\xfc\\xff'. Rename what is not, or choose another place."
    )


def test_every_flag_of_text_that_is_no_path_is_known():
    defined = {
        name
        for folder in ("experiments", "benchmarks")
        for path in (ROOT / folder).glob("**/*.py")
        for name in re.findall(r'DEFINE_string\(\s*"(\w+)"', path.read_text())
    }
    assert defined <= {"rule_name", "trained_weights"}
