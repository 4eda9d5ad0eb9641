"""Runs of `python -m experiments.style`, with a network of random weights.

TensorFlow takes seconds to start, so tests share runs: a fixture makes one, and many tests check
it.
"""

import json
import re
import shutil
from pathlib import Path

import keras
import matplotlib.image
import numpy as np
import pytest

from l2l_tf.data.photos import (
    bundled_photos,
    read_image,
    with_longer_side,
    with_shorter_side,
    write_image,
)
from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.problems.feature_networks import feature_model
from tests.experiments.binaries import Refusal, refusals, run, run_as_users_do, strict_json

pytestmark = pytest.mark.slow

NETWORK = (
    "--network=squeezenet",
    "--squeezenet_weights=random",
    "--content_layers=fire3",
    "--style_layers=conv1:0.25,fire2:0.75",
)
SETTINGS = (
    *NETWORK,
    "--image_size=32",
    "--num_steps=4",
    "--num_tasks=3",
    "--num_tuning_tasks=1",
    "--baselines=adam",
    "--num_pictures=2",
)
TRAINING = (
    "--unroll_length=2",
    "--num_meta_epochs=1",
    "--trajectories_per_meta_epoch=2",
    "--num_validation_tasks=1",
    "--units=3",
    # For deltas of more than a grey level, after so little training.
    "--meta_learning_rate=0.2",
)
TABLES = ("results.json", "results_new_style.json")
CURVE = {"step": [10.0, 128.0], "loss": [8.0, 4.0]}
CURVES = {
    f"fig8_art_{name}_relative": {"LSTM": {**CURVE, "loss": [6.0, 2.0]}, "ADAM": CURVE}
    for name in ("train", "double")
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a run that trained and evaluated on what comes with scikit-learn."""
    folder = tmp_path_factory.mktemp("trained")
    photo = bundled_photos()[0][0]
    write_image(folder / "painting.png", np.ascontiguousarray(photo[:, ::-1]))
    run_as_users_do(
        "style",
        *SETTINGS,
        *TRAINING,
        f"--new_style_image={folder / 'painting.png'}",
        f"--output_dir={folder / 'run'}",
    )
    return folder / "run"


def test_the_rule_is_the_papers_for_pictures(trained):
    rule, card = load_rule(trained / "rule"), load_card(trained / "rule")
    assert (rule.preprocessing, rule.output_scale) == ("log_and_sign", 1.0)
    assert card["name"] == "style_lstm"
    assert card["training"]["problem"] == "style_squeezenet_32x32"
    assert np.abs(rule.get_weights()[-2]).max() > 0


def test_training_validation_and_tests_are_of_photos_that_they_do_not_share(trained):
    training = load_card(trained / "rule")["training"]
    configs = [training["problem_config"], training["validation_problem_config"]]
    configs += [strict_json(trained / table)["problem_config"] for table in TABLES]
    assert [config["photos"]["count"] for config in configs] == [3, 1, 2, 2]
    digests = [config["photos"]["sha256"] for config in configs]
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]
    assert configs[2]["style_layers"] == {"conv1": 0.25, "fire2": 0.75}
    assert configs[2]["content_layers"] == {"fire3": 1.0}


def test_the_second_table_is_of_another_painting_at_twice_the_size(trained):
    first, second = (strict_json(trained / table) for table in TABLES)
    assert (first["part"], second["part"]) == ("training style", "new style")
    assert first["problem_config"]["image_size"] == [32, 32]
    assert second["problem_config"]["image_size"] == [64, 64]
    assert second["problem_config"]["style"]["shape"] == [64, 64, 3]
    styles = [one["problem_config"]["style"]["sha256"] for one in (first, second)]
    assert styles[0] != styles[1]


def test_baselines_are_tuned_for_each_table_on_its_own_painting_and_size(trained):
    searches = [strict_json(trained / table)["rows"][1]["tuning"] for table in TABLES]
    assert all(len(search["learning_rates"]) == 29 for search in searches)
    assert searches[0]["final_losses"] != searches[1]["final_losses"]


def test_figure_9_has_for_each_crop_its_content_its_results_and_the_style(trained):
    for part, side in (("training_style", 32), ("new_style", 64)):
        folder = trained / "pictures" / part
        names = [
            f"{i}_{name}.png" for i in (0, 1) for name in ("adam", "content", "style", "style_lstm")
        ]
        assert sorted(path.name for path in folder.iterdir()) == names
        content, adam, style = (
            read_image(folder / f"0_{name}.png") for name in ("content", "adam", "style")
        )
        assert content.shape == adam.shape == (side, side, 3)
        assert (content != adam).any()
        assert min(style.shape[:2]) == side
        assert matplotlib.image.imread(trained / f"figure9_{part}.png").std() > 0.05
    painting = read_image(trained.parent / "painting.png")
    np.testing.assert_array_equal(style, with_shorter_side(painting, 64))


def test_losses_of_the_pictures_that_are_written_are_in_the_tables(trained):
    for table in TABLES:
        learned, adam = strict_json(trained / table)["rows"]
        # Rounding to grey levels and clipping change little after steps as small as these.
        assert learned["clipped_loss"] == pytest.approx(learned["final_loss"], rel=0.1)
        assert learned["clipped_loss"] != learned["final_loss"]
        assert 0 < adam["clipped_loss"] < np.inf
        assert adam["clipped_loss"] != adam["final_loss"]


def test_figure_8_is_of_both_tables(trained):
    image = matplotlib.image.imread(trained / "figure8.png")
    # Two panels.
    assert image.shape[1] > 1.5 * image.shape[0]
    assert image.std() > 0.05


def test_figure_8_can_be_drawn_of_tables_that_were_written_apart(trained, tmp_path):
    files = ",".join(str(trained / table) for table in TABLES)
    run("style.report", f"--results={files}", f"--output_dir={tmp_path}")
    drawn = [matplotlib.image.imread(folder / "figure8.png") for folder in (trained, tmp_path)]
    np.testing.assert_array_equal(*drawn)


REFERENCES_RULE = (
    "error: --reference_curves must go with 128 steps on pictures of 64 x 64 pixels, and then of "
    "128 x 128, as in the paper's figure 8. Received: "
)
# What `style.report` is given, and what it says.
RESULTS_RULE = (
    "error: --results must be files that an evaluation of experiments.style has written. "
    "Received: --results=@/other.json, where "
)
REPORT_CASES = {
    "no_results": (
        [],
        "error: --results must be one file or two. Received: --results=. Name the results.json of "
        "an evaluation of experiments.style, and that of another painting and size.",
    ),
    "no_file": (
        ["--results=@/other.json"],
        RESULTS_RULE + "FileNotFoundError(2, 'No such file or directory'). Check the path.",
    ),
    "another_experiment": (
        ["--results=@/other.json"],
        RESULTS_RULE + "KeyError('image_size'). Check the path.",
    ),
    "curves_of_another_size": (
        ["--results=@/128_32.json", "--reference_curves=@/curves.json"],
        REFERENCES_RULE + "num_steps=128 with sides=[32]. Leave out the one or the other.",
    ),
    "curves_of_another_second_size": (
        ["--results=@/128_64.json,@/128_32.json", "--reference_curves=@/curves.json"],
        REFERENCES_RULE + "num_steps=128 with sides=[64, 32]. Leave out the one or the other.",
    ),
    "curves_of_another_horizon": (
        ["--results=@/128_64.json,@/100_128.json", "--reference_curves=@/curves.json"],
        REFERENCES_RULE + "num_steps=100 with sides=[64, 128]. Leave out the one or the other.",
    ),
}


def test_figure_8_is_refused_where_there_are_no_tables_for_it(tmp_path):
    folders = {case: tmp_path / case for case in REPORT_CASES}
    for folder in folders.values():
        folder.mkdir()
        (folder / "curves.json").write_text(json.dumps(CURVES))
        for num_steps, side in ((128, 32), (128, 64), (100, 128)):
            config = {"image_size": [side, side]}
            results = {"num_steps": num_steps, "problem_config": config, "rows": []}
            (folder / f"{num_steps}_{side}.json").write_text(json.dumps(results))
    results = {"problem_config": {"variant": "uniform"}, "num_steps": 4}
    (folders["another_experiment"] / "other.json").write_text(json.dumps(results))
    arguments = {case: [*own, "--output_dir=@"] for case, (own, _) in REPORT_CASES.items()}
    for case, refusal in refusals("style.report", folders, arguments).items():
        assert refusal.errors == REPORT_CASES[case][1].replace("@", str(folders[case]))
        assert refusal.status == 1
        assert refusal.unchanged


# One photo


@pytest.fixture(scope="module")
def applied(trained) -> tuple[Path, str]:
    """A styled photo of another shape, and what was printed."""
    photo = trained.parent / "photo.png"
    write_image(photo, np.ascontiguousarray(bundled_photos()[0][1][:90, :135]))
    output = trained.parent / "styled" / "styled.png"
    printed = run(
        "style",
        "--mode=apply",
        f"--content={photo}",
        f"--style_image={trained.parent / 'painting.png'}",
        f"--rule={trained / 'rule'}",
        "--squeezenet_weights=random",
        "--num_steps=6",
        "--max_side=67",
        f"--output={output}",
    )
    return output, printed


@pytest.mark.slow
def test_a_rule_that_must_know_the_number_of_steps_moves_to_the_end(applied, trained, tmp_path):
    printed = run(
        "style",
        "--mode=apply",
        f"--content={trained.parent / 'photo.png'}",
        f"--style_image={trained.parent / 'painting.png'}",
        "--rule=general",
        "--network=squeezenet",
        "--squeezenet_weights=random",
        "--num_steps=6",
        "--max_side=67",
        f"--output={tmp_path / 'styled.png'}",
    )
    (_, first), *_, (_, last) = re.findall(r"(\d)/6.*? - loss: ([\d.]+)", printed)
    assert float(last) != float(first)


def test_a_photo_of_any_size_is_styled_with_a_saved_rule(applied, trained):
    picture = read_image(applied[0])
    photo = with_longer_side(read_image(trained.parent / "photo.png"), 67)
    assert picture.shape == photo.shape == (45, 67, 3)
    assert (picture != photo).any()


def test_the_loss_is_printed_as_it_falls_and_of_the_picture_that_is_written(applied):
    steps = re.findall(r"(\d)/6.*? - loss: ([\d.]+)", applied[1])
    # The bar leaves out what comes within a twentieth of a second.
    assert (steps[0][0], steps[-1][0]) == ("1", "6")
    before, after, of_file = map(
        float,
        re.search(
            r"Loss ([\d.]+) before, ([\d.]+) after 6 steps, ([\d.]+) once", applied[1]
        ).groups(),
    )
    assert after == pytest.approx(float(steps[-1][1]), rel=1e-3)
    assert after != before
    # Rounding to grey levels and clipping change little after so few steps.
    assert of_file == pytest.approx(after, rel=0.1)


# Wrong flags

APPLY = ("--mode=apply", "--content=@/photo.png", "--style_image=@/photo.png", "--output=@/out.png")
# Arguments and what is said of them; @ is the case's folder.
CASES = {
    "content_without_style": (
        [*SETTINGS, "--output_dir=@/out", "--content_dir=@"],
        "error: --content_dir and --style_image must be given together, or left out for photos "
        "that come with scikit-learn. Received: --content_dir=@, --style_image=None. Name a folder "
        "of photos and a painting.",
    ),
    "missing_style": (
        [*SETTINGS, "--output_dir=@/out", "--content_dir=@", "--style_image=@/no.jpg"],
        "error: A picture must be an existing file. Received: '@/no.jpg', which is no file. "
        "Check the path.",
    ),
    "too_few_photos": (
        [*SETTINGS, "--output_dir=@/out", "--content_dir=@", "--style_image=@/photo.png"],
        "error: photos must be three or more, for one each to train, choose and test on. "
        "Received: 1 photos. Add some to the folder.",
    ),
    "no_weights": (
        ["--network=squeezenet", "--output_dir=@/out"],
        "error: --squeezenet_weights must go with --network=squeezenet, whose weights Keras does "
        "not know. Received: --squeezenet_weights=None. Name a file of them, or random for a "
        "demonstration.",
    ),
    "weights_of_another_network": (
        ["--network=squeezenet", "--squeezenet_weights=@/dense.weights.h5", "--output_dir=@/out"],
        "error: weights must be an HDF5 file (.h5) of the convolutions of squeezenet, in Keras's "
        "order. Received: weights='@/dense.weights.h5', which is of another network or none. Name "
        "another, or choose the network that it is of.",
    ),
    "weight_in_words": (
        [*SETTINGS, "--style_layers=conv1:much", "--output_dir=@/out"],
        "error: --style_layers must be names of layers, or name:weight. Received: "
        "--style_layers=conv1:much. Give, say, block1_conv1:0.5,block2_conv1:0.5.",
    ),
    "crops_larger_than_photos": (
        [*SETTINGS, "--image_size=256", "--output_dir=@/out"],
        "error: photos must be as large as image_size, at least. Received: a photo of 213 x 213 "
        "pixels with image_size=(256, 256). Give larger photos, or a smaller size.",
    ),
    "curves_of_another_size": (
        [*SETTINGS, "--reference_curves=@/curves.json", "--output_dir=@/out"],
        REFERENCES_RULE + "num_steps=4 with sides=[32]. Leave out the one or the other.",
    ),
    "output_without_apply": (
        [*SETTINGS, "--output=@/out.png", "--output_dir=@/out"],
        "error: --content and --output must go with --mode=apply. Received: --output=@/out.png "
        "with --mode=train_and_evaluate. Leave the one or the other out; training takes its photos "
        "from --content_dir.",
    ),
    "apply_to_nothing": (
        ["--mode=apply", "--output=@/out.png"],
        "error: --mode=apply must have --content, the photo, --style_image, the painting, and "
        "--output, the picture to write. Received: no --content, --style_image. Name files.",
    ),
    "output_of_no_format": (
        [*APPLY, "--output=@/out.txt"],
        "error: --output must end in one of .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp. "
        "Received: --output=@/out.txt. Choose .png, which keeps every pixel.",
    ),
    "two_rules": (
        [*APPLY, "--rule=a,b"],
        "error: --rule must name one rule to apply. Received: --rule=a,b. Apply them one after the "
        "other.",
    ),
    "tiny_photo": (
        [*APPLY, "--rule=@/rule", "--content=@/tiny.png"],
        "error: A picture's sides must be of 32 to 4096 pixels. Received: '@/tiny.png', of 20 x 64 "
        "pixels. Take a larger one.",
    ),
    "huge_photo": (
        [*APPLY, "--rule=@/rule", "--content=@/huge.png"],
        "error: A picture's sides must be of 32 to 4096 pixels. Received: '@/huge.png', of 40 x "
        "4100 pixels. Shrink it before.",
    ),
    "photo_too_thin_to_be_shrunk": (
        [*APPLY, "--rule=@/rule", "--content=@/thin.png", "--max_side=96"],
        "error: --max_side must leave the photo's shorter side 32 pixels, at least. Received: "
        "--max_side=96 with a photo of 40 x 400 pixels. Give more.",
    ),
    "apply_without_painting": (
        [*APPLY, "--rule=@/rule", "--style_image=@/no.jpg"],
        "error: A picture must be an existing file. Received: '@/no.jpg', which is no file. "
        "Check the path.",
    ),
    "apply_to_file_as_folder": (
        [*APPLY, "--rule=@/rule", "--output=@/photo.png/out.png"],
        "error: --output must be a path where a file can be written. Received: "
        "--output=@/photo.png/out.png, where File exists. Choose another path.",
    ),
    "output_over_photo": (
        [*APPLY, "--rule=@/rule", "--output=@/rule/../photo.png", "--style_image=@/tiny.png"],
        "error: --output must be another file than --content. Received: "
        "--output=@/rule/../photo.png with --content=@/photo.png, which would be lost. Choose "
        "another name.",
    ),
    "output_over_painting": (
        [*APPLY, "--rule=@/rule", "--content=@/tiny.png", "--output=@/link.png"],
        "error: --output must be another file than --style_image. Received: --output=@/link.png "
        "with --style_image=@/photo.png, which would be lost. Choose another name.",
    ),
    "apply_to_a_folder": (
        [*APPLY, "--rule=@/rule", "--output=@/folder.png"],
        "error: --output must be a path where a file can be written. Received: "
        "--output=@/folder.png, where Is a directory. Choose another path.",
    ),
    "apply_with_a_folder_of_results": (
        [*APPLY, "--rule=@/rule", "--output_dir=@/out"],
        "error: --output_dir must be left out with --mode=apply, which writes one file. Received: "
        "--output_dir=@/out with --output=@/out.png. Name the folder in --output.",
    ),
    "weights_of_the_other_network": (
        [*SETTINGS, "--squeezenet_weights=@/vgg19.weights.h5", "--output_dir=@/out"],
        "error: weights must be an HDF5 file (.h5) of the convolutions of squeezenet, in Keras's "
        "order. Received: weights='@/vgg19.weights.h5', which is of another network or none. Name "
        "another, or choose the network that it is of.",
    ),
    "photo_that_is_text": (
        [*APPLY, "--rule=@/rule", "--content=@/text.jpg"],
        "error: A picture must be an image file, such as a JPEG or PNG, of at most 4096 x 4096 "
        "pixels. Received: '@/text.jpg', which can't be read as one. Save it anew, and smaller if "
        "it is large, by a program that shows it.",
    ),
}


@pytest.fixture(scope="module")
def refused(trained, tmp_path_factory) -> dict[str, Refusal]:
    root = tmp_path_factory.mktemp("refused")
    folders = {name: root / name for name in CASES}
    dense = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
    for folder in folders.values():
        shutil.copytree(trained / "rule", folder / "rule")
        write_image(folder / "photo.png", np.zeros((64, 64, 3), np.uint8))
        (folder / "curves.json").write_text(json.dumps(CURVES))
    (folders["output_over_painting"] / "link.png").symlink_to("photo.png")
    (folders["apply_to_a_folder"] / "folder.png").mkdir()
    write_image(folders["tiny_photo"] / "tiny.png", np.zeros((20, 64, 3), np.uint8))
    write_image(folders["huge_photo"] / "huge.png", np.zeros((40, 4100, 3), np.uint8))
    write_image(
        folders["photo_too_thin_to_be_shrunk"] / "thin.png", np.zeros((40, 400, 3), np.uint8)
    )
    # The first layers of VGG19, whose names a file of another network lacks.
    vgg19 = feature_model("vgg19", ["block2_conv1"], "random")
    vgg19.save_weights(folders["weights_of_the_other_network"] / "vgg19.weights.h5")
    (folders["photo_that_is_text"] / "text.jpg").write_text("a photo")
    dense.save_weights(folders["weights_of_another_network"] / "dense.weights.h5")
    return refusals("style", folders, {name: own for name, (own, _) in CASES.items()})


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_answered_with_one_sentence(refused, case):
    folder, status, errors, unchanged = refused[case]
    assert errors == CASES[case][1].replace("@", str(folder))
    assert status == 1
    assert unchanged


def test_without_an_output_folder_training_is_refused(tmp_path):
    folders = {"no_folder": tmp_path / "no_folder"}
    folders["no_folder"].mkdir()
    (refusal,) = refusals("style", folders, {"no_folder": list(SETTINGS)}).values()
    assert "Flag --output_dir must have a value other than None." in refusal.errors
    assert refusal.status == 1
