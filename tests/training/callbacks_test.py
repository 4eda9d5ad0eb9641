import re
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from l2l_tf.training.callbacks import MetaProgressBar, MetaTensorBoard

# What a run of two meta-epochs of three meta-steps shows its callbacks.
META_LOSSES = [[6.0, 3.0, 3.0], [2.0, 1.0, 0.0]]
VALIDATION_LOSSES = [1.5, 0.5]


def _run(callback: keras.callbacks.Callback, first_batch: int = 0, last_epoch: int = 1) -> None:
    """Calls a callback as a run does that begins with a meta-step of the first meta-epoch."""
    listeners = keras.callbacks.CallbackList([callback], epochs=2, steps=3)
    listeners.on_train_begin()
    for epoch, losses in enumerate(META_LOSSES[: last_epoch + 1]):
        listeners.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        for batch in range(first_batch, 3):
            logs = {
                "meta_loss": losses[batch],
                "meta_gradient_norm": 10 * losses[batch],
                "skipped_steps": 3 * epoch + batch,
            }
            listeners.on_train_batch_end(batch, logs)
        validation = {
            "validation_loss": VALIDATION_LOSSES[epoch],
            "best_validation_loss": min(VALIDATION_LOSSES[: epoch + 1]),
        }
        listeners.on_epoch_end(epoch, logs | validation)
        first_batch = 0
    listeners.on_train_end()


# The progress bar


def _shown(text: str) -> list[list[str]]:
    """Returns, for each line, what was shown on it in turn, without control characters."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = plain.removesuffix("\n").split("\n")
    return [[part for part in re.split("[\r\x08]+", line) if part.strip()] for line in lines]


def test_the_progress_bar_names_each_meta_epoch_and_counts_its_meta_steps(capsys):
    _run(MetaProgressBar())
    lines = _shown(capsys.readouterr().out)
    assert lines[::2] == [["Meta-epoch 1/2"], ["Meta-epoch 2/2"]]
    assert len(lines) == 4
    for line in lines[1::2]:
        # Keras leaves out what would come within 50 ms of what it showed last.
        assert line[0].startswith("1/3 ")
        assert line[-1].startswith("3/3 ")
        assert "/meta-step" in line[-1]


def test_the_progress_bar_tells_of_skipped_meta_steps_where_there_are_some(capsys):
    bar = MetaProgressBar()
    bar.set_params({"epochs": 1, "steps": 2})
    for num_skipped in (0, 1):
        bar.on_epoch_begin(0)
        bar.on_train_batch_end(0, {"meta_loss": 1.0, "skipped_steps": num_skipped})
        assert ("skipped_steps" in capsys.readouterr().out) == bool(num_skipped)


def test_the_progress_bar_averages_meta_losses_and_shows_the_latest_counts_and_validations(capsys):
    _run(MetaProgressBar())
    lines = _shown(capsys.readouterr().out)
    first, second = (dict(re.findall(r"(\w+): (\S+)", line[-1])) for line in lines[1::2])
    # Means of META_LOSSES, and of ten times those.
    assert first == {
        "meta_loss": "4.0000",
        "meta_gradient_norm": "40.0000",
        "skipped_steps": "2.0000",
        "validation_loss": "1.5000",
        "best_validation_loss": "1.5000",
    }
    assert second == {
        "meta_loss": "1.0000",
        "meta_gradient_norm": "10.0000",
        "skipped_steps": "5.0000",
        "validation_loss": "0.5000",
        "best_validation_loss": "0.5000",
    }


def test_the_progress_bar_of_a_resumed_run_begins_where_it_stopped(capsys):
    _run(MetaProgressBar(), first_batch=1, last_epoch=0)
    _, line = _shown(capsys.readouterr().out)
    assert line[0].startswith("2/3 ")
    assert line[-1].startswith("3/3 ")


def test_a_meta_epoch_of_which_only_the_validation_was_left_shows_it(capsys):
    _run(MetaProgressBar(), first_batch=3, last_epoch=0)
    _, line = _shown(capsys.readouterr().out)
    assert line[-1].startswith("3/3")
    assert "validation_loss: 1.5000" in line[-1]


# TensorBoard


def _events(folder: Path) -> list[tuple[str, int, float]]:
    """Returns tag, step and value of each scalar in a folder's event files, in order."""
    scalars = []
    files = sorted(str(file) for file in folder.glob("events.out.tfevents.*"))
    for record in tf.data.TFRecordDataset(files):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            assert value.metadata.plugin_data.plugin_name == "scalars"
            scalars.append((value.tag, event.step, float(tf.make_ndarray(value.tensor))))
    return scalars


@pytest.mark.parametrize("kind", [str, Path])
def test_tensorboard_sees_meta_steps_of_the_whole_run_and_validations_of_meta_epochs(
    tmp_path, kind
):
    _run(MetaTensorBoard(kind(tmp_path / "logs")))
    scalars = {}
    for tag, step, value in _events(tmp_path / "logs"):
        scalars.setdefault(tag, []).append((step, value))
    losses = [*META_LOSSES[0], *META_LOSSES[1]]
    assert scalars == {
        "meta_step/meta_loss": list(enumerate(losses)),
        "meta_step/meta_gradient_norm": [(step, 10 * loss) for step, loss in enumerate(losses)],
        "meta_step/skipped_steps": [(step, step) for step in range(6)],
        "meta_epoch/validation_loss": [(0, 1.5), (1, 0.5)],
        "meta_epoch/best_validation_loss": [(0, 1.5), (1, 0.5)],
    }


def test_a_resumed_run_writes_its_meta_steps_under_the_same_numbers(tmp_path):
    _run(MetaTensorBoard(tmp_path), first_batch=2, last_epoch=0)
    assert ("meta_step/meta_loss", 2, 3.0) in _events(tmp_path)
    assert {step for tag, step, _ in _events(tmp_path) if tag.startswith("meta_step")} == {2}


def test_a_stopped_run_has_written_its_meta_steps(tmp_path):
    board = MetaTensorBoard(tmp_path)
    listeners = keras.callbacks.CallbackList([board], epochs=2, steps=3)
    listeners.on_train_begin()
    listeners.on_epoch_begin(0)
    listeners.on_train_batch_end(0, {"meta_loss": 2.5})
    listeners.on_train_end()
    assert _events(tmp_path) == [("meta_step/meta_loss", 0, 2.5)]
