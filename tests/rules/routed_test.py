"""A rule with parts, against its parts used separately."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import SGD, CoordinatewiseLSTM, RNNprop, Route, RoutedRule, StepInfo
from l2l_tf.rules.coordinatewise import OnCoordinates
from l2l_tf.rules.execution import side_by_side
from l2l_tf.rules.execution.chunks import InChunks
from l2l_tf.rules.execution.side_by_side import PART_SIZE, SideBySide
from tests.rules.run_rule import run_rule
from tests.training.toys import LearnedLength, WeightDecay

VARIABLES = [
    ParameterSpec("first/kernel", (3, 1, 1, 2)),
    ParameterSpec("first/bias", (2,)),
    ParameterSpec("nothing/kernel", (1, 1, 0, 4)),
    ParameterSpec("second/kernel", (1, 2, 2, 1)),
    ParameterSpec("dense/kernel", (2, 3)),
    ParameterSpec("scale", ()),
]
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
    rule = _rule().bind(VARIABLES)
    call = tf.function(rule, autograph=False) if compiled else rule
    gradients = _gradients()
    state = rule.initial_state()
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
    rule = _rule().bind(VARIABLES[1:3])
    assert {name: part.num_coordinates for name, part in rule.parts.items()} == {"other": 2}
    assert list(rule.initial_state()) == ["other"]
    gradients = _gradients(2)
    np.testing.assert_allclose(run_rule(rule, gradients), run_rule(_lstm(0), gradients), rtol=1e-12)


def test_axes_of_tasks_and_functions_play_no_part_in_what_a_tensor_is():
    # With them, the vector would have the rank of a matrix or of a kernel, and so on.
    variables = [ParameterSpec("bias", (2,)), ParameterSpec("matrix", (2, 3))]
    rule = RoutedRule(
        _lstm(0), [Route(_lstm(1), kind="vector"), Route(_lstm(2), kind="dense")], name="rule"
    )
    gradients = _gradients(8 * 12)
    for batch_shape in ((12,), (3, 4), (1, 2, 6)):
        bound = rule.bind(variables, batch_shape)
        assert bound.layout.shapes == [(*batch_shape, 2), (*batch_shape, 2, 3)]
        wanted = [run_rule(_lstm(1), gradients[:, :24]), run_rule(_lstm(2), gradients[:, 24:])]
        np.testing.assert_allclose(
            run_rule(bound, gradients), np.concatenate(wanted, axis=1), rtol=1e-12
        )


# How its parts run

# Chunks and parts that do not divide what each part has: 10 coordinates and 9.
FORMS = {
    "chunks": (False, 4, InChunks),
    "side_by_side": (True, 0, SideBySide),
    "side_by_side_in_chunks": (True, 8, InChunks),
}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """How large chunks are, 0 for none; and as if there were many coordinates for many cores."""
    is_side_by_side, chunk_size, kind = FORMS[request.param]
    if is_side_by_side:
        request.getfixturevalue("one_thread_per_operation")
        monkeypatch.setattr(side_by_side, "PART_SIZE", 3)
    return chunk_size, kind


def test_parts_cut_up_give_the_deltas_of_whole_ones(form):
    rule = _rule().bind(VARIABLES)
    chunk_size, kind = form
    cut = rule.for_training(1, chunk_size)
    assert {type(part) for part in cut.parts.values()} == {kind}
    np.testing.assert_allclose(
        run_rule(cut, _gradients()), run_rule(rule, _gradients()), rtol=1e-12
    )


def test_a_state_of_parts_is_whole_in_a_checkpoint_and_goes_on_in_any_form(form):
    rule, gradients = _rule().bind(VARIABLES), _gradients()
    cut = rule.for_training(1, form[0])
    wanted = run_rule(rule, gradients)
    states = [rule.initial_state(), cut.initial_state()]
    for gradient in tf.constant(gradients[:2]):
        for index, one in enumerate((rule, cut)):
            _, states[index] = one(gradient, states[index])
    whole = cut.whole_state(states[1])
    for ours, theirs in zip(tf.nest.flatten(whole), tf.nest.flatten(states[0]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    tf.nest.assert_same_structure(whole, states[0])
    tf.nest.map_structure(
        np.testing.assert_array_equal, cut.whole_state(cut.cut_state(whole)), whole
    )
    # What was whole goes on in pieces, and the other way round.
    for one, state in ((cut, cut.cut_state(rule.whole_state(states[0]))), (rule, whole)):
        delta, _ = one(tf.constant(gradients[2]), state)
        np.testing.assert_allclose(delta, wanted[2], rtol=1e-12)


def test_each_part_is_cut_by_its_own_size(one_thread_per_operation):
    variables = [ParameterSpec("a", (1, 1, 1, PART_SIZE)), ParameterSpec("b", (PART_SIZE + 1,))]
    rule = _rule()
    for bound in (rule.bind(variables).for_steps(), rule.bind(variables).for_training(1)):
        assert isinstance(bound.parts["conv"], OnCoordinates)
        assert bound.parts["conv"].rule is rule.parts["conv"]
        assert isinstance(bound.parts["other"], SideBySide)


def test_all_parts_are_replayed_or_none():
    variables = [ParameterSpec("a", (1000, 1000)), ParameterSpec("b", (500,))]
    rule = RoutedRule(CoordinatewiseLSTM(), [Route(CoordinatewiseLSTM(), kind="vector")])
    bound = rule.bind(variables)
    parts = bound.parts.values()
    assert bound.tape_bytes(20) == sum(part.tape_bytes(20) for part in parts)
    # Small as it is, what has 500 coordinates too.
    replayed = bound.for_training(20)
    assert replayed.is_replayed
    assert {name: part.chunk_size for name, part in replayed.parts.items()} == {
        "vector": 16384,
        "other": 16384,
    }
    kept = bound.for_training(1)
    assert not kept.is_replayed
    assert {type(part) for part in kept.parts.values()} == {OnCoordinates}


def test_with_a_part_of_whole_tensors_none_are_replayed_however_large_they_are():
    variables = [ParameterSpec("a", (1000, 1000)), ParameterSpec("b", (500,))]
    rule = RoutedRule(CoordinatewiseLSTM(), [Route(LearnedLength(), kind="vector")])
    bound = rule.bind(variables).for_training(20)
    assert not bound.is_replayed
    assert isinstance(bound.parts["other"], OnCoordinates)
    with pytest.raises(ValueError, match=r"^chunk_size must be None or 0 for a rule that is not"):
        rule.bind(variables).for_training(20, chunk_size=100)


def test_the_gradient_over_stored_gradients_is_that_of_each_part():
    # Of the parts, "dense" has no tensor.
    rule = RoutedRule(_lstm(0), [Route(_lstm(1), kind="conv"), Route(_lstm(2), kind="dense")])
    variables = [VARIABLES[index] for index in (0, 1, 2, 3, 5)]
    bound = rule.bind(variables).for_training(3, chunk_size=4)
    gradients = tf.constant(_gradients(13))
    step_weights = tf.constant([1.0, 0.5, 2.0], tf.float64)
    state = bound.initial_state()
    result = bound.pullback(state, gradients[0], gradients[1:], step_weights, 2)
    conv, other = np.r_[0:6, 8:12], np.r_[6:8, 12]
    expected = []
    for name, own in (("conv", conv), ("other", other)):
        seen = tf.gather(gradients, own, axis=1)
        expected.append(bound.parts[name].pullback(state[name], seen[0], seen[1:], step_weights, 2))
    zeros = [tf.zeros_like(weight.value) for weight in rule.parts["dense"].trainable_variables]
    expected.insert(1, zeros)
    for ours, theirs in zip(result, tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# Parts that look at whole tensors


def test_each_part_learns_what_it_needs_of_a_step():
    variables = [ParameterSpec("matrix", (2, 3)), ParameterSpec("a", (2,)), ParameterSpec("b", ())]
    rule = RoutedRule(_lstm(0), [Route(WeightDecay(), kind="vector")])
    bound = rule.bind(variables, (2,))
    assert bound.needs == {"step", "losses", "parameters"}
    draw = np.random.default_rng(0).standard_normal
    gradient, parameters, losses = draw(18), draw(18), draw(2)
    info = StepInfo(tf.constant(3), tf.constant(losses), tf.constant(parameters))
    delta, _ = bound(tf.constant(gradient), bound.initial_state(), info)
    np.testing.assert_allclose(
        delta[:12], run_rule(_lstm(0), gradient[np.newaxis, :12])[0], rtol=1e-12
    )
    # Two batch entries of "a", [2], and then of "b".
    factors = np.concatenate([np.repeat(losses, 2), losses]) / 4
    expected = -0.125 * (gradient[12:] + factors * parameters[12:])
    np.testing.assert_allclose(delta[12:], expected, rtol=1e-12)


def test_what_only_a_part_without_tensors_needs_is_not_asked_for():
    rule = RoutedRule(_lstm(0), [Route(WeightDecay(), kind="conv")])
    assert not rule.bind([ParameterSpec("matrix", (2, 3))]).needs


# Weights and configurations


def test_parts_are_trained_together_in_the_order_in_which_they_are_named():
    rule = RoutedRule(
        _lstm(0), [Route(_lstm(1), name="bias"), Route(RNNprop(dtype="float64"), kind="dense")]
    )
    assert list(rule.parts) == ["route_0", "dense", "other"]
    own = [weight for part in rule.parts.values() for weight in part.trainable_variables]
    for trained in (rule.trainable_variables, rule.bind(VARIABLES).trainable_variables):
        assert [id(weight) for weight in trained] == [id(weight) for weight in own]


def test_a_rescaled_copy_has_the_same_routes_and_weights():
    def is_small(variable):
        return np.prod(variable.shape) < 10

    rule = RoutedRule(
        _lstm(0),
        [
            Route(_lstm(1), kind="conv"),
            Route(_lstm(2), name="gamma"),
            Route(_lstm(3), predicate=is_small),
        ],
        name="mine",
    )
    made = rule.rescaled(3)
    assert made.name == "mine"
    assert [(one.kind, one.name, one.predicate) for one in made.routes] == [
        ("conv", None, None),
        (None, "gamma", None),
        (None, None, is_small),
    ]
    assert list(made.parts) == list(rule.parts)
    for name, part in made.parts.items():
        assert part is not rule.parts[name]
        for one, other in zip(part.weights, rule.parts[name].weights, strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_configuration_makes_it_again():
    rule = RoutedRule(
        _lstm(0), [Route(_lstm(1), kind="conv"), Route(_lstm(2), name="d.*/kernel")], name="mine"
    )
    again = RoutedRule.from_config(rule.get_config())
    assert again.get_config() == rule.get_config()
    assert again.name == "mine"
    again.set_weights(rule.get_weights())
    np.testing.assert_array_equal(
        *(run_rule(one.bind(VARIABLES), _gradients()) for one in (rule, again))
    )


def test_checkpoints_of_tensorflow_hold_the_weights_of_all_parts(tmp_path):
    rule, other = _rule(), RoutedRule(_lstm(5), [Route(_lstm(6), kind="conv")])
    path = tf.train.Checkpoint(rule=rule).save(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(rule=other).restore(path).assert_existing_objects_matched()
    for one, same in zip(rule.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)


# Arguments of another kind


class _Unbound(keras.layers.Layer):
    """A layer that can't be bound to tensors."""

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
    "no_rule": (
        lambda: RoutedRule(_Unbound(name="layer"), [Route(LSTM, kind="conv")]),
        "Parts of a RoutedRule must be learned rules, which are Keras layers, with one part each. "
        "Received: <_Unbound name=layer, built=False>. "
        "Hand-designed rules go into routes of LearnedOptimizer.",
    ),
    "parts_of_parts": (
        lambda: RoutedRule(
            RoutedRule(_lstm(1), [Route(_lstm(2), kind="dense")], name="inner"),
            [Route(LSTM, kind="conv")],
        ),
        "Parts of a RoutedRule must be learned rules, which are Keras layers, with one part each. "
        "Received: <RoutedRule name=inner, built=True>. "
        "Hand-designed rules go into routes of LearnedOptimizer.",
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
        "bind and LearnedOptimizer do.",
    ),
    "no_dictionary": (
        lambda: _rule().initial_state(3),
        "A RoutedRule must be given a dictionary with entries for its parts, ['conv', 'other']. "
        "Received: int. Say which coordinates are whose: for those of a problem or a model, "
        "bind and LearnedOptimizer do.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_is_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError)) as raised:
        make()
    assert re.sub("0x[0-9a-f]+", "0x", str(raised.value)) == message
