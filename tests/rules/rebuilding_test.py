import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.rules import SGD, CoordinatewiseLSTM, CoordinatewiseRule, RNNprop, Route, RoutedRule
from l2l_tf.rules.rebuilding import (
    check_registered,
    nested_dictionaries,
    reason,
    rebuilt_predicate,
    rebuilt_rule,
)

serialized = keras.saving.serialize_keras_object


@keras.saving.register_keras_serializable(package="rebuilding")
def is_matrix(variable):
    return len(variable.shape) == 2


@keras.saving.register_keras_serializable(package="rebuilding")
class OfRank:
    """A predicate with an argument."""

    def __init__(self, rank):
        self.rank = rank

    def __call__(self, variable):
        return len(variable.shape) == self.rank

    def get_config(self):
        return {"rank": self.rank}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="rebuilding")
class CellRule(CoordinatewiseRule, keras.layers.Layer):
    """A rule with objects of Keras's own in its configuration, which makes its weights late."""

    def __init__(self, cell, initializer, rates, **arguments):
        super().__init__(**arguments)
        self.cell = cell
        self.initializer = initializer
        self.rates = rates

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer=self.initializer)

    def initial_state(self, num_coordinates):
        return tf.zeros([])

    def call(self, gradient, state):
        return self.factor * gradient, state

    def get_config(self):
        own = {"cell": self.cell, "initializer": self.initializer, "rates": self.rates}
        return super().get_config() | {name: serialized(one) for name, one in own.items()}

    @classmethod
    def from_config(cls, config):
        own = ("cell", "initializer", "rates")
        made = {name: keras.saving.deserialize_keras_object(config[name]) for name in own}
        return super().from_config(config | made)


@pytest.mark.parametrize("rule", [SGD(0.1), CoordinatewiseLSTM((2,)), RNNprop((3, 2), 4, seed=1)])
def test_rules_of_the_package_come_back(rule):
    rebuilt = rebuilt_rule(serialized(rule))
    assert type(rebuilt) is type(rule)
    assert rebuilt.get_config() == rule.get_config()


def test_a_rule_with_parts_comes_back():
    rule = RoutedRule(RNNprop((2,)), [Route(RNNprop((3,)), predicate=is_matrix)])
    rebuilt = rebuilt_rule(serialized(rule))
    assert [part.units for part in rebuilt.parts.values()] == [(3,), (2,)]
    assert rebuilt.routes[0].predicate is is_matrix


@pytest.mark.parametrize(
    "cell",
    [
        keras.layers.LSTMCell(3, kernel_regularizer="l2", activation=keras.activations.relu),
        keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, bias_constraint="non_neg")]),
    ],
)
def test_a_rule_of_the_user_comes_back_with_what_its_configuration_holds_of_keras(cell):
    rule = CellRule(cell, keras.initializers.Constant(2.0), np.array([1.0, 2.0]))
    rule(tf.ones([2]), rule.initial_state(2))
    rebuilt = rebuilt_rule(serialized(rule))
    assert rebuilt.built
    assert rebuilt.cell.get_config() == cell.get_config()
    np.testing.assert_array_equal(rebuilt.factor, 2.0)
    np.testing.assert_array_equal(rebuilt.rates, [1.0, 2.0])


def test_a_rule_that_is_not_registered_comes_back_where_it_is_given():
    class Mine(CoordinatewiseLSTM):
        pass

    config = serialized(Mine((2,)))
    with pytest.raises(ValueError, match="config must name only what is registered"):
        rebuilt_rule(config)
    with keras.saving.custom_object_scope({"Mine": Mine}):
        assert type(rebuilt_rule(config)) is Mine


def test_predicates_come_back():
    assert rebuilt_predicate(None) is None
    assert rebuilt_predicate(serialized(is_matrix)) is is_matrix
    assert rebuilt_predicate(serialized(OfRank(3))).rank == 3
    # As Keras up to 3.6 wrote it.
    old = {"module": "builtins", "class_name": "function", "config": "is_matrix"}
    assert rebuilt_predicate(old | {"registered_name": "is_matrix"}) is is_matrix


def test_what_is_refused_is_named():
    config = serialized(CoordinatewiseLSTM((2,)))
    config["config"]["p"] = [{"module": "keras_hub", "class_name": "Foo", "config": {}}]
    with pytest.raises(ValueError) as raised:
        check_registered(config)
    assert str(raised.value) == (
        "config must name only what is registered with Keras in this process. Received: "
        "module='keras_hub', class_name='Foo', registered_name=None. If it is yours, import the "
        "module that registers it first (keras.saving.register_keras_serializable); if not, do not "
        "load the file."
    )


def test_a_rule_with_more_units_than_weights_is_not_made():
    config = serialized(RoutedRule(RNNprop((20,)), [Route(RNNprop((30,)), kind="conv")]))
    # 4 H^2 recurrent weights each, 20 units of the dense layers.
    assert rebuilt_rule(config, 4 * 20**2 + 4 * 30**2 + 40)
    with pytest.raises(ValueError) as raised:
        rebuilt_rule(config, 4 * 20**2 + 4 * 30**2 + 39)
    assert str(raised.value) == (
        "config must be that of a rule with the weights that are saved. Received: more units than "
        "they are for. Save the rule again."
    )


def test_json_is_visited_to_a_depth():
    values = {"a": [{"b": 1}, [[{"c": {}}]]]}
    assert sorted(map(sorted, nested_dictionaries(values))) == [[], ["a"], ["b"], ["c"]]
    for _ in range(200):
        values = [values]
    with pytest.raises(ValueError, match="JSON must be nested at most 200 deep"):
        list(nested_dictionaries(values))


def test_what_keras_says_of_a_constructor_is_shortened_to_what_the_constructor_says():
    config = serialized(CoordinatewiseLSTM((2,)))
    config["config"]["p"] = -1
    with pytest.raises(TypeError) as raised:
        rebuilt_rule(config)
    assert reason(raised.value) == (
        "p must be positive and at most 80, or e^p overflows float32. Received: p=-1. "
        "The paper uses 10"
    )
    assert reason(KeyError("rule")) == "there is no entry 'rule'"
    assert reason(ValueError("a\n\n b.")) == "a b"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("a" * 1000)) == "a" * 400 + "..."
