"""How an experiment ends when the machine fails it, and how it describes itself."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import tensorflow as tf
from experiments.harness import common

def experiment(strategy):
    raise tf.errors.{error}(None, None, "{{{{node save}}}} /disk; No space left\\nat file.cc:1")

common.run(experiment)
"""


def _run(error: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(error=error), "--output_dir=unused"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            "ResourceExhaustedError",
            "error: There must be memory, and space on the disk, for the run. Received: /disk; No "
            "space left. Free some, or run fewer tasks at once; the same command goes on from the "
            "last checkpoint.",
        ),
        (
            "UnknownError",
            "error: TensorFlow must be able to use this machine's files and ports. Received: "
            "/disk; No space left. Look whether the disk is full or the port of this worker in "
            "TF_CONFIG is taken.",
        ),
    ],
)
def test_what_is_not_a_programs_fault_ends_it_with_one_sentence(error, sentence):
    process = _run(error)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == sentence
    assert "Traceback" not in process.stderr


@pytest.mark.slow
def test_a_programs_own_fault_shows_where_it_is():
    process = _run("InvalidArgumentError")
    assert process.returncode == 1
    assert "Traceback" in process.stderr


def test_the_command_of_a_card_is_without_what_is_drawn_only():
    program = "from experiments.harness import common; print(common.origin('mnist')['command'])"
    flags = ["--rule=mine", "--reference_curves=../elsewhere/curves.json", "--seed=1"]
    command = [sys.executable, "-c", program, *flags]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "python -m experiments.mnist --rule=mine --seed=1"
