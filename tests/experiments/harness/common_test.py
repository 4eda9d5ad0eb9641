"""How an experiment ends when the machine fails it, and how it describes itself."""

import pytest

from tests.experiments.binaries import Ended, Fork

PROGRAM = """
import tensorflow as tf
from experiments.harness import common

def experiment(strategy):
    raise tf.errors.{error}(None, None, "{{{{node save}}}} /disk; No space left\\nat file.cc:1")

common.run(experiment)
"""


def _run(error: str) -> Ended:
    return Fork(PROGRAM.format(error=error), "--output_dir=unused").end()


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
    assert process.status == 1
    assert process.errors.splitlines()[-1] == sentence
    assert "Traceback" not in process.errors


@pytest.mark.slow
def test_a_programs_own_fault_shows_where_it_is():
    process = _run("InvalidArgumentError")
    assert process.status == 1
    assert "Traceback" in process.errors


def test_the_command_of_a_card_is_without_what_is_drawn_only():
    program = "from experiments.harness import common; print(common.origin('mnist')['command'])"
    flags = ["--rule=mine", "--reference_curves=../elsewhere/curves.json", "--seed=1"]
    process = Fork(program, *flags).end()
    assert process.output.strip() == "python -m experiments.mnist --rule=mine --seed=1"
