import errno
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.training.meta_checkpoint import MetaCheckpoint

FINGERPRINT = {"seed": 0, "lengths": (3, 1), "rule": {"units": [2]}}
DATA = "ckpt-2.data-00000-of-00001"


def _weights(value: float) -> list[tf.Variable]:
    return [tf.Variable(tf.fill([50], value)), tf.Variable(value)]


def _saved_twice(folder: Path) -> None:
    """Saves two checkpoints: of weights 1 after 10 steps, and of weights 2 after 20."""
    weights = _weights(1.0)
    checkpoint = MetaCheckpoint(folder, FINGERPRINT, weights=weights)
    checkpoint.save({"num_steps": 10}, [np.zeros([3])])
    for weight in weights:
        weight.assign(weight + 1)
    checkpoint.save({"num_steps": 20}, [np.ones([3]), np.array(7, np.int32)])


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    weights = _weights(5.0)
    assert MetaCheckpoint(tmp_path / "new", FINGERPRINT, weights=weights).restore() is None
    assert weights[1] == 5


def test_the_latest_checkpoint_comes_back_whole(tmp_path):
    _saved_twice(tmp_path)
    weights = _weights(5.0)
    progress, tensors = MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights).restore()
    assert progress == {"num_steps": 20}
    np.testing.assert_array_equal(weights[0], np.full([50], 2))
    assert weights[1] == 2
    np.testing.assert_array_equal(tensors[0], np.ones([3]))
    assert [tensor.dtype for tensor in tensors] == [np.float64, np.int32]
    assert tensors[1] == 7


def test_progress_keeps_numbers_as_they_were(tmp_path):
    progress = {"best": float("inf"), "tenth": 0.1, "third": 1 / 3, "many": 2**53 + 1}
    MetaCheckpoint(tmp_path, {}, weights=_weights(1.0)).save(progress, [])
    restored, tensors = MetaCheckpoint(tmp_path, {}, weights=_weights(0.0)).restore()
    assert restored == progress
    assert tensors == []


def test_two_checkpoints_are_kept(tmp_path):
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(1.0))
    for step in range(4):
        checkpoint.save({"step": step}, [])
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "ckpt-3.index",
        "ckpt-4.index",
    ]


def test_a_folder_that_was_moved_is_read_where_it_is(tmp_path):
    _saved_twice(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    progress, _ = MetaCheckpoint(tmp_path / "after", FINGERPRINT, weights=_weights(0.0)).restore()
    assert progress == {"num_steps": 20}


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    _saved_twice(tmp_path)
    before, weights = _contents(tmp_path), _weights(5.0)
    other = FINGERPRINT | {"seed": 1, "lengths": (3, 3), "new": None, "added": 2}
    with pytest.raises(ValueError) as raised:
        MetaCheckpoint(tmp_path, other, weights=weights).restore()
    assert str(raised.value) == (
        "A run must be resumed with the settings it was started with. "
        f"Received: checkpoint={str(tmp_path / 'ckpt-2')!r} of a run with "
        "{'added': None, 'lengths': [3, 1], 'seed': 0}, where this one has "
        "{'added': 2, 'lengths': [3, 3], 'seed': 1}. "
        "Repeat the command that started it, or choose another folder."
    )
    assert _contents(tmp_path) == before
    assert weights[1] == 5


def test_a_check_sees_the_counters_before_anything_is_restored(tmp_path):
    class RefusedError(Exception):
        pass

    def refuse(progress):
        seen.append(progress)
        raise RefusedError

    seen, weights = [], _weights(5.0)
    with pytest.raises(RefusedError):
        MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights).restore(check=refuse)
    _saved_twice(tmp_path)
    with pytest.raises(RefusedError):
        MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights).restore(check=refuse)
    assert seen == [{}, {"num_steps": 20}]
    assert weights[1] == 5


def test_that_a_worker_is_gone_while_all_restore_is_not_said_of_the_checkpoint(
    tmp_path, monkeypatch
):
    _saved_twice(tmp_path)
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0))
    gone = tf.errors.UnavailableError(None, None, "Connection reset by peer")

    def fail(*arguments, **options):
        raise gone

    monkeypatch.setattr(tf.train.Checkpoint, "restore", fail)
    with pytest.raises(tf.errors.UnavailableError) as raised:
        checkpoint.restore()
    assert raised.value is gone


def test_of_nested_settings_only_those_that_differ_are_named(tmp_path):
    theirs = {"optimizer": {"class": "Adam", "rate": {"initial": 0.1, "steps": 5}}}
    ours = {"optimizer": {"class": "Adam", "rate": {"initial": 0.1, "steps": 9}}}
    MetaCheckpoint(tmp_path, theirs, weights=_weights(1.0)).save({}, [])
    with pytest.raises(
        ValueError, match=r"with \{'optimizer\.rate\.steps': 5\}, where this one has"
    ):
        MetaCheckpoint(tmp_path, ours, weights=_weights(1.0)).restore()


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _corrupt(path: Path, position: int) -> None:
    contents = bytearray(path.read_bytes())
    contents[position] ^= 255
    path.write_bytes(contents)


# What is done to a checkpoint's files, and what TensorFlow says of it.
DAMAGES = {
    "index_cut": (lambda index, data: _truncate(index, 100), "not an sstable (bad magic number)."),
    "index_empty": (
        lambda index, data: _truncate(index, 0),
        "file is too short to be an sstable.",
    ),
    "index_gone": (
        lambda index, data: index.unlink(),
        "Unsuccessful TensorSliceReader constructor: Failed to find any matching files for ",
    ),
    "data_cut": (lambda index, data: _truncate(data, 100), "Read less bytes than requested."),
    "data_empty": (lambda index, data: _truncate(data, 0), "Read less bytes than requested."),
    "data_gone": (lambda index, data: data.unlink(), ""),
}


def _spoil(folder: Path, damage: str, *numbers: int) -> None:
    for number in numbers:
        names = (f"ckpt-{number}.index", f"ckpt-{number}.data-00000-of-00001")
        DAMAGES[damage][0](*(folder / name for name in names))


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_the_latest_checkpoint_is_damaged_the_run_goes_on_from_the_one_before(
    tmp_path, caplog, damage
):
    _saved_twice(tmp_path)
    for path in tmp_path.glob("ckpt-1.*"):
        os.utime(path, (1000, 1000))
    for path in tmp_path.glob("ckpt-2.*"):
        os.utime(path, (1060, 1060))
    _spoil(tmp_path, damage, 2)
    weights = _weights(5.0)
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights)
    progress, tensors = checkpoint.restore()
    assert progress == {"num_steps": 10}
    assert weights[1] == 1
    np.testing.assert_array_equal(tensors, [np.zeros([3])])
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(
        "The latest checkpoint must be whole. "
        f"Received: checkpoint={str(tmp_path / 'ckpt-2')!r}, {DAMAGES[damage][1]}"
    )
    assert " The run goes on from " + repr(str(tmp_path / "ckpt-1")) in message
    # What a damaged checkpoint has left says when it was written.
    later = "was written 60 seconds before; what it did after that, it does again."
    assert message.endswith(later)
    # It takes the place of the damaged one, and two are kept as ever.
    for step in (11, 12):
        checkpoint.save({"num_steps": step}, [])
        again = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(0.0)).restore()
        assert again[0] == {"num_steps": step}
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "ckpt-2.index",
        "ckpt-3.index",
    ]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_all_checkpoints_are_damaged_they_are_refused_and_left_as_they_are(tmp_path, damage):
    _saved_twice(tmp_path)
    _spoil(tmp_path, damage, 1, 2)
    before, weights = _contents(tmp_path), _weights(5.0)
    with pytest.raises(ValueError) as raised:
        MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights).restore()
    message = str(raised.value)
    assert message.startswith(
        "The latest checkpoint must be whole. "
        f"Received: checkpoint={str(tmp_path / 'ckpt-2')!r}, {DAMAGES[damage][1]}"
    )
    assert message.endswith(". Delete the folder to start anew, or choose another.")
    assert _contents(tmp_path) == before
    assert weights[1] == 5


def test_wherever_a_byte_is_wrong_the_checkpoint_is_not_restored(tmp_path):
    _saved_twice(tmp_path)
    whole = _contents(tmp_path)
    for position in range(0, len(whole[DATA]), 25):
        for name, contents in whole.items():
            (tmp_path / name).write_bytes(contents)
        _corrupt(tmp_path / DATA, position)
        weights = _weights(5.0)
        progress, _ = MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights).restore()
        assert progress == {"num_steps": 10}
        np.testing.assert_array_equal(weights[0], np.full([50], 1))


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "something_else"])
def test_without_a_list_of_checkpoints_the_run_goes_on_from_the_latest(tmp_path, caplog, damage):
    _saved_twice(tmp_path)
    listing = tmp_path / "checkpoint"
    if damage == "gone":
        listing.unlink()
    elif damage == "something_else":
        listing.write_bytes(bytes(range(256)))
    else:
        _truncate(listing, 0 if damage == "empty" else 30)
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0))
    assert checkpoint.restore()[0] == {"num_steps": 20}
    (record,) = caplog.records
    assert record.getMessage() == (
        "The list of checkpoints must be there, and whole. "
        f"Received: {str(listing)!r}, which is not. The run goes on from "
        f"{str(tmp_path / 'ckpt-2')!r}, the latest that is whole; what it did after that, if it "
        "did, it does again."
    )
    assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-2")
    checkpoint.save({"num_steps": 30}, [])
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "ckpt-2.index",
        "ckpt-3.index",
    ]


def test_a_list_of_checkpoints_that_are_all_gone_is_refused(tmp_path):
    _saved_twice(tmp_path)
    (tmp_path / "checkpoint").write_text("")
    for path in tmp_path.glob("ckpt-*"):
        path.unlink()
    with pytest.raises(ValueError) as raised:
        MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0)).restore()
    assert str(raised.value) == (
        "The latest checkpoint must be whole. "
        f"Received: checkpoint={str(tmp_path / 'checkpoint')!r}, none of what it should list is "
        "there. Delete the folder to start anew, or choose another."
    )


def _leave_what_a_kill_leaves(folder: Path, number: int) -> None:
    """Leaves what processes leave that are killed at different moments of a save."""
    folder.mkdir(exist_ok=True)
    (folder / f"ckpt-{number}_temp").mkdir()
    (folder / f"ckpt-{number}_temp" / "part-00000-of-00001.index").write_bytes(b"half")
    (folder / f"ckpt-{number}.data-00000-of-00001").write_bytes(b"all")
    (folder / f"ckpt-{number}.index").write_bytes(b"half")
    (folder / f"ckpt-{number}.index.tempstate123").write_bytes(b"half")
    (folder / "checkpoint.tmp0123abcd").write_bytes(b"half")


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path, caplog):
    _saved_twice(tmp_path)
    before = _contents(tmp_path)
    _leave_what_a_kill_leaves(tmp_path, 3)
    # From the moment before this one was removed.
    (tmp_path / "ckpt-0.index").write_bytes(b"old")
    (tmp_path / "notes.txt").write_text("mine")
    MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0), is_writer=False).restore()
    assert (tmp_path / "ckpt-3_temp").exists()
    found = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0)).restore()
    assert found[0] == {"num_steps": 20}
    assert _contents(tmp_path) == before | {"notes.txt": b"mine"}
    assert caplog.records == []


def test_a_run_that_was_killed_in_its_first_save_begins_anew(tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    _leave_what_a_kill_leaves(folder, 1)
    checkpoint = MetaCheckpoint(folder, FINGERPRINT, weights=_weights(5.0))
    assert checkpoint.restore() is None
    assert list(folder.iterdir()) == []
    checkpoint.save({"num_steps": 1}, [])
    again = MetaCheckpoint(folder, FINGERPRINT, weights=_weights(0.0)).restore()
    assert again[0] == {"num_steps": 1}
    assert caplog.records == []


def test_a_checkpoint_that_a_killed_process_did_not_come_to_list_is_gone_on_from(tmp_path, caplog):
    _saved_twice(tmp_path)
    listing = (tmp_path / "checkpoint").read_bytes()
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(3.0))
    checkpoint.restore()
    checkpoint.save({"num_steps": 30}, [])
    (tmp_path / "checkpoint").write_bytes(listing)
    again = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(0.0))
    assert again.restore()[0] == {"num_steps": 30}
    assert caplog.records == []
    assert tf.train.latest_checkpoint(tmp_path) == str(tmp_path / "ckpt-3")


def test_a_checkpoint_that_is_none_of_a_meta_training_run_is_refused(tmp_path):
    path = tf.train.CheckpointManager(
        tf.train.Checkpoint(weights=_weights(1.0)), tmp_path, max_to_keep=1
    ).save()
    with pytest.raises(ValueError) as raised:
        MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(5.0)).restore()
    assert str(raised.value) == (
        f"The latest checkpoint must be whole. Received: checkpoint={path!r}, "
        "'record/.ATTRIBUTES/py_state'. Delete the folder to start anew, or choose another."
    )


NO_SPACE = {
    "python": OSError(errno.ENOSPC, "No space left on device"),
    "tensorflow": tf.errors.ResourceExhaustedError(
        None, None, "{{function_node save}} No space left on device [Op:SaveV2]\nat ..."
    ),
}


@pytest.mark.parametrize("kind", NO_SPACE)
def test_on_a_full_disk_the_checkpoint_before_stays_and_the_error_says_so(
    tmp_path, monkeypatch, kind
):
    _saved_twice(tmp_path)
    before = _contents(tmp_path)
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(3.0))
    checkpoint.restore()

    def fail(*arguments, **options):
        raise NO_SPACE[kind]

    monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
    with pytest.raises(OSError) as raised:
        checkpoint.save({"num_steps": 30}, [])
    reason = {
        "python": "[Errno 28] No space left on device.",
        "tensorflow": "No space left on device.",
    }[kind]
    assert str(raised.value) == (
        f"A checkpoint must be writable. Received: folder={str(tmp_path)!r}, {reason} Make room or "
        "access there; the checkpoint before this one is whole, and the same command goes on from "
        "it."
    )
    assert _contents(tmp_path) == before


def test_where_the_first_checkpoint_cannot_be_written_the_error_says_that_there_is_none(
    tmp_path, monkeypatch
):
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(1.0))

    def fail(*arguments, **options):
        raise NO_SPACE["python"]

    monkeypatch.setattr(tf.train.CheckpointManager, "save", fail)
    with pytest.raises(OSError) as raised:
        checkpoint.save({"num_steps": 10}, [])
    assert str(raised.value).endswith(
        "Make room or access there; there is no checkpoint yet, so the same command begins anew."
    )


def test_where_no_more_can_be_written_the_checkpoint_before_stays(tmp_path):
    _saved_twice(tmp_path)
    checkpoint = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(3.0))
    checkpoint.restore()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # No file of this process may grow beyond 1000 bytes.
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"^A checkpoint must be writable\. "):
            checkpoint.save({"num_steps": 30}, [np.ones([1000])])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    weights = _weights(5.0)
    again = MetaCheckpoint(tmp_path, FINGERPRINT, weights=weights)
    assert again.restore()[0] == {"num_steps": 20}
    assert weights[1] == 2
    # And with room there, the next save is as any other.
    again.save({"num_steps": 40}, [])
    restored = MetaCheckpoint(tmp_path, FINGERPRINT, weights=_weights(0.0)).restore()
    assert restored[0] == {"num_steps": 40}


def test_a_folder_that_can_not_be_written_to_is_refused_before_anything_is_done(tmp_path):
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / "file" / "checkpoints"
    with pytest.raises(OSError) as raised:
        MetaCheckpoint(folder, FINGERPRINT, weights=_weights(1.0)).restore()
    assert str(raised.value) == (
        f"A checkpoint must be writable. Received: folder={str(folder)!r}, [Errno 20] Not a "
        f"directory: {str(folder)!r}. Make room or access there; there is no checkpoint yet, so "
        "the same command begins anew."
    )


def test_of_a_folder_that_is_removed_while_a_run_goes_on_no_checkpoint_is_said_to_be_left(tmp_path):
    folder = tmp_path / "checkpoints"
    _saved_twice(folder)
    checkpoint = MetaCheckpoint(folder, FINGERPRINT, weights=_weights(3.0))
    checkpoint.restore()
    shutil.rmtree(folder)
    folder.write_text("a file in its place")
    with pytest.raises(OSError) as raised:
        checkpoint.save({"num_steps": 30}, [])
    assert str(raised.value).startswith(
        f"A checkpoint must be writable. Received: folder={str(folder)!r}, "
    )
    assert str(raised.value).endswith(
        "; the checkpoints that were there are gone, so the same command begins anew."
    )
