import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.golden_trajectory import check_trajectory, difference, golden_trajectory
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.rules import CoordinatewiseLSTM, Route, RoutedRule
from tests.delivery.linear_rule import LinearRule

SHIPPED = sorted(list_rules())


def _trajectory(name: str) -> tuple[np.ndarray, np.ndarray]:
    return check_trajectory(load_card(list_rules()[name])["golden_trajectory"])


def _weights(rule) -> list:
    return [
        weight for part in getattr(rule, "parts", {"": rule}).values() for weight in part.weights
    ]


def _compile(rule) -> None:
    """Has XLA compile the rule's steps."""

    def compiled(function):
        return tf.function(function, autograph=False, jit_compile=True)

    def bind(variables):
        bound = of_tensors(variables)
        bound.update = compiled(bound.update)
        return bound

    if rule.is_coordinatewise:
        rule.call = compiled(rule.call)
    else:
        of_tensors, rule.bind = rule.bind, bind


@pytest.mark.parametrize("name", SHIPPED)
def test_each_rule_repeats_its_trajectory_compiled_or_not(name):
    rule = load_rule(name, replay=False)
    assert difference(rule, *_trajectory(name)) is None
    _compile(rule)
    assert difference(rule, *_trajectory(name)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_a_hundredth_of_any_tensor_of_its_weights_makes_another_rule(name):
    rule, trajectory = load_rule(name, replay=False), _trajectory(name)
    assert len(_weights(rule)) >= 5
    for weight in _weights(rule):
        value = weight.numpy()
        if not value.any():
            continue  # Not trained: a hundredth of zeros is nothing.
        weight.assign(value * np.float32(1.01))
        assert difference(rule, *trajectory) is not None, weight.path
        weight.assign(value)
    assert difference(rule, *trajectory) is None


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_rounded_otherwise_makes_the_same_rule(name):
    rule, trajectory = load_rule(name, replay=False), _trajectory(name)
    draw = np.random.default_rng(1)
    for weight in _weights(rule):
        weight.assign(weight.numpy() * (1 + 1e-7 * draw.choice([-1, 1], weight.shape)))
    assert difference(rule, *trajectory) is None


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class CorrectedRule(LinearRule):
    """Gradient descent with a learned correction of at most 1e-3."""

    def call(self, gradient, state):
        return -gradient + 1e-3 * tf.tanh(self.factor * tf.sign(gradient)), state


def test_what_was_learned_shows_beside_far_larger_deltas_of_other_coordinates():
    rule = CorrectedRule(1.0)
    golden = check_trajectory(golden_trajectory(rule))
    assert np.abs(golden[1]).max() > 100
    rule.set_weights([1.01 * weight for weight in rule.get_weights()])
    error, size = difference(rule, *golden)
    assert error < 1e-4
    assert size < 2e-3


def test_the_difference_is_that_of_the_coordinate_that_is_farthest_off_for_its_size():
    gradients = np.array([[1.0, 1000.0], [2.0, -3000.0]])
    rule = LinearRule(-1.0)
    assert difference(rule, gradients, -gradients) is None
    off = np.array([[0.0, 0.0], [0.25, 30.0]])
    np.testing.assert_allclose(difference(rule, gradients, off - gradients), [0.25, 1.75])


def test_the_difference_of_what_is_not_finite_is_not_a_number():
    gradients = np.array([[1.0, np.nan], [2.0, 1.0]])
    assert np.isnan(difference(LinearRule(-1.0), gradients, np.array([[5.0, 1], [5, 1]]))[0])
    expected = np.array([[-1.0, np.nan], [-2.0, 1.0]])
    assert np.isnan(difference(LinearRule(-1.0), np.nan_to_num(gradients), expected)[0])


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class SensitiveRule(LinearRule):
    """A rule whose deltas double differences of its weight five times at each step."""

    def initial_state(self, num_coordinates):
        return tf.fill([num_coordinates], self.factor.value)

    def call(self, gradient, state):
        for _ in range(5):
            state = 2 * state - tf.floor(2 * state)
        return gradient * state, state


def test_of_a_rule_that_makes_much_of_roundings_more_is_forgiven():
    rule = SensitiveRule(1 / 3)
    gradients = np.ones([2, 3])
    golden = check_trajectory({"gradients": gradients, "deltas": golden_of(rule, gradients)})
    rounded = SensitiveRule(np.nextafter(np.float32(1 / 3), np.float32(1)))
    assert np.abs(golden_of(rounded, gradients) - golden[1]).max() > 2e-5
    assert difference(rounded, *golden) is None
    np.testing.assert_array_equal(rounded.get_weights()[0], np.nextafter(np.float32(1 / 3), 1))
    # More than a rounding of the weight.
    assert difference(SensitiveRule(1.0001 / 3), *golden) is not None


def golden_of(rule, gradients):
    state, deltas = rule.initial_state(gradients.shape[1]), []
    for gradient in gradients.astype(np.float32):
        delta, state = rule(tf.constant(gradient), state)
        deltas.append(delta.numpy())
    return np.stack(deltas)


def test_each_part_has_coordinates_with_small_and_large_gradients():
    parts = [CoordinatewiseLSTM((2,), seed=seed, output_stddev=1.0) for seed in range(2)]
    golden = golden_trajectory(RoutedRule(parts[0], [Route(parts[1], kind="conv")]))
    sizes = np.abs(golden["gradients"]).max(axis=0).reshape(2, 5)
    assert sizes.shape == (2, 5)
    assert (sizes[:, 0] < 1e-5).all()
    assert (sizes[:, -1] > 10).all()


@pytest.mark.parametrize(
    "golden",
    [
        {},
        {"gradients": [[1.0]]},
        {"gradients": [[1.0]], "deltas": [[1.0, 2.0]]},
        {"gradients": [[10**400]], "deltas": [[1.0]]},
        {"gradients": [[0.0]] * 101, "deltas": [[0.0]] * 101},
        {"gradients": [[0.0] * 10_001], "deltas": [[0.0] * 10_001]},
    ],
    ids=range(6),
)
def test_what_is_no_trajectory_is_refused(golden):
    with pytest.raises(ValueError, match=r"^a golden trajectory must have "):
        check_trajectory(golden)
