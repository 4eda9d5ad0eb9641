"""Runs of `python -m experiments.quadratic` on two devices, and on two workers of this machine.

Tests share runs: fixtures make them, and many tests check them. All runs are forks of a process
that has imported TensorFlow and not yet used it, because the import takes longest.
"""

import dataclasses
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from l2l_tf.delivery.export import load_card
from tests.experiments.binaries import Ended, Fork, run_fork, start_fork

pytestmark = pytest.mark.slow

NUM_META_EPOCHS, NUM_TRAJECTORIES = 5, 10
# 100 meta-steps, with a checkpoint every few of them, most in the middle of a trajectory. Two
# workers can't share three validation tasks.
COMMAND = (
    "--mode=train",
    "--num_steps=20",
    "--unroll_length=2",
    f"--num_meta_epochs={NUM_META_EPOCHS}",
    "--trajectories_per_meta_epoch=2",
    "--tasks_per_meta_step=2",
    "--num_validation_tasks=3",
    "--num_functions=3",
    "--num_dimensions=2",
    "--initial_stddev=1",
    "--units=3",
    "--seed=5",
    "--checkpoint_seconds=0.1",
)
# Of some seconds: a worker that waits for another one for ever should fail a test.
TIMEOUT = 300


def _start_workers(*folders: Path) -> list[Fork]:
    """Starts the command on a worker for each folder; the first is the chief."""
    sockets = [socket.create_server(("localhost", 0)) for _ in folders]
    hosts = [f"localhost:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    workers = []
    for index, folder in enumerate(folders):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": hosts}, "task": task})
        arguments = [*COMMAND, "--strategy=multi_worker", f"--output_dir={folder}"]
        workers.append(start_fork("quadratic", *arguments, TF_CONFIG=cluster))
    return workers


def _weights(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "rule" / "weights.npz") as archive:
        return dict(archive)


def _last_sentence(errors: str) -> str:
    """Returns the end of standard error, after what TensorFlow's C++ says of the network."""
    assert "Traceback" not in errors, errors
    return errors.splitlines()[-1]


# The same weights everywhere


@pytest.fixture(scope="module")
def one_process(tmp_path_factory) -> dict[str, Path]:
    """By strategy, the folder of a run in one process."""
    root = tmp_path_factory.mktemp("one_process")
    flags = {"default": [], "mirrored": ["--strategy=mirrored", "--logical_cpus=2"]}
    forks = {
        name: start_fork("quadratic", *COMMAND, *own, f"--output_dir={root / name}")
        for name, own in flags.items()
    }
    for fork in forks.values():
        run = fork.end(TIMEOUT)
        assert run.status == 0, run.errors
    return {name: root / name for name in flags}


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> tuple[list[Ended], list[Path]]:
    """How two workers ended that nobody stopped, and the folder that each was given."""
    root = tmp_path_factory.mktemp("workers")
    folders = [root / "chief", root / "other"]
    return [worker.end(TIMEOUT) for worker in _start_workers(*folders)], folders


@pytest.mark.parametrize("kind", ["two_devices", "two_workers"])
def test_with_the_same_tasks_the_weights_are_those_of_one_device(one_process, workers, kind):
    ours = _weights(one_process["mirrored"] if kind == "two_devices" else workers[1][0])
    theirs = _weights(one_process["default"])
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        # Sums of float32 in another order: 1.4e-7 of the largest, after 100 meta-steps.
        largest = np.abs(weight).max()
        np.testing.assert_allclose(ours[name], weight, rtol=0, atol=1e-5 * largest, err_msg=name)
        # A new rule's output weights are zero.
        assert largest > 1e-3


def test_workers_that_nobody_stopped_end_well_and_say_nothing_on_standard_error(workers):
    for run in workers[0]:
        assert run.status == 0, run.errors
        noise = re.compile(r"WARNING: All log messages|[IWE]0000 |/job:worker/replica:0/task:")
        assert [line for line in run.errors.splitlines() if not noise.match(line)] == []


def test_the_chief_alone_shows_progress(workers):
    (chief, other), folders = workers
    for epoch in range(1, NUM_META_EPOCHS + 1):
        assert f"Meta-epoch {epoch}/{NUM_META_EPOCHS}" in chief.output
    assert chief.output.splitlines()[-1].endswith(f" to {folders[0] / 'rule'}")
    assert other.output == ""


def test_the_chief_alone_writes_files(workers):
    chief, other = workers[1]
    assert sorted(os.listdir(chief)) == ["checkpoints", "logs", "rule", "train_flags.txt"]
    assert [path for path in other.rglob("*") if path.is_file()] == []


def test_the_card_tells_how_many_replicas_there_were(one_process, workers):
    folders = [one_process["default"], one_process["mirrored"], workers[1][0]]
    cards = [load_card(folder / "rule")["training"] for folder in folders]
    assert [card["num_replicas"] for card in cards] == [1, 2, 2]
    assert [card["progress"]["num_trajectories"] for card in cards] == [NUM_TRAJECTORIES] * 3


def test_workers_that_do_not_see_the_same_folder_are_refused(workers, tmp_path):
    # The chief alone finds the checkpoint of the run that it wrote.
    runs = [worker.end(TIMEOUT) for worker in _start_workers(*workers[1])]
    for run, num_trajectories in zip(runs, (NUM_TRAJECTORIES, 0), strict=True):
        assert run.status == 1
        assert _last_sentence(run.errors) == (
            "error: checkpoint_dir must be one folder for all processes. Received: "
            f"{num_trajectories} trajectories in this process's folder, another number elsewhere. "
            "Use a file system that all hosts share."
        )


# Stopping and going on

# What happens to a run of two workers, one after the other: a signal, and who gets it.
INTERRUPTIONS = {
    "sigterm_to_the_chief": (signal.SIGTERM, 0),
    "sigkill_to_the_other": (signal.SIGKILL, 1),
    "sigterm_to_the_other": (signal.SIGTERM, 1),
    "sigkill_to_the_chief": (signal.SIGKILL, 0),
}


@dataclasses.dataclass
class Interrupted:
    """A run that was interrupted again and again.

    Attributes:
        folder: its output.
        runs: how its two workers ended, by interruption, and at last.
        checkpoints: the number of its latest checkpoint after each.
    """

    folder: Path
    runs: dict[str, list[Ended]]
    checkpoints: dict[str, int]

    def latest(self) -> int:
        """Returns the number of the latest checkpoint, 0 without one."""
        listing = self.folder / "checkpoints" / "checkpoint"
        if not listing.exists():
            return 0
        return int(
            re.search(r'^model_checkpoint_path: "ckpt-(\d+)"$', listing.read_text(), re.M)[1]
        )


def _wait_until(condition: Callable[[], bool], workers: list[Fork]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert not any(worker.has_ended() for worker in workers), [w.end(TIMEOUT) for w in workers]
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    record = Interrupted(folder, {}, {})
    for name, (number, victim) in INTERRUPTIONS.items():
        before = record.latest()
        workers = _start_workers(folder, folder)
        # After some checkpoints of its own, so that each goes on from the one before.
        _wait_until(lambda before=before: record.latest() >= before + 2, workers)
        os.kill(workers[victim].pid, number)
        record.runs[name] = [worker.end(TIMEOUT) for worker in workers]
        record.checkpoints[name] = record.latest()
    record.runs["end"] = [worker.end(TIMEOUT) for worker in _start_workers(folder, folder)]
    record.checkpoints["end"] = record.latest()
    return record


def _interruptions(number: signal.Signals) -> list[str]:
    return [name for name, (own, _) in INTERRUPTIONS.items() if own == number]


@pytest.mark.parametrize("name", _interruptions(signal.SIGTERM))
def test_sigterm_to_one_worker_stops_all_of_them_with_a_checkpoint(interrupted, name):
    for run in interrupted.runs[name]:
        assert run.status == 128 + signal.SIGTERM, run.errors
        assert "Traceback" not in run.errors
        said = re.fullmatch(
            r"Stopped after (\d+) trajectories; the same command goes on from here.",
            run.output.splitlines()[-1],
        )
        assert int(said[1]) < NUM_TRAJECTORIES


@pytest.mark.parametrize("name", _interruptions(signal.SIGKILL))
def test_when_a_worker_dies_the_other_one_ends_with_one_sentence(interrupted, name):
    _, victim = INTERRUPTIONS[name]
    dead, survivor = interrupted.runs[name][victim], interrupted.runs[name][1 - victim]
    assert dead.status == -signal.SIGKILL
    assert survivor.status == 1
    assert re.fullmatch(
        r"error: All workers must stay reachable\. Received: [^.].*[^.]\. Give the same command on "
        r"every host again; it goes on from the last checkpoint\.",
        _last_sentence(survivor.errors),
    )
    assert "Wrote the rule" not in survivor.output


def test_each_time_the_same_command_went_on_from_the_last_checkpoint(interrupted):
    for run in interrupted.runs["end"]:
        assert run.status == 0, run.errors
    # Of a run that began anew, the first checkpoint would have been number 1 again.
    numbers = list(interrupted.checkpoints.values())
    assert all(after >= before + 2 for before, after in zip([0, *numbers], numbers, strict=False))
    stops = [
        int(re.search(r"Stopped after (\d+) trajectories", interrupted.runs[name][0].output)[1])
        for name in _interruptions(signal.SIGTERM)
    ]
    assert stops == sorted(stops)


def test_a_run_that_was_stopped_and_killed_ends_with_the_weights_of_one_that_was_not(
    interrupted, workers
):
    whole = workers[1][0]
    ours, theirs = _weights(interrupted.folder), _weights(whole)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        np.testing.assert_array_equal(weight, theirs[name], err_msg=name)
    progress = [
        load_card(folder / "rule")["training"]["progress"] | {"seconds": 0}
        for folder in (interrupted.folder, whole)
    ]
    assert progress[0] == progress[1]


# Wrong clusters

BROKEN_CLUSTERS = {
    "empty": "",
    "no_json": "host0:5000",
    "no_cluster": '{"task": {"type": "worker", "index": 0}}',
    "no_task": '{"cluster": {"worker": ["host0:5000"]}}',
    "unknown_type": '{"cluster": {"worker": ["host0:5000"]}, "task": {"type": "ps", "index": 0}}',
    "unknown_index": (
        '{"cluster": {"worker": ["host0:5000"]}, "task": {"type": "worker", "index": 1}}'
    ),
    "index_in_words": (
        '{"cluster": {"worker": ["host0:5000"]}, "task": {"type": "worker", "index": "0"}}'
    ),
    "no_index": '{"cluster": {"worker": ["host0:5000"]}, "task": {"type": "worker"}}',
}


@pytest.mark.parametrize("case", [None, *BROKEN_CLUSTERS], ids=str)
def test_a_cluster_that_is_not_told_whole_is_answered_with_one_sentence(tmp_path, case):
    cluster = BROKEN_CLUSTERS.get(case, "")
    environment = {} if case is None else {"TF_CONFIG": cluster}
    arguments = [*COMMAND, "--strategy=multi_worker", f"--output_dir={tmp_path / 'run'}"]
    run = run_fork("quadratic", *arguments, **environment)
    assert run.status == 1
    assert _last_sentence(run.errors) == (
        "error: --strategy=multi_worker must find the cluster in the environment variable "
        f"TF_CONFIG. Received: TF_CONFIG={cluster!r}. Give, say, "
        '\'{"cluster": {"worker": ["host0:5000", "host1:5000"]}, '
        '"task": {"type": "worker", "index": 0}}\', with another index on each host.'
    )
    assert not (tmp_path / "run").exists()
