import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import CoordinatewiseLSTM, GlobalAveragingLSTM
from tests.rules.run_rule import run_rule

SHAPES = [(3, 2), (4,), ()]
SPECS = [ParameterSpec(f"tensor_{index}", shape) for index, shape in enumerate(SHAPES)]
NUM_COORDINATES = 11

# A gate with this input is 1, or passes nothing on that could be seen.
OPEN, SHUT = 40.0, -100.0
# tanh(SMALL x) is SMALL x.
SMALL = 1e-4
# sigmoid(x - TAIL) is exp(x - TAIL).
TAIL = 24.0
# sigmoid(STEEP x) is 1 for x > 0 and 0 for x < 0.
STEEP = 1e6


def _exponentials() -> tuple[np.ndarray, np.ndarray]:
    """Returns w and t with sum_k w_k exp(-t_k u) = u^(-1/2), up to 1e-6, for u in [1, 10^4].

    u^(-1/2) is 2 pi^(-1/2) times the integral of exp(x - u exp(2 x)) over all x, which the
    trapezoidal rule sums. Where u exp(2 x) is tiny, the terms are a geometric series.
    """
    spacing = 0.3
    x = np.arange(-10, 1.5, spacing)
    rest = np.exp(x[0]) / np.expm1(spacing)
    weights = 2 * np.pi**-0.5 * spacing * np.append(np.exp(x), rest)
    return weights, np.append(np.exp(2 * x), 0)


def clipping_rule(
    clip_norm: float, rate: float, num_coordinates: int, dtype: str = "float32"
) -> GlobalAveragingLSTM:
    """Returns a rule that moves against gradients clipped by their global norm.

    With log-and-sign inputs, which are the paper's, a product of powers of |g| is a sum of inputs,
    and the tail of a sigmoid is its exponential. So the first layer's averaging cell has g^2, and
    what it puts out is proportional to u, the square of the norm over that of `clip_norm`. Its two
    other units pass the inputs on.

    A unit of the second layer multiplies: its input gate is proportional to |g| exp(-t_k u), its
    candidate to the sign of g, and its output gate is open only where the norm is too large. The
    output sums such units to g u^(-1/2). One more unit, open where the norm is small enough, is g.

    Args:
        clip_norm: the largest norm that is not clipped.
        rate: the learning rate.
        num_coordinates: the number of coordinates of all tensors.
        dtype: that of the rule.
    """
    weights, decays = _exponentials()
    num_units = len(weights) + 2  # One for small norms, and one that is averaged but not used.
    p = 10.0
    rule = GlobalAveragingLSTM((3, num_units), 1, "log_and_sign", p, dtype=dtype)
    # Gates stand in the order: input, forget, candidate, output.
    kernel = np.zeros((2, 4, 3))
    bias = np.array([[OPEN] * 3, [SHUT] * 3, [0.0] * 3, [OPEN] * 3])
    kernel[0, 2, 0] = SMALL
    kernel[1, 2, 1] = SMALL
    # exp(2 log|g| - TAIL), of a candidate that is one.
    kernel[0, 0, 2], bias[0, 2], bias[2, 2] = 2 * p, -TAIL, OPEN
    of_average = np.exp(TAIL) * num_coordinates / clip_norm**2  # u, of what the cell puts out
    second_kernel = np.zeros((3, 4, num_units))
    second_bias = np.array([[-TAIL], [SHUT], [0.0], [0.0]]) * np.ones(num_units)
    second_kernel[0, 0] = p / SMALL
    second_kernel[1, 2] = 1
    second_kernel[2, 0, : len(decays)] = -of_average * decays
    signs = np.append(np.ones(len(weights)), [-1, -1])
    second_kernel[2, 3] = STEEP * of_average * signs
    second_bias[3] = -STEEP * signs
    output_kernel = -rate * np.exp(TAIL) / SMALL * np.append(weights, [1, 0])
    rule.set_weights(
        [
            kernel.reshape(2, 12),
            np.zeros((3, 12)),
            bias.reshape(12),
            second_kernel.reshape(3, -1),
            np.zeros((num_units, 4 * num_units)),
            second_bias.reshape(-1),
            output_kernel[:, np.newaxis],
            np.zeros(1),
        ]
    )
    return rule


def _gradients(norm: float, draw: np.random.Generator, batch_shape=()) -> list[np.ndarray]:
    """Returns gradients of the tensors, of one global norm for each batch entry."""
    gradients = [draw.standard_normal((*batch_shape, *shape)) for shape in SHAPES]
    # Of very different sizes, and one that is too small for its logarithm.
    gradients[1] *= 1e-3
    gradients[1][..., 0] = 1e-6
    leading = len(batch_shape)
    squares = [np.square(one).reshape(*batch_shape, -1).sum(axis=-1) for one in gradients]
    factors = norm / np.sqrt(sum(squares))
    return [one * factors.reshape(batch_shape + (1,) * (one.ndim - leading)) for one in gradients]


def test_weights_set_by_hand_clip_by_the_global_norm_step_by_step():
    clip_norm, rate = 0.5, 0.1
    bound = clipping_rule(clip_norm, rate, NUM_COORDINATES).bind(SPECS)
    draw = np.random.default_rng(0)
    state = bound.initial_state()
    for norm in [0.3, 1.0, 7.0, 0.499, 0.501, 0.01, 40.0, 1.0]:
        gradients = [tf.constant(one, tf.float32) for one in _gradients(norm, draw)]
        deltas, state = bound.update(gradients, state)
        clipped, found = tf.clip_by_global_norm(gradients, clip_norm)
        assert float(found) == pytest.approx(norm, rel=1e-5)
        for delta, one in zip(deltas, clipped, strict=True):
            np.testing.assert_allclose(delta, -rate * one, rtol=1e-5, atol=1e-12)


def test_in_double_precision_it_clips_as_exactly_as_its_sum_of_exponentials_is():
    weights, decays = _exponentials()
    squares = np.geomspace(1, 1e4, 500)[:, np.newaxis]
    sums = (weights * np.exp(-decays * squares)).sum(axis=1)
    np.testing.assert_allclose(sums, squares[:, 0] ** -0.5, rtol=1e-6)
    bound = clipping_rule(0.5, 0.1, NUM_COORDINATES, "float64").bind(SPECS)
    for norm in (0.4, 0.6, 30.0):
        gradients = [tf.constant(one) for one in _gradients(norm, np.random.default_rng(0))]
        deltas, _ = bound.update(gradients, bound.initial_state())
        clipped, _ = tf.clip_by_global_norm(gradients, 0.5)
        for delta, one in zip(deltas, clipped, strict=True):
            np.testing.assert_allclose(delta, -0.1 * one, rtol=1e-6)


def test_each_task_is_clipped_by_its_own_norm():
    bound = clipping_rule(0.5, 0.1, NUM_COORDINATES).bind(SPECS, (2,))
    large, small = (_gradients(norm, np.random.default_rng(0)) for norm in (5.0, 0.05))
    gradients = [tf.constant(np.stack(pair), tf.float32) for pair in zip(large, small, strict=True)]
    deltas, _ = bound.update(gradients, bound.initial_state())
    for delta, one, other in zip(deltas, large, small, strict=True):
        np.testing.assert_allclose(delta[0], -0.1 * one / 10, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(delta[1], -0.1 * other, rtol=1e-5, atol=1e-12)


def test_without_averaging_cells_it_is_the_coordinatewise_lstm():
    settings = {"preprocessing": "log_and_sign", "output_scale": 0.3, "output_stddev": 0.5}
    gradients = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    averaging = GlobalAveragingLSTM((4, 3), 0, seed=1, **settings)
    np.testing.assert_allclose(
        run_rule(averaging, gradients),
        run_rule(CoordinatewiseLSTM((4, 3), seed=1, **settings), gradients),
        rtol=1e-6,
    )


def test_a_gradient_moves_the_other_coordinates_through_averages_alone():
    gradients = np.ones((3, 5), np.float32)
    changed = gradients.copy()
    changed[0, 0] = 2
    for num_averaged, moves in [(0, False), (1, True)]:
        rule = GlobalAveragingLSTM((4, 3), num_averaged, output_stddev=0.5, seed=0)
        differences = np.abs(run_rule(rule, changed) - run_rule(rule, gradients)).max(axis=0)
        assert differences[0] > 1e-4
        assert (differences[1:] > 1e-6).all() == moves
        assert (differences[1:] > 0).any() == moves


def test_permuting_coordinates_commutes_with_it():
    rule = GlobalAveragingLSTM((4, 3), 2, output_stddev=0.5, seed=0)
    draw = np.random.default_rng(0)
    gradients, order = draw.standard_normal((4, 7)).astype(np.float32), draw.permutation(7)
    np.testing.assert_allclose(
        run_rule(rule, gradients)[:, order],
        run_rule(rule, gradients[:, order]),
        rtol=1e-5,
        atol=1e-7,
    )


def test_untrained_it_moves_nothing():
    gradients = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(run_rule(GlobalAveragingLSTM(seed=0), gradients), 0)


@pytest.mark.parametrize("num_averaged", [-1, 1.5, 4])
def test_the_number_of_averaging_units_must_be_one_of_a_layers_units(num_averaged):
    with pytest.raises(ValueError, match=r"^num_averaged must be"):
        GlobalAveragingLSTM((5, 3), num_averaged)


@pytest.mark.parametrize(
    ("arguments", "start"), [({"preprocessing": "log"}, "preprocessing"), ({"p": 0.0}, "p")]
)
def test_an_argument_out_of_range_is_refused(arguments, start):
    with pytest.raises(ValueError, match=f"^{start} must be"):
        GlobalAveragingLSTM(**arguments)
