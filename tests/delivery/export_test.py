import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.export import (
    check_destination,
    export_rule,
    load_card,
    load_saved_rule,
    update_card,
)
from l2l_tf.delivery.pretrained import find_rule
from l2l_tf.rules import SGD
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.routing import Route
from tests.forks import run_program
from tests.reference import lstm as reference
from tests.rules.run_rule import run_rule

NUM_STEPS, P, OUTPUT_SCALE = 20, 8.0, 0.5
COORDINATES = (1, 7, 64)
# One float32 step is some hundred products of numbers of order 1; errors add up over the steps.
FLOAT32_TOLERANCE = 2e-6 * NUM_STEPS
CARD = {"name": "mine", "training": {"problem": "quadratic_uniform", "num_steps": 100}}


def _rule(seed: int = 0, **arguments) -> CoordinatewiseLSTM:
    """Returns a small rule with every weight, biases too, away from its initial value."""
    defaults = {"units": (4, 3), "preprocessing": "log_and_sign", "p": P, "seed": seed}
    rule = CoordinatewiseLSTM(**defaults | {"output_scale": OUTPUT_SCALE} | arguments)
    draw = np.random.default_rng(seed)
    rule.set_weights([weight + draw.normal(size=weight.shape) for weight in rule.get_weights()])
    return rule


def _gradients(num_coordinates: int) -> np.ndarray:
    """Returns `[T, N]`: normal, of sizes on both sides of e^-p."""
    draw = np.random.default_rng(num_coordinates)
    sizes = 10.0 ** draw.uniform(-6, 2, num_coordinates)
    return (sizes * draw.normal(size=[NUM_STEPS, num_coordinates])).astype(np.float32)


def _contents(folder: Path) -> dict[str, bytes | None]:
    """Returns the bytes of each file under a folder, and None for each folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The folder of `_rule()`, which no test changes."""
    return export_rule(_rule(), tmp_path_factory.mktemp("exported") / "rule", CARD)


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    """A copy of the folder, to be damaged."""
    return shutil.copytree(exported, tmp_path / "rule")


def _change_card(folder: Path, **entries) -> None:
    card = json.loads((folder / "card.json").read_text()) | entries
    (folder / "card.json").write_text(json.dumps(card))


def _accept(folder: Path, name: str) -> None:
    """Gives the card the checksum that a changed file has now."""
    checksums = json.loads((folder / "card.json").read_text())["sha256"]
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _change_card(folder, sha256=checksums | {name: digest})


def _refused(folder: Path, kind: type[Exception]) -> str:
    """Returns what loading says, having checked that it changes nothing in the folder."""
    before = _contents(folder)
    with pytest.raises(kind) as raised:
        load_saved_rule(folder)
    assert _contents(folder) == before
    return str(raised.value)


# What is written


def test_a_folder_holds_what_tensorflow_keras_and_a_reader_need(exported):
    assert sorted(path for path, content in _contents(exported).items() if content is not None) == [
        "card.json",
        "fingerprint.pb",
        "rule.json",
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
        "weights.npz",
    ]


def test_nothing_is_left_beside_the_folder(exported):
    assert [path.name for path in exported.parent.iterdir()] == ["rule"]


def test_weights_are_saved_under_their_names(exported):
    with np.load(exported / "weights.npz", allow_pickle=False) as archive:
        assert archive.files == [weight.name for weight in _rule().weights]
        for weight in _rule().weights:
            np.testing.assert_array_equal(archive[weight.name], weight.numpy())


def test_the_card_holds_what_was_given_the_versions_and_a_checksum_of_every_other_file(exported):
    card = json.loads((exported / "card.json").read_text())
    assert {name: card[name] for name in CARD} == CARD
    assert card["format_version"] == 1
    assert card["versions"] == {
        "python": sys.version.split()[0],
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    contents = _contents(exported)
    assert card["sha256"] == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in contents.items()
        if content is not None and name != "card.json"
    }
    assert load_card(exported) == card


def test_the_golden_trajectory_is_that_of_an_lstm_run_on_each_coordinate_alone(exported):
    golden = load_card(exported)["golden_trajectory"]
    gradients = np.array(golden["gradients"])
    deltas = reference.deltas(reference.Weights.of(_rule()), gradients, P, OUTPUT_SCALE)
    np.testing.assert_allclose(golden["deltas"], deltas, atol=FLOAT32_TOLERANCE)
    # It tells rules apart: gradients of many sizes, and deltas far larger than the tolerance.
    assert np.abs(gradients).min() < 1e-5
    assert np.abs(gradients).max() > 10
    assert np.ptp(deltas, axis=0).min() > 1000 * FLOAT32_TOLERANCE


# What is read back


def test_a_reloaded_rule_has_the_configuration_the_weights_and_the_deltas_of_the_original(exported):
    rule, reloaded = _rule(), load_saved_rule(exported)
    assert type(reloaded) is CoordinatewiseLSTM
    assert reloaded.get_config() | {"name": rule.name} == rule.get_config()
    for one, other in zip(rule.weights, reloaded.weights, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(run_rule(reloaded, _gradients(7)), run_rule(rule, _gradients(7)))


@pytest.mark.parametrize("arguments", [{"units": (2,)}, {"dtype": "float64"}, {"trainable": False}])
def test_rules_of_every_configuration_come_back(tmp_path, arguments):
    rule = _rule(**arguments)
    reloaded = load_saved_rule(export_rule(rule, tmp_path / "rule", CARD))
    gradients = _gradients(3).astype(arguments.get("dtype", "float32"))
    assert reloaded.trainable == arguments.get("trainable", True)
    np.testing.assert_array_equal(run_rule(reloaded, gradients), run_rule(rule, gradients))


def test_a_rule_that_moves_nothing_comes_back(tmp_path):
    path = export_rule(CoordinatewiseLSTM(units=(2,), seed=0), tmp_path / "rule", CARD)
    assert not run_rule(load_saved_rule(path), _gradients(3)).any()


# The deployer's program: TensorFlow, and neither Keras nor l2l_tf.
DEPLOYER = """
import sys

sys.modules["keras"] = sys.modules["l2l_tf"] = None  # Importing either fails.

import numpy as np
import tensorflow as tf

path, inputs, outputs = sys.argv[1:]
loaded = tf.saved_model.load(path)
signatures = loaded.signatures
results = {}
for name, gradients in np.load(inputs).items():
    num_coordinates = tf.constant(gradients.shape[1])
    state = loaded.initial_state(num_coordinates)
    named_state = signatures["initial_state"](num_coordinates=num_coordinates)
    functions, signed = [], []
    for gradient in gradients:
        delta, state = loaded.update(tf.constant(gradient), state)
        functions.append(delta)
        named_state = signatures["update"](gradient=tf.constant(gradient), **named_state)
        signed.append(named_state.pop("delta"))
    results[f"functions_{name}"] = np.stack(functions)
    results[f"signatures_{name}"] = np.stack(signed)
np.savez(outputs, **results)
print(sorted(name for name in sys.modules if name.startswith(("l2l_tf", "keras"))))
"""


@pytest.fixture(scope="module")
def deployed(exported, tmp_path_factory) -> dict[str, np.ndarray]:
    """Deltas `[T, N]` by way of calling and number of coordinates, from a process of its own."""
    folder = tmp_path_factory.mktemp("deployed")
    np.savez(folder / "gradients.npz", **{str(count): _gradients(count) for count in COORDINATES})
    files = [folder / "gradients.npz", folder / "deltas.npz"]
    process = subprocess.run(
        [sys.executable, "-I", "-c", DEPLOYER, exported, *files],
        cwd="/",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout == "['keras', 'l2l_tf']\n"
    with np.load(folder / "deltas.npz") as archive:
        return dict(archive)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["functions", "signatures"])
@pytest.mark.parametrize("num_coordinates", COORDINATES)
def test_tensorflow_alone_follows_the_rules_trajectory(deployed, how, num_coordinates):
    expected = run_rule(_rule(), _gradients(num_coordinates))
    deltas = deployed[f"{how}_{num_coordinates}"]
    np.testing.assert_allclose(deltas, expected, atol=FLOAT32_TOLERANCE)
    assert np.ptp(expected, axis=0).min() > 100 * FLOAT32_TOLERANCE


# Damage


def test_a_path_with_nothing_there_is_refused(tmp_path):
    path = tmp_path / "nothing"
    for load in (load_saved_rule, load_card, lambda path: update_card(path, scores={})):
        with pytest.raises(FileNotFoundError) as raised:
            load(path)
        assert str(raised.value) == (
            f"path must be the folder of a saved rule. Received: path='{path}', which has no "
            "card.json. Give the folder that an export wrote."
        )
    assert not path.exists()


def test_a_folder_without_a_card_is_refused(copy):
    (copy / "card.json").unlink()
    assert _refused(copy, FileNotFoundError) == (
        f"path must be the folder of a saved rule. Received: path='{copy}', which has no "
        "card.json. Give the folder that an export wrote."
    )


@pytest.mark.parametrize(
    "text", ["", '{"format_version": 1, ', "[1]", "1", "{}", "\x00\xff"], ids=ascii
)
def test_a_card_that_is_no_json_object_with_a_format_is_refused(copy, text):
    (copy / "card.json").write_bytes(text.encode("latin-1"))
    assert _refused(copy, ValueError) == (
        f"A saved rule must be whole. Received: path='{copy}', whose card.json can't be read. "
        "Export or copy the rule again."
    )


@pytest.mark.parametrize(
    ("entries", "missing"),
    [
        ({}, "['golden_trajectory', 'sha256']"),
        ({"golden_trajectory": {}}, "['sha256']"),
        ({"sha256": {}}, "['golden_trajectory']"),
        ({"sha256": [], "golden_trajectory": {}}, "['sha256']"),
    ],
)
def test_a_card_without_its_entries_is_refused(copy, entries, missing):
    (copy / "card.json").write_text(json.dumps({"format_version": 1} | entries))
    assert _refused(copy, ValueError) == (
        f"A saved rule must be whole. Received: path='{copy}', whose card.json has no entry "
        f"{missing}. Export or copy the rule again."
    )


def test_a_later_format_is_refused_whatever_else_its_card_holds(copy):
    (copy / "card.json").write_text('{"format_version": 2, "checksums": "elsewhere"}')
    assert _refused(copy, ValueError) == (
        f"A saved rule must be of format 1. Received: path='{copy}' of format 2. "
        "Install the version of l2l_tf that wrote it."
    )


@pytest.mark.parametrize("name", ["weights.npz", "rule.json", "variables/variables.index"])
def test_a_missing_file_is_named(copy, name):
    (copy / name).unlink()
    assert _refused(copy, ValueError) == (
        f"A saved rule must be whole. Received: path='{copy}', where {name} is missing. "
        "Export or copy the rule again."
    )


def _change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("name", "damage"), [("weights.npz", _change_a_byte), ("saved_model.pb", _truncate)]
)
def test_a_changed_file_is_named(copy, name, damage):
    damage(copy / name)
    assert _refused(copy, ValueError) == (
        f"A saved rule must be whole. Received: path='{copy}', where {name} does not have the "
        "checksum in card.json. Export or copy the rule again."
    )


def test_a_rule_that_does_not_repeat_its_golden_trajectory_is_refused(copy):
    golden = load_card(copy)["golden_trajectory"]
    golden["deltas"][3][2] += 0.25
    _change_card(copy, golden_trajectory=golden)
    largest = max(abs(deltas[2]) for deltas in golden["deltas"])
    assert _refused(copy, ValueError) == (
        "A saved rule must repeat the golden trajectory of its card. "
        f"Received: path='{copy}', whose deltas are off by up to 0.25 in a coordinate where they "
        f"reach {largest:.3g}. Install the versions that the card names, or export the rule again."
    )


def test_other_weights_do_not_repeat_the_golden_trajectory(copy):
    weights = {weight.name: weight.numpy() for weight in _rule().weights}
    # A hundredth of one bias: far from rounding, and far from what one would notice by eye.
    np.savez(copy / "weights.npz", **weights | {"bias_1": weights["bias_1"] * 1.01})
    _accept(copy, "weights.npz")
    message = _refused(copy, ValueError)
    assert message.startswith("A saved rule must repeat the golden trajectory of its card. ")
    assert float(re.search(r"off by up to (\S+) in ", message)[1]) > 1e-4


def test_a_golden_trajectory_that_is_not_a_number_is_refused(copy):
    golden = load_card(copy)["golden_trajectory"]
    golden["deltas"][0][0] = None
    _change_card(copy, golden_trajectory=golden)
    assert "whose deltas are off by up to nan in " in _refused(copy, ValueError)


def test_without_a_replay_the_golden_trajectory_plays_no_part(copy):
    golden = load_card(copy)["golden_trajectory"]
    golden["deltas"][3][2] += 0.25
    _change_card(copy, golden_trajectory=golden)
    reloaded = load_saved_rule(copy, replay=False)
    np.testing.assert_array_equal(
        run_rule(reloaded, _gradients(3)), run_rule(_rule(), _gradients(3))
    )


@pytest.mark.parametrize(
    "golden",
    [
        {},
        {"gradients": [[1.0]]},
        {"gradients": [[1.0]], "deltas": [[1.0, 2.0]]},
        {"gradients": [["x"]], "deltas": [["x"]]},
        {"gradients": 1.0, "deltas": 1.0},
        {"gradients": [[]], "deltas": [[]]},
    ],
)
def test_a_golden_trajectory_that_is_none_is_refused(copy, golden):
    _change_card(copy, golden_trajectory=golden)
    assert _refused(copy, ValueError) == (
        f"A saved rule must be whole. Received: path='{copy}', whose card.json can't be read. "
        "Export or copy the rule again."
    )


def _cannot_build(copy: Path, what: str) -> str:
    # Advice of its own takes the place of the usual one.
    advice = " Install the versions that its card names, or export the rule again."
    return (
        "A saved rule must hold a layer that this version can build. "
        f"Received: path='{copy}', where {what}.{'' if 'Received: ' in what else advice}"
    )


def test_a_rule_of_an_unknown_class_is_refused(copy):
    config = json.loads((copy / "rule.json").read_text())
    config |= {"class_name": "Unheard", "registered_name": "l2l_tf>Unheard"}
    (copy / "rule.json").write_text(json.dumps(config))
    _accept(copy, "rule.json")
    assert _refused(copy, ValueError) == _cannot_build(
        copy,
        "config must name only what is registered with Keras in this process. Received: "
        "module='l2l_tf.rules.coordinatewise_lstm', class_name='Unheard', "
        "registered_name='l2l_tf>Unheard'. If it is yours, import the module that registers it "
        "first (keras.saving.register_keras_serializable); if not, do not load the file",
    )


def test_a_configuration_that_is_no_layer_is_refused(copy):
    (copy / "rule.json").write_text("[]")
    _accept(copy, "rule.json")
    assert _refused(copy, ValueError) == _cannot_build(
        copy,
        "config must be that of a rule. Received: [], which is none. Save a rule, a "
        "subclass of CoordinatewiseRule or one with is_coordinatewise and bind",
    )


@pytest.mark.parametrize(
    ("change", "different"),
    [
        (lambda weights: weights.pop("bias_0"), "['bias_0']"),
        (lambda weights: weights.update(extra=np.zeros(1)), "['extra']"),
    ],
)
def test_a_weight_in_one_of_layer_and_file_alone_is_refused(copy, change, different):
    weights = {weight.name: weight.numpy() for weight in _rule().weights}
    change(weights)
    np.savez(copy / "weights.npz", **weights)
    _accept(copy, "weights.npz")
    assert _refused(copy, ValueError) == _cannot_build(
        copy, f"layer and weights.npz do not both have {different}"
    )


def test_weights_for_another_number_of_inputs_are_refused(copy):
    weights = {weight.name: weight.numpy() for weight in _rule().weights}
    num_inputs, num_gates = weights["kernel_0"].shape
    np.savez(copy / "weights.npz", **weights | {"kernel_0": np.zeros((num_inputs + 1, num_gates))})
    _accept(copy, "weights.npz")
    assert _refused(copy, ValueError) == _cannot_build(
        copy,
        f"kernel_0 has the shape ({num_inputs + 1}, {num_gates}) in weights.npz and "
        f"({num_inputs}, {num_gates}) in the layer",
    )


@pytest.mark.parametrize(
    ("contents", "what"),
    [(b"PK\x03\x04 and no more", "File is not a zip file"), (b"", "File is not a zip file")],
)
def test_weights_that_are_no_archive_are_refused(copy, contents, what):
    (copy / "weights.npz").write_bytes(contents)
    _accept(copy, "weights.npz")
    assert _refused(copy, ValueError) == _cannot_build(copy, what)


# Exporting where there is something


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_no_saved_rule_is_not_replaced(tmp_path, what):
    path = tmp_path / "rule"
    thesis = path if what == "file" else path / "thesis.tex"
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("Three years of work.")
    with pytest.raises(FileExistsError) as raised:
        export_rule(_rule(), path, CARD)
    assert str(raised.value) == (
        "path must be new, empty or a saved rule to replace. "
        f"Received: path='{path}', which holds something else. Choose another path."
    )
    assert thesis.read_text() == "Three years of work."
    assert os.listdir(tmp_path) == ["rule"]


def test_an_empty_folder_is_filled_and_missing_folders_are_made(tmp_path):
    for path in (tmp_path, tmp_path / "a" / "b"):
        assert export_rule(_rule(), path, CARD) == path
        load_saved_rule(path)


def test_exporting_again_replaces_the_whole_folder(copy):
    (copy / "stale").write_text("of the older rule")
    newer = _rule(seed=1, units=(2,))
    export_rule(newer, copy, {"name": "newer"})
    assert "training" not in load_card(copy)
    assert not (copy / "stale").exists()
    assert os.listdir(copy.parent) == ["rule"]
    np.testing.assert_array_equal(
        run_rule(load_saved_rule(copy), _gradients(3)), run_rule(newer, _gradients(3))
    )


def _disk_full(*arguments, **named):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("function", ["tf.saved_model.save", "np.savez", "Path.write_text"])
def test_an_export_that_fails_leaves_the_older_folder_whole(copy, monkeypatch, function):
    before = _contents(copy.parent)
    monkeypatch.setattr(
        {"tf": tf.saved_model, "np": np, "Path": Path}[function.split(".")[0]],
        function.split(".")[-1],
        _disk_full,
    )
    with pytest.raises(OSError, match="No space left on device"):
        export_rule(_rule(seed=1), copy, CARD)
    assert _contents(copy.parent) == before


def test_an_export_that_can_not_be_moved_into_place_puts_the_older_folder_back(copy, monkeypatch):
    before = _contents(copy.parent)
    rename = Path.rename

    def refuse_new_folder(self, target):
        if ".partial-" in self.name:
            raise PermissionError("not into place")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new_folder)
    with pytest.raises(PermissionError, match="not into place"):
        export_rule(_rule(seed=1), copy, CARD)
    assert _contents(copy.parent) == before


KILLED_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pathlib import Path
from l2l_tf.delivery.export import export_rule
from l2l_tf.rules import CoordinatewiseLSTM
rename = Path.rename
def kill_at_the_second(self, target):
    if self.name.startswith(".partial-"):
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(self, target)
Path.rename = kill_at_the_second
export_rule(CoordinatewiseLSTM((2,), seed=1), sys.argv[1], {"name": "newer"})
"""


@pytest.fixture
def killed(copy) -> Path:
    """The folder of a rule, moved away by an export that was killed before it was replaced."""
    assert run_program(KILLED_BETWEEN_THE_RENAMES, str(copy)).status == -signal.SIGKILL
    assert not copy.exists()
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(
    "look", [load_saved_rule, load_card, find_rule, check_destination, partial(update_card, a=1)]
)
def test_a_rule_is_found_again_though_an_export_was_killed_between_its_renames(killed, look):
    look(killed)
    np.testing.assert_array_equal(
        run_rule(load_saved_rule(killed), _gradients(3)), run_rule(_rule(), _gradients(3))
    )


@pytest.mark.slow
def test_an_export_removes_what_a_killed_one_has_left(killed):
    assert len(os.listdir(killed.parent)) == 2
    newer = _rule(seed=1)
    export_rule(newer, killed, CARD)
    assert os.listdir(killed.parent) == ["rule"]
    np.testing.assert_array_equal(
        run_rule(load_saved_rule(killed), _gradients(3)), run_rule(newer, _gradients(3))
    )


def test_weights_that_share_a_name_are_refused(tmp_path):
    class Twins(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.one, self.other = (self.add_weight(name="w", shape=()) for _ in range(2))

    with pytest.raises(ValueError) as raised:
        export_rule(Twins(), tmp_path / "rule", CARD)
    assert str(raised.value) == (
        "rule must have weights of different names, by which they are saved. "
        "Received: weights named ['w', 'w']. Name each in `add_weight`."
    )
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"rule": SGD(0.1)}, TypeError, r"^rule must be a learned rule"),
        ({"card": ["name"]}, TypeError, r"^card must be a dictionary"),
        ({"card": {"name": None}}, ValueError, r"^card must have a text as name"),
        ({"rule": keras.layers.Dense(1)}, ValueError, r"^rule must be one that can be rebuilt"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_written(arguments, error, match, tmp_path):
    given = {"rule": _rule(), "path": tmp_path / "rule", "card": CARD} | arguments
    with pytest.raises(error, match=match):
        export_rule(**given)
    assert not os.listdir(tmp_path)


def test_a_rule_that_is_not_registered_is_not_written(tmp_path):
    class Unregistered(CoordinatewiseLSTM):
        pass

    with pytest.raises(ValueError, match=r"register_keras_serializable"):
        export_rule(Unregistered((2,), seed=0), tmp_path / "rule", CARD)
    assert not os.listdir(tmp_path)


def test_a_configuration_without_arguments_is_refused(copy):
    config = json.loads((copy / "rule.json").read_text())
    del config["config"]
    (copy / "rule.json").write_text(json.dumps(config))
    _accept(copy, "rule.json")
    assert "config must hold the arguments" in _refused(copy, ValueError)


# Rules with parts


@pytest.fixture(scope="module")
def exported_parts(tmp_path_factory) -> Path:
    rule = RoutedRule(_rule(0), [Route(_rule(1, units=(2,)), name="conv.*kernel")])
    return export_rule(rule, tmp_path_factory.mktemp("parts") / "rule", CARD)


def test_a_rule_with_parts_is_one_folder_from_which_it_comes_back(exported_parts):
    rule = load_saved_rule(exported_parts)
    assert rule.routes[0].name == "conv.*kernel"
    originals = {"route_0": _rule(1, units=(2,)), "other": _rule(0)}
    with np.load(exported_parts / "weights.npz", allow_pickle=False) as archive:
        assert archive.files == [
            f"{name}_{weight.name}" for name, part in originals.items() for weight in part.weights
        ]
    for name, part in originals.items():
        np.testing.assert_array_equal(
            run_rule(rule.parts[name], _gradients(7)), run_rule(part, _gradients(7))
        )


def test_the_golden_trajectory_of_parts_has_one_after_the_other(exported_parts):
    golden = load_card(exported_parts)["golden_trajectory"]
    gradients, deltas = np.array([golden["gradients"], golden["deltas"]], np.float32)
    expected = [
        run_rule(_rule(1, units=(2,)), gradients[:, :5]),
        run_rule(_rule(0), gradients[:, 5:]),
    ]
    np.testing.assert_allclose(deltas, np.concatenate(expected, axis=1), rtol=1e-5, atol=1e-6)


def test_of_a_rule_with_parts_the_signatures_name_each(exported_parts):
    signatures = tf.saved_model.load(exported_parts).signatures
    counts = {"num_coordinates_route_0": tf.constant(7), "num_coordinates_other": tf.constant(64)}
    state = signatures["initial_state"](**counts)
    gradients = {"route_0": _gradients(7), "other": _gradients(64)}
    for step in range(3):
        given = {f"gradient_{name}": tf.constant(one[step]) for name, one in gradients.items()}
        result = signatures["update"](**given, **state)
        state = {name: value for name, value in result.items() if name.startswith("state_")}
    for name, part in (("route_0", _rule(1, units=(2,))), ("other", _rule(0))):
        expected = run_rule(part, gradients[name][:3])[-1]
        np.testing.assert_allclose(
            result[f"delta_{name}"], expected, rtol=1e-4, atol=FLOAT32_TOLERANCE
        )


# The card


def test_updating_a_card_adds_and_replaces_entries_and_keeps_the_rest(copy):
    before = _contents(copy)
    card = load_card(copy)
    update_card(copy, scores={"final_loss": 0.5}, name="renamed")
    assert load_card(copy) == card | {"scores": {"final_loss": 0.5}, "name": "renamed"}
    load_saved_rule(copy)
    after = _contents(copy)
    assert before.pop("card.json") != after.pop("card.json")
    assert after == before


def test_a_card_is_json_whatever_the_scores(copy):
    def refuse(constant):
        raise AssertionError(constant)

    update_card(copy, scores={"final_loss": float("inf"), "stderr": float("nan")})
    card = json.loads((copy / "card.json").read_text(), parse_constant=refuse)
    assert card["scores"] == {"final_loss": None, "stderr": None}


def test_a_card_that_can_not_be_written_is_left_as_it_was(copy, monkeypatch):
    before = _contents(copy)
    monkeypatch.setattr(Path, "replace", _disk_full)
    with pytest.raises(OSError, match="No space left on device"):
        update_card(copy, name="renamed")
    assert (copy / "card.json").read_bytes() == before["card.json"]


def test_a_damaged_card_is_not_updated(copy):
    (copy / "card.json").write_text("{")
    with pytest.raises(ValueError) as raised:
        update_card(copy, name="renamed")
    assert str(raised.value) == (
        f"A saved rule must be whole. Received: path='{copy}', whose card.json can't be read. "
        "Export or copy the rule again."
    )
    assert (copy / "card.json").read_text() == "{"


@pytest.mark.slow
def test_the_command_line_tool_of_tensorflow_runs_a_saved_rule(exported, tmp_path):
    program = "from tensorflow.python.tools.saved_model_cli import main; main()"

    def run(signature, *arguments):
        command = [sys.executable, "-c", program, "run", f"--dir={exported}", "--tag_set=serve"]
        command += [
            f"--signature_def={signature}",
            *arguments,
            f"--outdir={tmp_path}",
            "--overwrite",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    run("initial_state", "--input_exprs=num_coordinates=3")
    state = ";".join(f"state_{index}={tmp_path}/state_{index}.npy" for index in range(4))
    run("update", "--input_exprs=gradient=[1.0, -0.1, 0.0]", f"--inputs={state}")
    rule = load_saved_rule(exported)
    delta, _ = rule(tf.constant([1.0, -0.1, 0.0]), rule.initial_state(3))
    np.testing.assert_allclose(np.load(tmp_path / "delta.npy"), delta, rtol=1e-5, atol=1e-7)
