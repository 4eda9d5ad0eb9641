"""All commands in the documents can be given: modules, flags and their values, targets of make.

Bash itself reads the blocks, with loops, functions and variables. In place of the programs, it
tells what would have been run. Modules then parse the flags that they would get. Nothing runs.
"""

import importlib.util
import json
import re
import subprocess
import tomllib

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, name_of
from tests.forks import run_program

# In restricted mode, Bash starts nothing from a path and redirects nothing.
PRELUDE = r"""
tell() { printf '%s\037' "$@"; printf '\036'; }
python() { tell python "$@"; }
source() { :; }
command_not_found_handle() { tell "$@"; }
unset TFDS_DATA_DIR
PATH=/nowhere
set -r
"""
# Parses the flags of each command, whose module is imported once, and says which are refused.
PROGRAM = """
import importlib
import importlib.util
import json
import sys
from pathlib import Path

from absl import flags
from absl.testing import flagsaver

commands = [tuple(one) for one in json.loads(Path(sys.argv[1]).read_text())]
base = set(flags.FLAGS)
errors = {}
for module in sorted({module for module, *_ in commands}):
    for name in set(flags.FLAGS) - base:
        delattr(flags.FLAGS, name)
    for name in [one for one in sys.modules if one.startswith(("experiments", "benchmarks"))]:
        del sys.modules[name]
    is_package = importlib.util.find_spec(module).submodule_search_locations is not None
    importlib.import_module(f"{module}.__main__" if is_package else module)
    defaults = flagsaver.save_flag_values()
    for command in commands:
        if command[0] == module:
            try:
                rest = flags.FLAGS([module, *command[1:]])
                if rest[1:]:
                    errors[" ".join(command)] = f"not flags: {rest[1:]}"
            except flags.Error as error:
                errors[" ".join(command)] = str(error)
            flagsaver.restore_flag_values(defaults)
print(json.dumps(errors))
"""


def _read_by_bash(block: str) -> list[list[str]]:
    """Returns the commands that a block would run, as lists of words."""
    process = subprocess.run(
        ["bash", "--norc", "-c", f"{PRELUDE}\n{block}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    assert process.stderr == ""
    return [one.split("\037")[:-1] for one in process.stdout.split("\036")[:-1]]


def _commands(document: str) -> list[list[str]]:
    """Returns the commands of all blocks of Bash, and of code within sentences."""
    blocks = re.findall(r"^```bash\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`((?:\w+=\w+ )?python -m (?:experiments|benchmarks)[^`]*)`", text)
    on_one_line = [one.replace("\n", " ") for one in inline]
    return [command for block in [*blocks, *on_one_line] for command in _read_by_bash(block)]


def _refusals(commands: list[list[str]], tmp_path) -> dict[str, str]:
    """Returns what modules of the project say to flags that they refuse, by command."""
    listed = tmp_path / "commands.json"
    listed.write_text(json.dumps(commands))
    ended = run_program(PROGRAM, str(listed))
    assert ended.status == 0, ended.errors
    return json.loads(ended.output.splitlines()[-1])


def _of_modules(commands: list[list[str]]) -> list[list[str]]:
    """Returns module and flags of the commands that run a module of this project."""
    return [
        command[2:]
        for command in commands
        if command[:2] == ["python", "-m"] and command[2].startswith(("experiments", "benchmarks"))
    ]


COMMANDS = {name_of(path): _commands(path.read_text()) for path in DOCUMENTS}


@pytest.mark.slow
def test_modules_take_the_flags_of_every_command(tmp_path):
    commands = [one for found in COMMANDS.values() for one in _of_modules(found)]
    assert len(commands) > 50
    assert _refusals(commands, tmp_path) == {}


@pytest.mark.slow
def test_flags_that_do_not_exist_are_found(tmp_path):
    wrong = {
        "experiments.quadratic --no_such_flag=1": "Unknown command line flag 'no_such_flag'",
        "experiments.quadratic --variant=cubic": "should be one of <gaussian|",
        "experiments.quadratic results --output_dir=a": "not flags",
    }
    refusals = _refusals([one.split() for one in wrong], tmp_path)
    assert refusals.keys() == wrong.keys()
    for command, said in wrong.items():
        assert said in refusals[command]


@pytest.mark.parametrize("document", list(COMMANDS))
def test_other_programs_are_known(document):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for program, *words in COMMANDS[document]:
        if program == "make":
            assert {one for one in words if "=" not in one} <= targets
        elif program == "pip":
            for named in re.findall(r"\[(.*?)\]", " ".join(words)):
                assert set(named.split(",")) <= extras.keys()
        elif program == "python" and words[0] == "-m":
            assert importlib.util.find_spec(words[1]) is not None
        else:
            assert program in {"bash", "cp", "git", "pytest", "python", "rm", "saved_model_cli"}


def test_bash_reads_loops_and_variables_and_starts_nothing(tmp_path):
    block = """
    MINE="python -m experiments.quadratic --mode=train"
    for seed in 0 1; do
        $MINE --seed=$seed --output_dir="a folder"
    done
    rm -r folder  # not removed
    """
    common = ["python", "-m", "experiments.quadratic", "--mode=train"]
    assert _read_by_bash(block) == [
        [*common, "--seed=0", "--output_dir=a folder"],
        [*common, "--seed=1", "--output_dir=a folder"],
        ["rm", "-r", "folder"],
    ]
    file = tmp_path / "file"
    with pytest.raises(AssertionError, match="restricted"):
        _read_by_bash(f"touch {file}; /bin/touch {file}; echo > {file}")
    assert not file.exists()
