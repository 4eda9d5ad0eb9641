import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer, load
from l2l_tf.delivery.random_rounding import noise_for, rounded_at_random
from l2l_tf.rules import CoordinatewiseLSTM

NUM_DRAWS = 20_000


def _round(values, seed: int = 0) -> np.ndarray:
    values = tf.constant(values, tf.float32)
    return rounded_at_random(values, noise_for(values.shape, [seed, 1])).numpy()


@pytest.mark.parametrize("columns", [1, 3, 20])
def test_noise_is_uniform_in_each_column_and_columns_differ(columns):
    noise = noise_for([NUM_DRAWS, columns], [3, 4]).numpy() / 2.0**32
    # Five standard errors of mean and variance of a uniform number.
    np.testing.assert_allclose(noise.mean(axis=0), 1 / 2, atol=5 * 0.2887 / np.sqrt(NUM_DRAWS))
    np.testing.assert_allclose(noise.var(axis=0), 1 / 12, atol=5 * 0.0745 / np.sqrt(NUM_DRAWS))
    correlations = np.corrcoef(noise.T).reshape(columns, columns) - np.eye(columns)
    assert np.abs(correlations).max() < 0.05
    following = np.corrcoef(noise[1:, 0], noise[:-1, 0])[0, 1]
    assert abs(following) < 5 / np.sqrt(NUM_DRAWS)


@pytest.mark.parametrize("value", [1.0001, -1.0001, 63.9, -1e-20, 1e20, 0.3])
def test_a_number_becomes_one_of_its_neighbours_and_its_mean_stays(value):
    rounded = _round(np.full([NUM_DRAWS, 2], value)).astype(np.float64)
    below, above = np.unique(rounded)
    value = np.float64(np.float32(value))
    assert below < value < above
    # Neighbours: 8 bits of precision.
    assert (above - below) / abs(value) < 2**-7
    error = 5 * (above - below) / 2 / np.sqrt(rounded.size)
    np.testing.assert_allclose(rounded.mean(), value, rtol=0, atol=error)


def test_what_is_a_bfloat16_stays_as_it_is():
    bits = np.arange(2**16, dtype=np.uint32) << 16
    values = bits.view(np.float32)
    values = values[np.isfinite(values)].reshape(-1, 2)
    for seed in range(20):
        np.testing.assert_array_equal(_round(values, seed).astype(np.float32), values)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_the_same_seed_rounds_alike_however_it_is_compiled(jit_compile):
    values = tf.random.stateless_normal([50, 3], [0, 0])

    @tf.function(autograph=False, jit_compile=jit_compile)
    def compiled(seed):
        return rounded_at_random(values, noise_for(values.shape, seed))

    np.testing.assert_array_equal(compiled(tf.constant([5, 1])), _round(values, 5))
    assert np.any(compiled(tf.constant([6, 1])).numpy() != _round(values, 5))


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM((4, 3), "log_and_sign", output_stddev=0.5, seed=0)


def _state(optimizer: LearnedOptimizer) -> list[np.ndarray]:
    return [one.numpy() for one in optimizer.variables if one.name.startswith("state_")]


@pytest.mark.parametrize("chunk_size", [0, 5])
def test_coordinates_chunks_and_steps_are_rounded_each_in_its_own_way(chunk_size):
    optimizer = LearnedOptimizer(_lstm(), state_dtype="bfloat16", chunk_size=chunk_size)
    variable = keras.Variable(np.zeros(25, np.float32))
    for step in range(2):
        optimizer.apply([tf.ones([25])], [variable])
        # All coordinates have the same gradients: without noise, the same state.
        cells = [one.reshape(-1, 4) for one in _state(optimizer) if one.size % 4 == 0]
        rows = [tuple(row) for part in cells for row in part.astype(np.float32)]
        assert len(set(rows)) > 10, step


@pytest.mark.parametrize("chunk_size", [0, 5])
def test_a_skipped_step_leaves_no_trace_in_how_later_ones_are_rounded(chunk_size):
    gradients = tf.random.stateless_normal([6, 17], [0, 0])
    variables = [keras.Variable(np.ones(17, np.float32)) for _ in range(2)]
    with_bad, without = (
        LearnedOptimizer(_lstm(), state_dtype="bfloat16", chunk_size=chunk_size) for _ in variables
    )
    for gradient in gradients:
        with_bad.apply([gradient], [variables[0]])
        with_bad.apply([gradient * np.nan], [variables[0]])
        without.apply([gradient], [variables[1]])
    np.testing.assert_array_equal(*variables)
    for one, other in zip(_state(with_bad), _state(without), strict=True):
        np.testing.assert_array_equal(one, other)


def test_two_devices_round_alike(two_devices):
    with two_devices.scope():
        optimizer = LearnedOptimizer(_lstm(), state_dtype="bfloat16", chunk_size=5)
        variable = keras.Variable(np.ones(17, np.float32))
    for step in range(3):

        def apply(step=step):
            optimizer.apply([tf.random.stateless_normal([17], [step, 0])], [variable])

        two_devices.run(apply)
    for one in optimizer.variables:
        if one.name.startswith("state_"):
            first, second = (local.numpy() for local in one.value.values)
            np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_a_long_run_ends_where_that_in_float32_does():
    generator = np.random.default_rng(1)
    matrix = generator.standard_normal([200, 24]) / np.sqrt(200)
    noise = 0.1 * generator.standard_normal(200) / np.sqrt(200)
    targets = tf.constant(matrix @ generator.standard_normal(24) + noise, tf.float32)
    matrix = tf.constant(matrix, tf.float32)

    def train(state_dtype: str) -> float:
        optimizer = load("mnist_lstm", replay=False, state_dtype=state_dtype)
        variable = keras.Variable(np.zeros(24, np.float32))
        optimizer.build([variable])

        def loss_of() -> tf.Tensor:
            return tf.reduce_sum(tf.square(tf.linalg.matvec(matrix, variable.value) - targets))

        def one_step(step: tf.Tensor) -> tuple[tf.Tensor]:
            with tf.GradientTape() as tape:
                loss = loss_of()
            optimizer.apply([tape.gradient(loss, variable.value)], [variable])
            return (step + 1,)

        @tf.function(autograph=False, jit_compile=True)
        def run() -> tf.Tensor:
            tf.while_loop(lambda step: step < 10_000, one_step, (tf.constant(0),))
            return loss_of()

        return float(run())

    full = train("float32")
    assert full < 0.02
    # Rounded to the nearest, cells stick, and it ends above 1,000.
    assert train("bfloat16") < 2 * full
