"""Problems made of any Keras model and any arrays, against Keras itself."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from l2l_tf.evaluation import bind, start, unroll
from l2l_tf.problems import StackedProblem, SupervisedProblem, task_seeds
from l2l_tf.rules import SGD

SEED = tf.constant([11, 4])
RNG = np.random.default_rng(0)
STEP = tf.constant(0)


def _tabular(**arguments) -> SupervisedProblem:
    model = keras.Sequential([layers.Input((3,)), layers.Dense(4, "tanh"), layers.Dense(1)])
    inputs = RNG.standard_normal((20, 3)).astype(np.float32)
    targets = inputs.sum(axis=1, keepdims=True)
    arguments = {"loss": "mean_squared_error", "batch_size": 6} | arguments
    return SupervisedProblem(model, inputs, targets, **arguments)


def _tokens() -> SupervisedProblem:
    model = keras.Sequential(
        [layers.Input((7,), dtype="int32"), layers.Embedding(11, 4), layers.GRU(5), layers.Dense(2)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tokens, labels = RNG.integers(0, 11, (30, 7)), RNG.integers(0, 2, 30)
    return SupervisedProblem(model, tokens, labels, loss, batch_size=5)


def _sequences() -> SupervisedProblem:
    model = keras.Sequential(
        [
            layers.Input((6, 3)),
            layers.LSTM(4, return_sequences=True),
            layers.LayerNormalization(),
            layers.Dense(3),
        ]
    )
    inputs = RNG.standard_normal((12, 6, 3)).astype(np.float32)
    return SupervisedProblem(model, inputs, inputs, "mean_absolute_error", batch_size=4)


def _attention() -> SupervisedProblem:
    inputs = layers.Input((5, 4))
    attended = layers.MultiHeadAttention(2, 3)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(attended)))
    values = RNG.standard_normal((12, 5, 4)).astype(np.float32)
    return SupervisedProblem(model, values, values[:, 0, :1], keras.losses.Huber(), batch_size=4)


def _normalized_convolution() -> SupervisedProblem:
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(3, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        ]
    )
    images, labels = RNG.random((16, 8, 8, 1), np.float32), RNG.integers(0, 3, 16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return SupervisedProblem(model, images, labels, loss, batch_size=8)


def _two_inputs() -> SupervisedProblem:
    left, right = layers.Input((3,), name="left"), layers.Input((2,), name="right")
    outputs = layers.Dense(2)(layers.Concatenate()([left, right]))
    model = keras.Model({"left": left, "right": right}, outputs)
    inputs = {"left": RNG.random((10, 3), np.float32), "right": RNG.random((10, 2), np.float32)}
    return SupervisedProblem(model, inputs, np.ones((10, 2), np.float32), "mse", batch_size=4)


PROBLEMS = {
    "tabular": _tabular,
    "tokens": _tokens,
    "sequences": _sequences,
    "attention": _attention,
    "normalized_convolution": _normalized_convolution,
    "two_inputs": _two_inputs,
}


@pytest.fixture(params=PROBLEMS)
def problem(request) -> SupervisedProblem:
    keras.utils.set_random_seed(0)  # What the model is built with is compared.
    return PROBLEMS[request.param]()


def test_the_loss_is_what_keras_makes_of_the_model_in_training(problem):
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, STEP)
    loss = problem.loss(parameters, batch)
    for variable, value in zip(problem.model.trainable_variables, parameters, strict=True):
        variable.assign(value)
    # What dropout would draw from, which these layers have too, does not matter without any.
    inputs, targets, *_ = batch
    outputs = problem.model(inputs, training=True)
    expected = tf.reduce_mean(keras.losses.get(problem._loss)(targets, outputs))
    assert loss.shape == [1]
    np.testing.assert_allclose(loss, [expected + sum(problem.model.losses)], rtol=1e-6)


def test_every_parameter_of_a_task_can_be_trained(problem):
    rule = bind(SGD(0.05), problem)
    first = start(rule, problem, SEED)
    steps, last = tf.function(lambda: unroll(rule, problem, SEED, first, 20), autograph=False)()
    assert np.isfinite(steps.losses).all()
    assert np.abs(last.parameters - first.parameters).max() > 0
    assert float(steps.losses[-1, 0]) < float(first.losses[0])


def test_tasks_side_by_side_are_the_tasks_one_by_one(problem):
    seeds = task_seeds(0, "train", 0, 2)
    stacked = StackedProblem(problem, 2)
    together = stacked.loss(stacked.initial_parameters(seeds), stacked.batch(seeds, STEP))
    alone = [
        problem.loss(problem.initial_parameters(seed), problem.batch(seed, STEP))[0]
        for seed in seeds
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert alone[0] != alone[1]


# Initial parameters


def test_by_default_parameters_start_as_keras_draws_them(problem):
    # Keras's own draws: the model as it was built.
    own = [variable.numpy() for variable in problem.model.trainable_variables]
    first, other = (problem.initial_parameters(tf.constant([1, one])) for one in range(2))
    for drawn, another, built in zip(first, other, own, strict=True):
        assert drawn.shape == built.shape
        if np.ptp(built):
            # A kernel, or the bias of an LSTM's gates.
            # Of n numbers, a standard deviation is off by a share of 1 / sqrt(2 n); both are drawn.
            error = np.sqrt(2) / np.sqrt(2 * built.size)
            np.testing.assert_allclose(np.std(drawn), np.std(built), rtol=3 * error)
        else:
            np.testing.assert_array_equal(drawn, built)
        if built.ndim > 1 and np.ptp(built):
            assert np.abs(drawn - another).max() > 1e-3


def test_an_initializer_draws_what_its_layer_would_draw_with_its_seed():
    kernel = keras.initializers.GlorotUniform(seed=3)
    model = keras.Sequential([layers.Input((100,)), layers.Dense(50, kernel_initializer=kernel)])
    zeros = np.zeros((4, 100), np.float32), np.zeros((4, 50), np.float32)
    problem = SupervisedProblem(model, *zeros, "mse")
    draws = np.stack([problem.initial_parameters(tf.constant([0, one]))[0] for one in range(20)])
    bound = np.sqrt(6 / 150)  # Glorot and Bengio 2010, equation 16.
    assert np.abs(draws).max() <= bound
    np.testing.assert_allclose(draws.std(), bound / np.sqrt(3), rtol=0.01)
    np.testing.assert_allclose(draws.mean(), 0, atol=0.01 * bound)
    # The seed that the user gave names no task: tasks differ.
    assert np.abs(np.corrcoef(draws.reshape(20, -1)) - np.eye(20)).max() < 0.1


def test_a_seed_gives_the_same_start_in_a_graph():
    problem = _tokens()
    compiled = tf.function(problem.initial_parameters, autograph=False)(SEED)
    for one, same in zip(problem.initial_parameters(SEED), compiled, strict=True):
        np.testing.assert_array_equal(one, same)


def test_the_bias_of_forget_gates_starts_at_one():
    problem = _sequences()
    (bias,) = [
        value
        for spec, value in zip(problem.variables, problem.initial_parameters(SEED), strict=True)
        if spec.path.endswith("lstm_cell/bias")
    ]
    np.testing.assert_array_equal(bias, [0] * 4 + [1] * 4 + [0] * 8)


def test_with_a_deviation_all_parameters_are_normal():
    problem = _tabular(initial_stddev=0.01)
    values = np.concatenate([np.ravel(one) for one in problem.initial_parameters(SEED)])
    assert 0 < np.abs(values).min() < np.abs(values).max() < 0.05


class _OwnWeights(layers.Layer):
    """A layer whose variable names no initializer."""

    def build(self, input_shape):
        shape = (input_shape[-1], 2)
        self.matrix = self.add_weight(shape=shape, initializer="glorot_uniform", name="matrix")

    def call(self, inputs):
        return inputs @ self.matrix


def test_a_variable_whose_initializer_is_not_known_is_refused_unless_a_deviation_is_given():
    model = keras.Sequential([layers.Input((3,)), _OwnWeights()])
    arrays = np.ones((4, 3), np.float32), np.ones((4, 2), np.float32)
    with pytest.raises(ValueError, match="Give initial_stddev"):
        SupervisedProblem(model, *arrays, "mse")
    assert SupervisedProblem(model, *arrays, "mse", initial_stddev=0.1).initial_parameters(SEED)


# Layers that draw random numbers


def _dropout_problem() -> SupervisedProblem:
    model = keras.Sequential(
        [
            layers.Input((200,)),
            layers.Dropout(0.25),
            layers.Dense(1, kernel_initializer="ones"),
            layers.Dropout(0.5),
        ]
    )
    inputs = np.ones((4, 200), np.float32)
    return SupervisedProblem(
        model, inputs, np.zeros((4, 1), np.float32), lambda targets, outputs: outputs, batch_size=4
    )


def test_the_task_and_the_step_decide_what_dropout_drops():
    problem = _dropout_problem()
    parameters = problem.initial_parameters(SEED)

    def loss(seed, step):
        return float(problem.loss(parameters, problem.batch(seed, tf.constant(step)))[0])

    pairs = [(index, step) for index in range(3) for step in range(3)]
    losses = {(index, step): loss(tf.constant([0, index]), step) for index, step in pairs}
    assert len(set(losses.values())) == 9
    assert loss(tf.constant([0, 1]), 2) == losses[1, 2]
    compiled = tf.function(
        loss_of := lambda batch: problem.loss(parameters, batch), autograph=False
    )
    batch = problem.batch(tf.constant([0, 1]), tf.constant(2))
    assert float(compiled(batch)[0]) == pytest.approx(float(loss_of(batch)[0]), rel=1e-6)


def test_dropout_keeps_the_share_that_it_says():
    problem = _dropout_problem()
    parameters = problem.initial_parameters(SEED)
    losses = [
        float(problem.loss(parameters, problem.batch(SEED, tf.constant(step)))[0])
        for step in range(100)
    ]
    # What is kept is scaled up, so that the mean stays: 200 ones times weights of one.
    assert np.mean(losses) == pytest.approx(200, abs=4 * np.std(losses) / 10)
    assert np.std(losses) > 20


# Configuration and scale


def test_logarithms_of_losses_count_if_asked_for():
    problem = _tabular(loss_unit=4.0, is_logarithmic=True)
    expected = np.log([0.01, 0.51, 2.01])
    for one in (problem, StackedProblem(problem, 2)):
        np.testing.assert_allclose(one.normalized(tf.constant([-1.0, 2, 8])), expected, rtol=1e-5)
    assert problem.get_config()["is_logarithmic"]


def test_losses_are_normalized_by_their_unit():
    problem = _tabular(loss_unit=4.0)
    np.testing.assert_allclose(problem.normalized(tf.constant([2.0, 8.0])), [0.5, 2.0])
    np.testing.assert_allclose(StackedProblem(problem, 2).normalized(tf.constant([8.0])), [2.0])


def test_the_configuration_tells_models_losses_and_examples_apart():
    config = _tabular().get_config()
    assert config["batch_size"] == 6
    assert config["examples"]["shapes"] == [[20, 3], [20, 1]]
    assert config != _tabular(loss="mean_absolute_error").get_config()
    assert _tokens().get_config()["loss"]["class_name"] == "SparseCategoricalCrossentropy"


# What is refused

X, Y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)


def _dot(targets, outputs):
    return tf.matmul(targets, outputs)


def _linear() -> keras.Model:
    return keras.Sequential([layers.Input((3,)), layers.Dense(1)])


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"model": layers.Dense(1)}, TypeError, "model must be"),
        ({"loss": "no_such_loss"}, TypeError, "loss must be"),
        ({"loss": 3}, TypeError, "loss must be"),
        ({"targets": Y[:3]}, ValueError, "inputs and targets must have the same number"),
        ({"inputs": X[:0], "targets": Y[:0]}, ValueError, "at least one"),
        ({"inputs": np.float32(1)}, ValueError, "inputs and targets must be arrays"),
        ({"inputs": X.tolist()}, ValueError, "inputs and targets must be arrays"),
        ({"inputs": np.ones((4, 5), np.float32)}, ValueError, "model must take"),
        ({"loss": lambda targets, outputs: targets > 0}, ValueError, "loss must return"),
        ({"targets": np.ones((4, 7)), "loss": _dot}, ValueError, "loss must take"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 1.5}, ValueError, "batch_size"),
        ({"initial_stddev": -1}, ValueError, "initial_stddev"),
        ({"loss_unit": 0}, ValueError, "loss_unit"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, error, match):
    given = {"model": _linear(), "inputs": X, "targets": Y, "loss": "mse"} | arguments
    with pytest.raises(error, match=match):
        SupervisedProblem(**given)
