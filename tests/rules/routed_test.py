"""A rule with parts, against its parts on their own."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems.problem import ParameterSpec
from l2l_tf.rules import SGD, CoordinatewiseLSTM, RNNprop, Route, RoutedRule
from l2l_tf.rules.chunks import InChunks
from l2l_tf.rules.routed import OnVariables, on_problem
from l2l_tf.rules.side_by_side import PART_SIZE, SideBySide, arrange
from tests.rules.run_rule import run_rule

VARIABLES = [
    ParameterSpec("first/kernel", (3, 1, 1, 2)),
    ParameterSpec("first/bias", (2,)),
    ParameterSpec("nothing/kernel", (1, 1, 0, 4)),
    ParameterSpec("second/kernel", (1, 2, 2, 1)),
    ParameterSpec("dense/kernel", (2, 3)),
    ParameterSpec("scale", ()),
]
SIZES = [6, 2, 0, 4, 6, 1]
# Where the kernels of convolutions stand in the flat vector, and where all others do.
CONV = np.r_[0:6, 8:12]
OTHERS = np.r_[6:8, 12:19]


def _lstm(seed: int, **arguments) -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), output_stddev=0.3, seed=seed, dtype="float64", **arguments)


def _rule() -> RoutedRule:
    return RoutedRule(_lstm(0), [Route(_lstm(1), kind="conv")])


def _gradients(num_coordinates: int = 19) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((4, num_coordinates))


@pytest.mark.parametrize("compiled", [False, True])
def test_each_part_updates_the_variables_that_are_sent_to_it(compiled):
    rule = OnVariables(_rule(), VARIABLES, SIZES)
    call = tf.function(rule) if compiled else rule
    gradients = _gradients()
    state = rule.initial_state(19)
    wanted = np.empty_like(gradients)
    wanted[:, CONV] = run_rule(_lstm(1), gradients[:, CONV])
    wanted[:, OTHERS] = run_rule(_lstm(0), gradients[:, OTHERS])
    for gradient, expected in zip(gradients, wanted, strict=True):
        delta, state = call(tf.constant(gradient), state)
        np.testing.assert_allclose(delta, expected, rtol=1e-12)


def test_called_by_itself_it_answers_part_by_part():
    rule, gradients = _rule(), _gradients()
    state = rule.initial_state({"conv": 10, "other": 9})
    for gradient in gradients[:2]:
        given = {"conv": tf.constant(gradient[CONV]), "other": tf.constant(gradient[OTHERS])}
        deltas, state = rule(given, state)
    np.testing.assert_allclose(
        deltas["conv"], run_rule(_lstm(1), gradients[:2, CONV])[-1], rtol=1e-12
    )
    np.testing.assert_allclose(
        deltas["other"], run_rule(_lstm(0), gradients[:2, OTHERS])[-1], rtol=1e-12
    )


def test_a_part_without_coordinates_is_left_out():
    rule = OnVariables(_rule(), VARIABLES[1:3], SIZES[1:3])
    assert rule.num_coordinates == {"other": 2}
    gradients = _gradients(2)
    np.testing.assert_allclose(run_rule(rule, gradients), run_rule(_lstm(0), gradients), rtol=1e-12)


ARRANGEMENTS = {
    "chunks": lambda rule, _: InChunks(rule, 4),
    "side_by_side": lambda rule, _: SideBySide(rule, 4),
    "side_by_side_in_chunks": lambda rule, _: InChunks(SideBySide(rule, 2), 4),
}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_parts_cut_up_give_the_deltas_of_whole_ones(arrangement):
    rule = OnVariables(_rule(), VARIABLES, SIZES)
    cut = rule.with_parts(ARRANGEMENTS[arrangement])
    np.testing.assert_allclose(
        run_rule(cut, _gradients()), run_rule(rule, _gradients()), rtol=1e-12
    )


def test_each_part_is_arranged_by_its_own_size(one_thread_per_operation):
    variables = [ParameterSpec("a", (1, 1, 1, PART_SIZE)), ParameterSpec("b", (PART_SIZE + 1,))]
    rule = OnVariables(_rule(), variables, [PART_SIZE, PART_SIZE + 1])
    arranged = arrange(rule, 2 * PART_SIZE + 1).arranged
    assert arranged["conv"] is rule.rule.parts["conv"]
    assert isinstance(arranged["other"], SideBySide)


def test_parts_are_trained_together_in_the_order_in_which_they_are_named():
    rule = RoutedRule(
        _lstm(0), [Route(_lstm(1), name="bias"), Route(RNNprop(dtype="float64"), kind="dense")]
    )
    assert list(rule.parts) == ["route_0", "dense", "other"]
    own = [weight for part in rule.parts.values() for weight in part.trainable_variables]
    for trained in (rule.trainable_variables, on_problem(rule, _Problem).trainable_variables):
        assert [id(weight) for weight in trained] == [id(weight) for weight in own]


class _Problem:
    variables = VARIABLES
    parameter_shapes = tuple(variable.shape for variable in VARIABLES)


def test_any_other_rule_is_on_a_problem_what_it_is():
    rule = SGD(0.1)
    assert on_problem(rule, _Problem) is rule


def test_a_configuration_makes_it_again():
    rule = RoutedRule(
        _lstm(0), [Route(_lstm(1), kind="conv"), Route(_lstm(2), name="d.*/kernel")], name="mine"
    )
    again = RoutedRule.from_config(rule.get_config())
    assert again.get_config() == rule.get_config()
    assert again.name == "mine"
    again.set_weights(rule.get_weights())
    np.testing.assert_array_equal(
        *(run_rule(OnVariables(one, VARIABLES, SIZES), _gradients()) for one in (rule, again))
    )


def test_checkpoints_of_tensorflow_hold_the_weights_of_all_parts(tmp_path):
    rule, other = _rule(), RoutedRule(_lstm(5), [Route(_lstm(6), kind="conv")])
    path = tf.train.Checkpoint(rule=rule).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(rule=other).restore(path).assert_existing_objects_matched()
    for one, same in zip(rule.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


# Arguments of another kind


class _Named(keras.layers.Layer):
    """A learned rule that would mix coordinates."""

    is_coordinatewise = False

    def initial_state(self, num_coordinates):
        return ()


LSTM = _lstm(0)
REFUSED = {
    "hand_designed": (
        lambda: RoutedRule(SGD(0.1), [Route(LSTM, kind="conv")]),
        "Parts of a RoutedRule must be learned rules, which are Keras layers, with one part each. "
        "Received: <l2l_tf.rules.hand_designed.SGD object at 0x>. "
        "Hand-designed rules go into routes of LearnedOptimizer.",
    ),
    "mixing": (
        lambda: RoutedRule(_Named(name="mixing"), [Route(LSTM, kind="conv")]),
        "Parts of a RoutedRule must be coordinatewise. Received: <_Named name=mixing, "
        "built=False>. Leave it out.",
    ),
    "the_same_twice": (
        lambda: RoutedRule(LSTM, [Route(LSTM, kind="conv")]),
        "Parts of a RoutedRule must be different layers, as each has weights of its own. "
        "Received: the same for two of ['conv', 'other']. Make one for each.",
    ),
    "dtypes": (
        lambda: RoutedRule(CoordinatewiseLSTM(), [Route(LSTM, kind="conv")]),
        "Parts of a RoutedRule must be of one dtype. Received: {'conv': 'float64', 'other': "
        "'float32'}. Make all of them float32.",
    ),
    "no_route": (
        lambda: RoutedRule(LSTM, []),
        "routes must hold one or more routes, at most one of each kind. Received: routes=[]. "
        "Take the rule itself where one is enough.",
    ),
    "unknown_part": (
        lambda: _rule().initial_state({"dense": 3}),
        "A RoutedRule must be given a dictionary with entries for its parts, ['conv', 'other']. "
        "Received: ['dense']. Say which coordinates are whose: for those of a problem or a model, "
        "OnVariables and LearnedOptimizer do.",
    ),
    "no_dictionary": (
        lambda: _rule().initial_state(3),
        "A RoutedRule must be given a dictionary with entries for its parts, ['conv', 'other']. "
        "Received: int. Say which coordinates are whose: for those of a problem or a model, "
        "OnVariables and LearnedOptimizer do.",
    ),
    "another_number": (
        lambda: OnVariables(_rule(), VARIABLES, SIZES).initial_state(20),
        "num_coordinates must be that of the variables. Received: num_coordinates=20 with "
        "variables of 19. Make one for each problem.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert re.sub("0x[0-9a-f]+", "0x", str(raised.value)) == message
