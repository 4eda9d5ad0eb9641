from pathlib import Path

import matplotlib.image
import pytest
from absl.testing import flagsaver

from experiments.general import report
from l2l_tf.files import strict_json
from tests.experiments.binaries import strict_json as read_strict_json
from tests.experiments.general.made_up import made_up_run, tuned_runs


def _report(**flags) -> None:
    report.FLAGS.mark_as_parsed()
    with flagsaver.flagsaver(**flags):
        report.main(None)


def _write(path: Path, runs: list) -> None:
    lines = [
        {
            **run.key._asdict(),
            "final_loss": run.final_loss,
            "test_loss": run.test_loss,
            "test_metric": run.test_metric,
            "steps": run.steps,
            "losses": run.losses,
            "num_parameters": run.num_parameters,
            "seconds_under_any_load": run.seconds,
        }
        for run in runs
    ]
    path.write_text("".join(strict_json(line, indent=None) for line in lines))


SUMMARY = """\
## Summary: geometric means of ratios of losses; test tasks, for finished rules

|  | tasks | / best of Adam, AdamW + cosine, NAG + cosine | / best tuned | / Muon + cosine | worst \
task / best of the three | test loss / the three's best | test loss / best tuned | test loss / \
Muon + cosine | steps to the three's final loss / horizon |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| **mine** | 1 | 0.5 | 0.5 | 2 | 0.5 mnist_vae | 1 | 1 | 1 | 0.5 (1 of 1 tasks) |
| adam | 1 | 2 | 2 |  | 2 mnist_vae | 1 | 1 |  | 1 (0 of 1 tasks) |
"""
LOSSES = """\
|  | **mine** | adam | adamw_cosine | nag_cosine | muon_cosine |
| --- | --- | --- | --- | --- | --- |
| mnist_conv | 2 |  |  |  | **1** |
| mnist_vae | **2** | 8 | 4 | 6 |  |
"""


def test_a_report_is_made_of_kept_runs(tmp_path, capsys):
    path = tmp_path / "kept.jsonl"
    runs = [
        made_up_run("mnist_vae", "mine", None, 0, [4.0, 2.0]),
        *tuned_runs("mnist_vae", "adam", [9.0, 8.0]),
        *tuned_runs("mnist_vae", "adamw_cosine", [9.0, 4.0]),
        *tuned_runs("mnist_vae", "nag_cosine", [9.0, 6.0]),
        made_up_run("mnist_conv", "mine", None, 0, [4.0, 2.0]),
        *tuned_runs("mnist_conv", "muon_cosine", [9.0, 1.0]),
        made_up_run("mnist_conv", "adam", 0.1, 0, [4.0, 2.0]),
    ]
    _write(path, runs)
    _report(split="test", num_seeds=1, kept_runs=[str(path)], output_dir=str(tmp_path))
    written = (tmp_path / "tables_test.md").read_text()
    assert written in capsys.readouterr().out
    assert SUMMARY in written
    assert LOSSES in written
    assert "| mnist_conv | adam |\n" in written
    assert "| mnist_conv | untuned |  |  |  | 0.01 of 5 |\n" in written
    for figure in ("profile_test.png", "losses_test.png"):
        assert matplotlib.image.imread(tmp_path / figure).size
    results = read_strict_json(tmp_path / "results_test.json")
    assert results["scores"]["mine"]["final_loss"]["to_muon"] == pytest.approx(2)


def test_losses_are_compared_at_equal_time(tmp_path):
    path, times = tmp_path / "kept.jsonl", tmp_path / "times.json"
    _write(
        path,
        [
            made_up_run("mnist_conv", "general", None, 0, [4.0, 2.0]),
            *tuned_runs("mnist_conv", "adam", [9.0, 8.0]),
        ],
    )
    optimizers = {
        name: {"median": 0.5 + (name == "general")} for name in ("adam", "muon", "general")
    }
    row = {"network": "mnist_conv", "compiler": "graph", "optimizers": optimizers}
    times.write_text(strict_json({"measurements": [row]}))
    kept = {"kept_runs": [str(path)], "output_dir": str(tmp_path)}
    _report(split="test", num_seeds=1, step_times=str(times), **kept)
    assert "| mnist_conv | 3.00, step 0, inf |\n" in (tmp_path / "tables_test.md").read_text()
    assert matplotlib.image.imread(tmp_path / "losses_by_time_test.png").size


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError) as error:
        _report(split="validation", num_seeds=2, output_dir=str(tmp_path))
    assert str(error.value) == (
        "--output_dir and --kept_runs must hold the runs of a contender on a task of the split. "
        f"Received: --output_dir={tmp_path} with --split=validation and --num_seeds=2, where none "
        "is complete. Evaluate first, or give the seeds that there are."
    )
