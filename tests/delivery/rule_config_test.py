import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.delivery.rule_config import (
    are_same_rules,
    copy_rule,
    route_from_config,
    route_to_config,
    rule_from_config,
    rule_to_config,
    rules_to_bytes,
)
from l2l_tf.rules import SGD, Adam, CoordinatewiseLSTM, RMSprop, Route
from tests.delivery.linear_rule import LinearRule


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class LazyRule(LinearRule):
    """A rule that makes its weights at its first call."""

    def __init__(self, **arguments):
        keras.layers.Layer.__init__(self, **{"dtype": "float32"} | arguments)

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")

    def get_config(self):
        return keras.layers.Layer.get_config(self)


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
def is_square(variable):
    return len(set(variable.shape)) == 1


def _rule() -> CoordinatewiseLSTM:
    rule = CoordinatewiseLSTM((3, 2), "log_and_sign", p=7.0, seed=0)
    draw = np.random.default_rng(0)
    rule.set_weights([draw.standard_normal(one.shape) for one in rule.get_weights()])
    return rule


def _through_json(config):
    return json.loads(json.dumps(config))


def test_a_learned_rule_comes_back_with_the_bits_of_its_weights():
    rule = _rule()
    rebuilt = rule_from_config(_through_json(rule_to_config(rule)))
    assert rebuilt.get_config() == rule.get_config()
    for one, other in zip(rebuilt.get_weights(), rule.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "rule",
    [SGD(0.1, 0.9, nesterov=True), RMSprop(0.2, rho=0.8), Adam(0.3, beta_2=0.9, epsilon=1e-3)],
)
def test_a_hand_designed_rule_comes_back_with_its_constants(rule):
    rebuilt = rule_from_config(_through_json(rule_to_config(rule)))
    assert type(rebuilt) is type(rule)
    assert vars(rebuilt) == vars(rule)


def test_a_rate_for_each_coordinate_comes_back():
    rebuilt = rule_from_config(_through_json(rule_to_config(SGD(tf.constant([0.25, 0.5])))))
    delta, _ = rebuilt(tf.ones([2]), rebuilt.initial_state(2))
    np.testing.assert_array_equal(delta, [-0.25, -0.5])


def test_a_configuration_is_the_same_before_and_after_a_call():
    rule = LinearRule()
    before = rule_to_config(rule)
    rule(tf.ones([3]), rule.initial_state(3))
    assert rule_to_config(rule) == before


def test_a_rule_that_makes_its_weights_late_comes_back_with_them():
    rule = LazyRule()
    rule(tf.ones([2]), rule.initial_state(2))
    rule.set_weights([np.float32(-3.0)])
    for rebuilt in (rule_from_config(_through_json(rule_to_config(rule))), copy_rule(rule)):
        delta, _ = rebuilt(tf.ones([2]), rebuilt.initial_state(2))
        np.testing.assert_array_equal(delta, [-3.0, -3.0])


def test_a_copy_has_weights_of_its_own_that_are_not_trainable():
    rule = _rule()
    copy = copy_rule(rule)
    for one, other in zip(copy.get_weights(), rule.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rule.set_weights([0 * one for one in rule.get_weights()])
    assert any(np.any(one) for one in copy.get_weights())
    assert not copy.trainable_variables


def test_rules_that_differ_in_nothing_but_their_weights_are_the_same():
    one, other = (
        CoordinatewiseLSTM((3,), output_stddev=0.1 * seed, seed=seed, name=f"rule_{seed}")
        for seed in (1, 2)
    )
    assert are_same_rules(rules_to_bytes([one]), rules_to_bytes([other]))
    assert not are_same_rules(rules_to_bytes([one]), rules_to_bytes([one, one]))


def test_an_argument_that_an_earlier_version_did_not_know_makes_no_other_rule():
    saved = json.loads(rules_to_bytes([SGD(0.1, 0.9)]).tobytes())
    del saved[0]["config"]["nesterov"]
    earlier = np.frombuffer(json.dumps(saved).encode(), np.uint8)
    assert are_same_rules(earlier, rules_to_bytes([SGD(0.1, 0.9)]))
    assert not are_same_rules(earlier, rules_to_bytes([SGD(0.1, 0.5)]))


@pytest.mark.parametrize("given", [{"kind": "conv"}, {"name": "a.*b"}, {"predicate": is_square}])
def test_a_route_comes_back(given):
    route = Route(SGD(0.1), **given)
    rebuilt = route_from_config(_through_json(route_to_config(route)))
    assert (rebuilt.kind, rebuilt.name, rebuilt.predicate) == (
        route.kind,
        route.name,
        route.predicate,
    )
    assert rebuilt.rule.learning_rate == 0.1


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_code_in_a_model_file_is_run_only_where_the_user_has_turned_off_the_safe_mode(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    route = Route(SGD(0.5), predicate=lambda variable: variable.path.endswith("bias"))
    model.compile(LearnedOptimizer(SGD(0.1), [route]), "mse")
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="Requested the deserialization of a Python lambda"):
        keras.saving.load_model(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=False)
    rules = [loaded.optimizer.rule_for(variable) for variable in loaded.variables[:2]]
    assert [rule.learning_rate for rule in rules] == [0.1, 0.5]


def test_a_rule_that_is_not_registered_is_found_where_it_is_given(tmp_path):
    class Mine(LinearRule):
        pass

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(LearnedOptimizer(Mine(-0.5)), "mse")
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="class_name='Mine'"):
        keras.saving.load_model(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", custom_objects={"Mine": Mine})
    assert type(loaded.optimizer.rule_for(loaded.variables[0])) is Mine


@pytest.mark.parametrize("saved", [b"", b"\xff", b"[" * 100_000, b"[" * 2000 + b"]" * 2000])
def test_what_is_none_of_a_saved_rule_is_of_another_rule(saved):
    assert not are_same_rules(np.frombuffer(saved, np.uint8), rules_to_bytes([SGD(0.1)]))
