import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import NTMBFGS, NTMLBFGS
from l2l_tf.rules.ntm_bfgs import MAX_MATRIX_ENTRIES
from tests.reference.bfgs import bfgs, l_bfgs

SHAPES = [(2, 2), (), (3,)]
SIZES = [4, 1, 3]
NUM_COORDINATES = 8
SPECS = [ParameterSpec(f"tensor_{index}", shape) for index, shape in enumerate(SHAPES)]
NUM_STEPS = 14
RULES = {"ntm_bfgs": NTMBFGS, "ntm_lbfgs": NTMLBFGS}
every_rule = pytest.mark.parametrize("name", RULES)


def _quadratic(seed: int = 0):
    """Returns a gradient whose Hessian has eigenvalues from 0.5 to 50, and a point to start at."""
    draw = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(draw.standard_normal((NUM_COORDINATES, NUM_COORDINATES)))
    hessian = directions * np.geomspace(0.5, 50, NUM_COORDINATES) @ directions.T
    minimum = draw.standard_normal(NUM_COORDINATES)
    return (lambda point: hessian @ (point - minimum)), draw.standard_normal(NUM_COORDINATES)


def _run(rule, gradients, starts, num_steps=NUM_STEPS):
    """Returns the deltas of each step, `[T, B, N]`, and the states after it, of B tasks."""
    bound = rule.bind(SPECS, (len(starts),))
    update = tf.function(bound.update, autograph=False)
    state, points, deltas, states = bound.initial_state(), np.stack(starts), [], []
    for _ in range(num_steps):
        now = np.stack([one(point) for one, point in zip(gradients, points, strict=True)])
        parts = np.split(now, np.cumsum(SIZES)[:-1], axis=1)
        tensors = [
            tf.constant(part.reshape(-1, *shape), rule.compute_dtype)
            for part, shape in zip(parts, SHAPES, strict=True)
        ]
        of_tensors, state = update(tensors, state)
        deltas.append(np.concatenate([np.reshape(one, [len(starts), -1]) for one in of_tensors], 1))
        states.append(state)
        points = points + deltas[-1]
    return np.stack(deltas), states


def _matrices(rule, state):
    """Returns the memories of all tasks as matrices."""
    memory = state.shared.memory
    scales = np.where(memory.scale > 0, memory.scale, rule.initial_scale)
    return memory.products.numpy() + scales[:, np.newaxis, np.newaxis] * np.eye(NUM_COORDINATES)


# With weights set by hand


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-7), ("float32", 1e-3)])
def test_it_is_bfgs_step_by_step(dtype, rtol):
    rule = NTMBFGS(initial_scale=0.01, output_scale=0.9, seed=0, dtype=dtype)
    (first, start), (second, other) = _quadratic(0), _quadratic(1)
    deltas, states = _run(rule, [first, second], [start, other])
    for task, (gradient, point) in enumerate([(first, start), (second, other)]):
        expected, inverses = bfgs(gradient, point, 0.01, 0.9, NUM_STEPS)
        for step in range(NUM_STEPS):
            size = np.abs(expected[step]).max()
            # Rounding is amplified by the Hessian's condition number, and more in later steps.
            if dtype == "float32" and step > 8:
                break
            np.testing.assert_allclose(
                deltas[step, task], expected[step], rtol=rtol, atol=rtol * size
            )
            inverse = _matrices(rule, states[step])[task]
            np.testing.assert_allclose(
                inverse, inverses[step], rtol=rtol, atol=rtol * np.abs(inverses[step]).max()
            )


def test_its_memory_is_the_inverse_hessian_of_scipy():
    optimize = pytest.importorskip("scipy.optimize")
    gradient, start = _quadratic()
    rule = NTMBFGS(initial_scale=0.01, output_scale=0.05, dtype="float64", seed=0)
    deltas, states = _run(rule, [gradient], [start])
    scipy = optimize.BFGS(init_scale="auto")
    scipy.initialize(NUM_COORDINATES, "inv_hess")
    point, before = start, gradient(start)
    for delta, state in zip(deltas[:, 0], states[1:], strict=False):
        point = point + delta
        now = gradient(point)
        scipy.update(delta, now - before)
        before = now
        (memory,) = _matrices(rule, state)
        np.testing.assert_allclose(memory, scipy.get_matrix(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("history_size", [3, 20])
def test_with_a_history_it_is_l_bfgs_step_by_step(history_size):
    rule = NTMLBFGS(history_size, initial_scale=0.01, output_scale=0.9, seed=0, dtype="float64")
    gradient, start = _quadratic()
    deltas, _ = _run(rule, [gradient], [start])
    expected = l_bfgs(gradient, start, 0.01, 0.9, NUM_STEPS, history_size)
    for found, wanted in zip(deltas[:, 0], expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-7 * np.abs(wanted).max())


# What it does besides


def _vector_rule(name, **arguments):
    rule = RULES[name](units=(3,), num_averaged=1, initial_scale=0.1, seed=0, **arguments)
    return rule, rule.bind([ParameterSpec("x", (3,))])


@every_rule
@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_it_writes_nothing_where_there_is_no_positive_curvature(name, sign):
    _, bound = _vector_rule(name)
    state = bound.initial_state()
    gradient = tf.constant([1.0, -2.0, 0.5])
    (delta,), state = bound.update([gradient], state)
    np.testing.assert_allclose(delta, -0.1 * gradient, rtol=1e-6)
    # The gradient of a straight line, or of a hill.
    (delta,), after = bound.update([gradient + sign * delta], state)
    for old, new in zip(
        *map(tf.nest.flatten, (state.shared.memory, after.shared.memory)), strict=True
    ):
        np.testing.assert_array_equal(old, new)
    assert np.isfinite(delta).all()


@every_rule
def test_it_writes_no_differences_that_are_rounding(name):
    for size, is_written in [(1e-3, True), (1e-5, False)]:
        _, bound = _vector_rule(name)
        first = tf.constant([100.0, -200.0, 50.0])
        (delta,), state = bound.update([first], bound.initial_state())
        (_,), after = bound.update([first + size * delta], state)
        before, now = (tf.nest.flatten(one.shared.memory) for one in (state, after))
        changed = any(
            (one.numpy() != other.numpy()).any() for one, other in zip(before, now, strict=True)
        )
        assert changed == is_written


@every_rule
def test_the_scale_of_the_loss_changes_no_step_but_the_first(name):
    gradient, start = _quadratic()
    rule = RULES[name](initial_scale=0.01, seed=0, dtype="float64")
    deltas, _ = _run(rule, [gradient], [start], 6)
    scaled = RULES[name](initial_scale=0.01 / 1e4, seed=0, dtype="float64")
    others, _ = _run(scaled, [lambda point: 1e4 * gradient(point)], [start], 6)
    np.testing.assert_allclose(others, deltas, rtol=1e-6, atol=1e-9)


@every_rule
def test_random_heads_are_drawn_from_the_seed(name):
    def heads(seed, heads="random"):
        rule = RULES[name](heads=heads, seed=seed)
        return np.concatenate([one.numpy().ravel() for one in rule.weights if "heads" in one.name])

    np.testing.assert_array_equal(heads(0), heads(0))
    assert np.abs(heads(0) - heads(1)).min() > 0
    assert heads(0).std() == pytest.approx(0.1, rel=0.5)
    assert set(heads(0, "hand_set")) == {-1.0, 0.0, 1.0}


@every_rule
def test_variables_without_any_coordinate_are_left_as_they_are(name):
    bound = RULES[name](seed=0).bind([ParameterSpec("empty", (0, 3))])
    (delta,), _ = bound.update([tf.zeros([0, 3])], bound.initial_state())
    assert delta.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "start"),
    [({"heads": "learned"}, "heads"), ({"initial_scale": 0.0}, "initial_scale")],
)
@every_rule
def test_an_argument_out_of_range_is_refused(name, arguments, start):
    with pytest.raises(ValueError, match=f"^{start} must be"):
        RULES[name](**arguments)


def test_a_history_has_at_least_one_write():
    with pytest.raises(ValueError, match=r"^history_size must be"):
        NTMLBFGS(0)


def test_a_matrix_that_would_be_too_large_is_refused_with_one_sentence():
    rule, side = NTMBFGS(seed=0), 2**13
    assert side**2 == MAX_MATRIX_ENTRIES
    rule.bind([ParameterSpec("x", (side,))])
    with pytest.raises(ValueError) as raised:
        rule.bind([ParameterSpec("x", (side // 2,))], (3, 2))
    assert str(raised.value) == (
        "variables of an NTMBFGS must be few, since its memory is the square of their number, at "
        "most 67,108,864 in all tasks. Received: 4,096 coordinates in each of 6 tasks. Use "
        "NTMLBFGS, whose memory is linear, or a coordinatewise rule."
    )
    # A Keras model's first step says so.
    optimizer = l2l_tf.LearnedOptimizer(rule)
    with pytest.raises(ValueError, match="NTMLBFGS"):
        optimizer.build([tf.keras.Variable(np.zeros(side + 1, np.float32))])
