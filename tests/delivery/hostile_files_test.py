"""Saved rules and models written to harm whoever loads them."""

import base64
import hashlib
import io
import json
import marshal
import os
import re
import shutil
import socket
import sys
import zipfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest

import l2l_tf
from l2l_tf.delivery import LearnedOptimizer, load_card, update_card
from l2l_tf.delivery.export import check_destination, export_rule, load_saved_rule
from l2l_tf.delivery.pretrained import find_rule, load_rule
from l2l_tf.rules import SGD, CoordinatewiseLSTM, RNNprop, Route, RoutedRule

# What is refused is refused at once: a pipe would block for ever.
pytestmark = pytest.mark.timeout(120)

# Names that Keras would import from wherever Python finds them, and one of anybody's.
CANARIES = ("keras_hub", "keras_nlp", "keras_cv", "canary")


@keras.saving.register_keras_serializable(package="hostile")
class NoRule(keras.layers.Layer):
    """A layer with a weight, and no rule."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.factor = self.add_weight(name="factor", shape=())
        self.built = True


@keras.saving.register_keras_serializable(package="hostile")
def has_two_axes(variable):
    return len(variable.shape) == 2


@pytest.fixture
def canaries(tmp_path_factory, monkeypatch):
    """Packages in the working directory, first on the path, of which none may be imported."""
    folder = tmp_path_factory.mktemp("canaries")
    for name in CANARIES:
        (folder / name).mkdir()
        sung = folder / f"{name}.sung"
        for module in ("__init__", "models"):
            (folder / name / f"{module}.py").write_text(f"open({str(sung)!r}, 'w')\nFoo = dict\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    imported = [name for name in sys.modules if name.split(".")[0] in CANARIES]
    for name in imported:
        del sys.modules[name]
    assert not imported
    assert not list(folder.glob("*.sung"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    rule = CoordinatewiseLSTM((3, 2), seed=0, output_stddev=1.0)
    return export_rule(rule, tmp_path_factory.mktemp("hostile") / "rule", {"name": "mine"})


@pytest.fixture(scope="module")
def exported_parts(tmp_path_factory) -> Path:
    rules = [RNNprop((2,), 2, seed=seed, output_stddev=1.0) for seed in range(2)]
    rule = RoutedRule(rules[0], [Route(rules[1], predicate=has_two_axes)])
    return export_rule(rule, tmp_path_factory.mktemp("hostile") / "parts", {"name": "parts"})


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    return shutil.copytree(exported, tmp_path / "rule")


@pytest.fixture
def parts(exported_parts, tmp_path) -> Path:
    return shutil.copytree(exported_parts, tmp_path / "parts")


def _card(folder: Path) -> dict:
    return json.loads((folder / "card.json").read_text())


def _write_card(folder: Path, **entries) -> None:
    (folder / "card.json").write_text(json.dumps(_card(folder) | entries))


def _accept(folder: Path, name: str) -> None:
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    _write_card(folder, sha256=_card(folder)["sha256"] | {name: digest})


def _write_rule(folder: Path, config) -> None:
    (folder / "rule.json").write_text(config if isinstance(config, str) else json.dumps(config))
    _accept(folder, "rule.json")


def _rule(folder: Path) -> dict:
    return json.loads((folder / "rule.json").read_text())


def _refused(call, kind=ValueError) -> str:
    """Returns what a call says, having checked that it is one sentence of three parts."""
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert ". Received: " in message
    assert len(message) < 2500
    assert not [one for one in message if not one.isprintable()]
    return message


def _loading_is_refused(folder: Path) -> str:
    """Returns what loading says, with a replay or without."""
    # NumPy names a piece of a header by its address.
    without, again = (
        re.sub("0x[0-9a-f]+", "", _refused(partial(load_saved_rule, folder, replay)))
        for replay in (False, True)
    )
    assert again == without
    return without


# What is named is not imported


def _code_that_sings() -> dict:
    code = compile("lambda *a: open('lambda.sung', 'w') or True", "", "eval").co_consts[0]
    value = [base64.b64encode(marshal.dumps(code)).decode(), None, None]
    return {"class_name": "__lambda__", "config": {"value": value}}


def _object(module, class_name="Foo", config=None, registered_name=None) -> dict:
    return {
        "module": module,
        "class_name": class_name,
        "config": {} if config is None else config,
        "registered_name": registered_name,
    }


NAMED = {
    "keras_hub": _object("keras_hub"),
    "keras_hub.models": _object("keras_hub.models", registered_name="keras_hub>Foo"),
    "keras_nlp": _object("keras_nlp", registered_name="Foo"),
    "keras_cv": _object("keras_cv"),
    "anybody's": _object("canary", registered_name="canary>Foo"),
    "function": _object("keras_hub", "function", "Foo", "Foo"),
    "builtin": _object("builtins", "function", "eval", "eval"),
    "utility": _object("keras.utils", "function", "get_file", "get_file"),
    "keras.src": _object("keras.src.utils.file_utils", "function", "get_file", "get_file"),
    "typespec": _object("keras_hub", "__typespec__", []) | {"spec_name": "Foo"},
    "lambda": _code_that_sings(),
    "Lambda": _object("keras.layers", "Lambda", {"function": _code_that_sings()}),
    "TFSMLayer": _object("keras.layers", "TFSMLayer", {"filepath": "."}),
    "model": _object("keras", "Sequential", {"layers": [_object("keras_hub")]}),
    "in an initializer": _object("keras.initializers", "Constant", {"value": _object("keras_hub")}),
    "no string": _object("keras_hub", ["Foo"]),
}


def _in_argument(name):
    def put(config, named):
        config["config"][name] = named

    return put


# Where a configuration names it.
PLACES = {
    "the rule": lambda config, named: (config.clear(), config.update(named)),
    "dtype": _in_argument("dtype"),
    "output_scale": _in_argument("output_scale"),
    "an unknown argument": _in_argument("anything"),
    "build_config": lambda config, named: config.update(build_config={"input_shape": named}),
    "compile_config": lambda config, named: config.update(compile_config={"loss": named}),
    "deep": lambda config, named: config["config"].update(units=[{"a": [[named]]}]),
}


@pytest.mark.parametrize(
    ("named", "place"),
    [
        (named, place)
        for named in NAMED
        for place in PLACES
        # Code in these is never made: Keras's safe mode would refuse it.
        if named != "lambda" or place not in ("build_config", "compile_config")
    ],
)
def test_a_saved_rule_that_names_what_is_not_registered_is_refused(copy, canaries, named, place):
    config = _rule(copy)
    PLACES[place](config, NAMED[named])
    _write_rule(copy, config)
    _loading_is_refused(copy)


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("entry", ["rule", "predicate"])
def test_a_part_or_predicate_that_is_not_registered_is_refused(parts, canaries, named, entry):
    config = _rule(parts)
    config["config"]["routes"][0][entry] = named
    _write_rule(parts, config)
    _loading_is_refused(parts)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    """A model with an optimizer of a rule, a route and a schedule."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.9)
    rule = CoordinatewiseLSTM((2,), seed=0)
    routes = [Route(SGD(0.5), predicate=has_two_axes)]
    model.compile(LearnedOptimizer(rule, routes, learning_rate=schedule), "mse")
    path = tmp_path_factory.mktemp("model") / "model.keras"
    model.save(path)
    return path


def _change_model(model_file: Path, path: Path, change) -> Path:
    """Writes a copy whose optimizer's configuration is changed."""
    with zipfile.ZipFile(model_file) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            contents = source.read(name)
            if name == "config.json":
                config = json.loads(contents)
                change(config["compile_config"]["optimizer"]["config"])
                contents = json.dumps(config).encode()
            target.writestr(name, contents)
    return path


def test_a_model_with_what_is_registered_is_loaded(model_file, tmp_path):
    path = _change_model(model_file, tmp_path / "model.keras", lambda config: None)
    optimizer = keras.saving.load_model(path).optimizer
    assert type(optimizer.rule_for(keras.Variable([0.0]))) is CoordinatewiseLSTM
    assert type(optimizer.rule_for(keras.Variable([[0.0]]))) is SGD
    assert float(optimizer.learning_rate) == 1.0


@pytest.mark.parametrize("named", NAMED.values(), ids=NAMED)
@pytest.mark.parametrize("place", ["object", "argument", "route", "predicate", "learning_rate"])
def test_an_optimizer_in_a_model_file_that_names_what_is_not_registered_is_refused(
    model_file, tmp_path, canaries, named, place
):
    def change(config):
        if place == "learning_rate":
            config["learning_rate"] = named
        elif place == "argument":
            config["rule"]["object"]["config"]["dtype"] = named
        elif place == "object":
            config["rule"]["object"] = named
        else:
            route = config["routes"][0]
            entry, key = (route["rule"], "object") if place == "route" else (route, "predicate")
            entry[key] = named

    path = _change_model(model_file, tmp_path / "hostile.keras", change)
    with pytest.raises((ValueError, TypeError)) as raised:
        keras.saving.load_model(path)
    if (named, place) != (NAMED["lambda"], "learning_rate"):  # Refused by Keras's safe mode.
        assert str(raised.value).startswith("The configuration of a LearnedOptimizer must hold ")
        assert "\n" not in str(raised.value)


def test_what_is_none_of_an_optimizer_is_refused_in_one_sentence(model_file):
    with zipfile.ZipFile(model_file) as archive:
        model = json.loads(archive.read("config.json"))
    config = model["compile_config"]["optimizer"]["config"]
    weight = config["rule"]["weights"][0]
    for change in (
        {"rule": None},
        {"routes": 1},
        {"routes": [[]]},
        {"rule": {"object": config["rule"]["object"]}},
        {"rule": config["rule"] | {"weights": [weight | {"dtype": "object"}]}},
        {"rule": config["rule"] | {"weights": [weight | {"shape": [10**30]}]}},
        {"rule": config["rule"] | {"weights": [weight | {"base64": 3}]}},
    ):
        message = _refused(lambda change=change: LearnedOptimizer.from_config(config | change))
        assert message.startswith("The configuration of a LearnedOptimizer must hold rules ")
    without_rule = {key: value for key, value in config.items() if key != "rule"}
    assert "there is no entry 'rule'" in _refused(
        lambda: LearnedOptimizer.from_config(without_rule)
    )


# Files


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "secret"
    path.write_text("Not for the rule.")
    return path


def _link(folder: Path, secret: Path) -> str:
    (folder / "link").symlink_to(secret)
    return "link"


def _link_inside(folder: Path, secret: Path) -> str:
    (folder / "link").symlink_to(folder / "weights.npz")
    return "link"


def _link_to_folder(folder: Path, secret: Path) -> str:
    (folder / "linked").symlink_to(secret.parent)
    return "linked/secret"


def _pipe(folder: Path, secret: Path) -> str:
    os.mkfifo(folder / "pipe")
    return "pipe"


def _socket(folder: Path, secret: Path) -> str:
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(folder)  # The path of a socket must be short.
        one.bind("socket")
        os.chdir(here)
    return "socket"


FILES = {
    "absolute": lambda folder, secret: str(secret),
    "a device": lambda folder, secret: "/dev/zero",
    "above": lambda folder, secret: "../secret",
    "above by way of a folder": lambda folder, secret: "variables/../../secret",
    "back": lambda folder, secret: "variables/../weights.npz",
    "a link": _link,
    "a link inside": _link_inside,
    "in a linked folder": _link_to_folder,
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": lambda folder, secret: "variables",
    "the folder": lambda folder, secret: ".",
    "nothing": lambda folder, secret: "",
    "a zero byte": lambda folder, secret: "a\0b",
    "no Unicode": lambda folder, secret: "\ud800",
    "too long": lambda folder, secret: "a" * 5000,
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_card_may_name_only_regular_files_in_the_folder(copy, secret, make):
    name = make(copy, secret)
    file = copy / name
    # With the right checksum, where there is one, so that it is the name that is refused.
    is_file = "\0" not in name and "\ud800" not in name and os.path.isfile(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest() if is_file else "0"
    _write_card(copy, sha256=_card(copy)["sha256"] | {name: digest})
    assert "is no regular file in the folder. " in _loading_is_refused(copy)


def test_a_card_names_only_so_many_files(copy):
    _write_card(copy, sha256={f"file_{index}": "" for index in range(1001)})
    assert "whose card.json names 1001 files. " in _loading_is_refused(copy)


def test_a_file_that_is_too_large_is_not_read(copy):
    with (copy / "large").open("wb") as file:
        file.truncate(2**40)
    _write_card(copy, sha256={"large": ""})
    assert "where large is larger than any that an export writes. " in _loading_is_refused(copy)


@pytest.mark.parametrize("name", ["card.json", "rule.json", "weights.npz"])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "large", "missing"])
def test_what_a_rule_is_made_of_must_be_regular_files(copy, tmp_path, name, kind):
    _write_card(copy, sha256={})
    file = copy / name
    moved = file.rename(tmp_path / name)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to(moved)
    elif kind == "folder":
        file.mkdir()
    elif kind == "large":
        with file.open("wb") as empty:
            empty.truncate(2**40)
    if (name, kind) == ("card.json", "missing"):
        _refused(lambda: load_saved_rule(copy), FileNotFoundError)
    else:
        what = {"large": "is larger than any that an export writes", "missing": "is missing"}
        assert f"where {name} {what.get(kind, 'is no regular file in the folder')}. " in (
            _loading_is_refused(copy)
        )


def test_a_folder_may_be_reached_by_a_link(copy, tmp_path):
    (tmp_path / "link").symlink_to(copy)
    load_saved_rule(tmp_path / "link")


@pytest.mark.parametrize("name", ["card.json", "rule.json", "weights.npz"])
def test_a_file_that_may_not_be_read_is_named(copy, monkeypatch, name):
    opened = Path.open

    def deny(self, *arguments, **named):
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return opened(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", deny)
    assert _refused(lambda: load_saved_rule(copy), PermissionError) == (
        f"The files of a saved rule must be readable. Received: path='{copy}', whose {name} can't "
        "be read (Permission denied). Change its permissions, or copy the rule again."
    )


# JSON

CONTENTS = {
    "deep lists": "[" * 100_000,
    "deep dictionaries": '{"a":' * 300 + "1" + "}" * 300,
    "a huge integer": f'{{"format_version": {"9" * 5000}}}',
    "no Unicode": b'{"name": "\xff"}',
    "half a surrogate": '"\\ud800"',
    "a list": "[1, 2]",
    "a string": '"rule"',
    "null": "null",
    "NaN": "NaN",
    "nothing": "",
}


@pytest.mark.parametrize("contents", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("name", ["card.json", "rule.json"])
def test_json_that_is_none_of_a_rule_is_refused(copy, name, contents):
    encoded = contents.encode() if isinstance(contents, str) else contents
    (copy / name).write_bytes(encoded)
    if name == "rule.json":
        _accept(copy, name)
    _loading_is_refused(copy)


@pytest.mark.parametrize(
    "entries",
    [
        {"name": ["a", "list"]},
        {"name": None},
        {"format_version": [[1]] * 10_000},
        {"format_version": 10**4000},
        {"format_version": "1\n\n"},
        {"sha256": {"weights.npz": ["a"]}},
        {"sha256": {"rule.json": None}},
        {"sha256": {"file\nwith\nlines": ""}},
        {"golden_trajectory": [1.0]},
    ],
    ids=lambda entries: next(iter(entries)),
)
def test_a_card_with_entries_of_another_kind_is_refused(copy, entries):
    _write_card(copy, **entries)
    _loading_is_refused(copy)


@pytest.mark.parametrize(
    "golden",
    [
        {"gradients": [["x"]], "deltas": [["y"]]},
        {"gradients": [[1.0], [1.0, 2.0]], "deltas": [[1.0], [1.0, 2.0]]},
        {"gradients": [[10**400]], "deltas": [[1.0]]},
        {"gradients": [[{}]], "deltas": [[1.0]]},
        {"gradients": [[0.0]] * 101, "deltas": [[0.0]] * 101},
        {"gradients": [[0.0] * 10_001], "deltas": [[0.0] * 10_001]},
        {"gradients": [[1e300, 1e300]], "deltas": [[0.0, 0.0]]},
        {"gradients": [[None, None]], "deltas": [[None, None]]},
        {"gradients": [[0.0] * 3], "deltas": [[0.0] * 3]},
        json.loads('{"gradients": [[NaN, 1.0]], "deltas": [[Infinity, 1.0]]}'),
    ],
    ids=range(10),
)
def test_a_golden_trajectory_that_is_none_is_refused(parts, golden):
    _write_card(parts, golden_trajectory=golden)
    _refused(lambda: load_saved_rule(parts))


# Configurations and weights


@pytest.mark.parametrize(
    "arguments",
    [
        {"units": [10**30]},
        {"units": [100_000]},
        {"units": [3] * 1000},
        {"units": [-1]},
        {"units": "ab"},
        {"units": None},
        {"units": [float("nan")]},
        {"p": 10**400},
        {"p": float("nan")},
        {"p": "10"},
        {"seed": -(10**300)},
        {"seed": float("nan")},
        {"output_scale": 10**400},
        {"output_scale": float("inf")},
        {"output_stddev": []},
        {"dtype": "object"},
        {"dtype": []},
        {"name": ["a"]},
        {"name": "a/b"},
        {"trainable": {"a": 1}, "preprocessing": []},
        {"an_unknown_argument": "\ud800"},
    ],
    ids=ascii,
)
def test_arguments_that_are_none_of_the_rule_are_refused(copy, arguments):
    config = _rule(copy)
    config["config"] |= arguments
    _write_rule(copy, config)
    message = _loading_is_refused(copy)
    assert message.startswith("A saved rule must hold a layer that this version can build. ")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"class_name": "l2l_tf>CoordinatewiseLSTM", "config": [1]},
        {"class_name": "l2l_tf>CoordinatewiseLSTM", "config": "x"},
        {"class_name": "l2l_tf>RoutedRule", "config": {}},
        {"class_name": "l2l_tf>RoutedRule", "config": {"routes": [1]}},
        {"class_name": "l2l_tf>SGD", "config": {"learning_rate": 0.1}},
        {"class_name": "l2l_tf>SGD"},
        {"class_name": "l2l_tf>LearnedOptimizer", "config": {}},
        {"class_name": "hostile>NoRule", "config": {}},
        {"class_name": "function", "config": "hostile>has_two_axes"},
        {"class_name": "Dense", "config": {"units": 1}, "module": "keras.layers"},
    ],
    ids=ascii,
)
def test_what_is_no_learned_rule_is_refused(copy, config):
    _write_rule(copy, config)
    message = _loading_is_refused(copy)
    assert message.startswith("A saved rule must hold a layer that this version can build. ")


def test_a_layer_that_is_no_rule_is_refused_though_its_weights_fit(copy):
    _write_rule(copy, keras.saving.serialize_keras_object(NoRule()))
    np.savez(copy / "weights.npz", factor=np.float32(1))
    _accept(copy, "weights.npz")
    assert "config must be that of a rule. " in _loading_is_refused(copy)


def test_rules_in_rules_in_rules_are_refused(copy):
    config = _rule(copy)
    for _ in range(60):
        route = {"rule": _rule(copy), "kind": "conv", "pattern": None, "predicate": None}
        config = {
            "class_name": "l2l_tf>RoutedRule",
            "config": {"name": "a", "trainable": True, "rule": config, "routes": [route]},
        }
    _write_rule(copy, config)
    _loading_is_refused(copy)


def _npy(shape: str, dtype: str = "<f4", data: bytes = b"", version: int = 1) -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + data


def _pickled() -> bytes:
    class Sings:
        def __reduce__(self):
            return open, ("pickle.sung", "w")

    file = io.BytesIO()
    np.save(file, np.array([Sings()] * 12, dtype=object), allow_pickle=True)
    return file.getvalue()


# In place of bias_0, float32 `[12]`.
ARRAYS = {
    "pickled": _pickled(),
    "enormous": _npy("(12000000000000,)"),
    "beyond all bounds": _npy(f"({10**30},)"),
    "of other shape": _npy("(2, 6)", data=bytes(48)),
    "of negative shape": _npy("(-12,)", data=bytes(48)),
    "shorter than it says": _npy("(12,)", data=bytes(10)),
    "of strings": _npy("(12,)", "<U1", bytes(48)),
    "of objects": _npy("(12,)", "|O", bytes(96)),
    "of complex numbers": _npy("(12,)", "<c8", bytes(96)),
    "of a later version": _npy("(12,)", data=bytes(48), version=2),
    "code for a header": _npy("__import__('canary')", data=bytes(48)),
    "half a header": _npy("(12,)")[:20],
    "no array": b"no array",
    "nothing": b"",
    "NaN": _npy("(12,)", data=np.full(12, np.nan, np.float32).tobytes()),
    "infinite": _npy("(12,)", data=np.full(12, -np.inf, np.float32).tobytes()),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_weights_that_are_none_are_refused(copy, canaries, array):
    with zipfile.ZipFile(copy / "weights.npz") as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(copy / "weights.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, contents in (arrays | {"bias_0.npy": array}).items():
            archive.writestr(name, contents)
    _accept(copy, "weights.npz")
    _loading_is_refused(copy)


@pytest.mark.parametrize("position", range(0, 1400, 97))
def test_an_archive_with_a_damaged_byte_is_refused_or_read(copy, position):
    contents = bytearray((copy / "weights.npz").read_bytes())
    contents[-1 - position] ^= 0xFF
    (copy / "weights.npz").write_bytes(contents)
    _accept(copy, "weights.npz")
    try:
        load_saved_rule(copy)
    except ValueError as error:
        message = str(error)
    else:
        return  # The archive does not need every byte.
    assert message.startswith("A saved rule must ")
    assert "\n" not in message


# Paths

LOADERS = {
    "load": l2l_tf.load,
    "load_rule": load_rule,
    "load_saved_rule": load_saved_rule,
    "load_card": load_card,
    "update_card": lambda path: update_card(path, name="other"),
    "find_rule": find_rule,
}


@pytest.mark.parametrize("call", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(
    "path", ["\0", "a\0b", "a" * 5000, "a/" * 3000, "\ud800", "nowhere", "/dev/null", "new\nline"]
)
def test_a_path_with_no_rule_is_refused(call, path):
    _refused(lambda: call(path), FileNotFoundError)


@pytest.mark.parametrize("call", LOADERS.values(), ids=LOADERS)
def test_an_empty_path_is_not_the_current_folder(copy, monkeypatch, call):
    monkeypatch.chdir(copy)
    _refused(lambda: call(""), (FileNotFoundError, ValueError))
    call(".")


@pytest.mark.parametrize("call", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("path", [None, 3, b"rule", ["rule"]])
def test_what_is_no_path_is_refused(call, path):
    _refused(lambda: call(path), TypeError)


@pytest.mark.parametrize("call", LOADERS.values(), ids=LOADERS)
def test_a_tilde_is_the_home_folder(copy, monkeypatch, call):
    monkeypatch.setenv("HOME", str(copy.parent))
    call("~/rule")


def test_an_export_goes_to_the_home_folder(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert export_rule(load_saved_rule(exported), "~/new", {}) == tmp_path / "new"
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("path", ["\0", "a" * 5000, "\ud800", "", ".", "..", "/"])
def test_a_path_at_which_no_folder_can_be_made_is_refused(exported, tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    rule = load_saved_rule(exported)
    for call in (lambda: export_rule(rule, path, {}), lambda: check_destination(path)):
        message = _refused(call, (ValueError, OSError))
        assert message.startswith("path must ")
    assert not os.listdir(tmp_path)
