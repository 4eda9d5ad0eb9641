import warnings

import keras
import numpy as np
import pytest

import l2l_tf
from l2l_tf.delivery import pretrained
from l2l_tf.delivery.export import export_rule, update_card
from l2l_tf.delivery.use import RuleUse
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM

ENTRY = {
    "purpose": "small networks",
    "trains_models": True,
    "initial_stddev": 0.01,
    "num_steps": 100,
    "fails_with": ["relu"],
    "instead": "other",
    "learned_on": "one network",
}
USE = RuleUse("small networks", True, 0.01, 100, ("relu",), "other", "one network")


def test_a_card_says_what_a_rule_is_for():
    assert RuleUse.from_json(ENTRY) == USE
    required = {key: ENTRY[key] for key in list(ENTRY)[:4]}
    assert RuleUse.from_json(required) == RuleUse("small networks", True, 0.01, 100)


def test_a_rule_may_be_learned_over_a_range_of_steps():
    use = RuleUse.from_json(ENTRY | {"num_steps": [200, 2000]})
    assert (use.num_steps, use.range_of_steps) == ((200, 2000), (200, 2000))
    assert USE.range_of_steps == (100, 100)
    assert hash(use) != hash(USE)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"purpose": 3}, TypeError, "purpose"),
        ({"trains_models": 1}, TypeError, "trains_models"),
        ({"initial_stddev": True}, TypeError, "initial_stddev"),
        ({"initial_stddev": -0.1}, ValueError, "initial_stddev"),
        ({"initial_stddev": float("nan")}, ValueError, "initial_stddev"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"num_steps": True}, TypeError, "num_steps"),
        ({"num_steps": "100"}, TypeError, "num_steps"),
        ({"num_steps": [100, 2.5]}, TypeError, "num_steps"),
        ({"num_steps": [0, 100]}, ValueError, "num_steps"),
        ({"num_steps": [200, 100]}, ValueError, "num_steps"),
        ({"num_steps": [100]}, ValueError, "num_steps"),
        ({"num_steps": [1, 2, 3]}, ValueError, "num_steps"),
        ({"fails_with": "relu"}, TypeError, "fails_with"),
        ({"fails_with": [1]}, TypeError, "fails_with"),
        ({"instead": ["other"]}, TypeError, "instead"),
        ({"learned_on": None}, TypeError, "learned_on"),
        ({"horizon": 1}, ValueError, "horizon"),
    ],
)
def test_an_entry_of_another_kind_is_refused(change, error, match):
    with pytest.raises(error, match=match):
        RuleUse.from_json(ENTRY | change)


@pytest.mark.parametrize("entry", [None, [], "text", {"purpose": "nothing else"}])
def test_what_is_no_entry_is_refused(entry):
    with pytest.raises((TypeError, ValueError), match="A rule's use must"):
        RuleUse.from_json(entry)


def _kernel(stddev: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, stddev, (50, 20))


def test_initial_weights_far_wider_than_expected_are_warned_of():
    assert USE.warning("mine", [_kernel(0.01), np.ones(20)]) is None
    warning = USE.warning("mine", [_kernel(0.01), _kernel(0.2)])
    assert warning == (
        "The rule 'mine' was learned from initial weights of standard deviation 0.01; here a "
        "layer's is 0.2. Other optimizers may then do far better. Load 'other' instead, "
        "or draw kernels by keras.initializers.RandomNormal(stddev=0.01)."
    )


def test_a_rule_for_something_else_is_no_rule_for_a_model():
    use = RuleUse("pixels", False, None, 100, instead="other")
    assert use.warning("mine", [_kernel(1)]) is None  # A variable alone may be a picture.
    assert use.warning("mine", [_kernel(1), np.zeros(20)]) == (
        "The rule 'mine' is for pixels, not for a model's weights. Load 'other' instead."
    )


def test_a_rule_for_any_initial_weights_warns_of_none():
    use = RuleUse("small networks", True, None, 100)
    assert use.is_general
    assert use.warning("mine", [_kernel(100)]) is None


@pytest.fixture
def saved(tmp_path):
    path = export_rule(CoordinatewiseLSTM(units=(2,), seed=0), tmp_path / "mine", {"name": "mine"})
    update_card(path, use=ENTRY)
    return path


def _model(stddev: float) -> keras.Model:
    kernel = keras.initializers.RandomNormal(stddev=stddev, seed=0)
    layers = [keras.Input((8,)), keras.layers.Dense(8, kernel_initializer=kernel)]
    return keras.Sequential(layers)


def _fit(model: keras.Model, optimizer: l2l_tf.LearnedOptimizer) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(np.ones((4, 8)), np.ones((4, 8)), epochs=2, verbose=0)
    return [str(one.message) for one in caught if "was learned from" in str(one.message)]


def test_fit_warns_once_where_the_rule_is_outside_its_use(saved):
    assert len(_fit(_model(0.5), l2l_tf.load(saved))) == 1
    assert _fit(_model(0.01), l2l_tf.load(saved)) == []


def test_mirrored_training_warns_too(saved, two_devices):
    with two_devices.scope():
        model, optimizer = _model(0.5), l2l_tf.load(saved)
    assert len(_fit(model, optimizer)) == 1


def test_training_that_goes_on_is_not_warned_of(saved, tmp_path):
    model = _model(0.01)
    _fit(model, l2l_tf.load(saved))
    model.layers[0].kernel.assign(_kernel(1)[:8, :8])
    model.save(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        loaded.fit(np.ones((4, 8)), np.ones((4, 8)), verbose=0)


def test_a_card_with_a_wrong_entry_is_refused(saved, monkeypatch):
    update_card(saved, use={"purpose": "x"})
    with pytest.raises(ValueError, match="has a wrong entry 'use'"):
        l2l_tf.load(saved)
    monkeypatch.setattr(pretrained, "_FOLDERS", (saved.parent,))
    with pytest.raises(ValueError, match="has a wrong entry 'use'"):
        l2l_tf.list_rules()


def test_every_rule_of_the_package_says_what_it_is_for_and_names_rules_that_there_are():
    rules = l2l_tf.list_rules()
    for name, rule in rules.items():
        assert rule.use is not None, name
        assert rule.use.instead in {None, *rules} - {name}
    assert any(rule.use.is_general for rule in rules.values())
