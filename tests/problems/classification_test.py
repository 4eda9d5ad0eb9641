import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from l2l_tf.data.datasets import load
from l2l_tf.problems.classification import ClassificationProblem
from l2l_tf.problems.networks import ACTIVATIONS, conv_net, mlp
from l2l_tf.problems.problem import StackedProblem
from l2l_tf.problems.seeds import task_seeds
from tests.problems.shapes import assert_variables_are_parameters_without_batch_axes
from tests.real_data import needs_data
from tests.reference import mlp as reference

SEED = tf.constant([11, 4])
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 50)


def _mlp_problem(**arguments) -> ClassificationProblem:
    return ClassificationProblem(mlp((8, 8, 1), units=5), IMAGES, LABELS, **arguments)


def _numbered_images(num_images: int) -> np.ndarray:
    """Returns images that hold their own number, in base 256."""
    number = np.arange(num_images)
    return np.stack([number // 256, number % 256], axis=1).reshape(-1, 1, 2, 1).astype(np.uint8)


def _numbered_problem(num_images: int, batch_size: int) -> ClassificationProblem:
    labels = np.arange(num_images) % 3
    model = mlp((1, 2, 1), units=1, num_classes=3)
    return ClassificationProblem(model, _numbered_images(num_images), labels, batch_size)


def _loss_and_gradients(problem, parameters, batch):
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        losses = problem.loss(parameters, batch)
    return losses, tape.gradient(losses, parameters)


# The loss


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_loss_and_gradients_are_those_of_numpy(activation):
    # float64, so that agreement to 12 digits leaves no room for another formula.
    model = mlp((8, 8, 1), units=5, num_layers=2, activation=activation, dtype="float64")
    problem = ClassificationProblem(model, IMAGES, LABELS, batch_size=7, initial_stddev=0.5)
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    losses, gradients = _loss_and_gradients(problem, parameters, batch)
    images, labels = (tensor.numpy() for tensor in batch)
    # Images are scaled in float32.
    inputs = (images / np.float32(255)).reshape(7, 64)
    expected_loss, expected_gradients = reference.loss_and_gradients(
        [parameter.numpy() for parameter in parameters], inputs, labels, activation
    )
    assert losses.dtype == tf.float64
    np.testing.assert_allclose(losses, [expected_loss], rtol=1e-12)
    for one, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-14)


def _trained_model_loss(model: keras.Model, parameters, batch) -> float:
    """Returns what Keras itself says of parameters: the model in training and its own loss."""
    for variable, value in zip(model.trainable_variables, parameters, strict=True):
        variable.assign(value)
    images, labels = batch
    logits = model(images.numpy().astype(np.float32) / 255, training=True)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(loss(labels, logits) + sum(model.losses))


def test_a_model_with_batch_normalization_has_the_loss_that_keras_gives_it_in_training():
    problem = ClassificationProblem(
        conv_net((8, 8, 1)), IMAGES, LABELS, batch_size=20, initial_stddev=0.3
    )
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    expected = _trained_model_loss(conv_net((8, 8, 1)), parameters, batch)
    np.testing.assert_allclose(problem.loss(parameters, batch), [expected], rtol=1e-5)


class _NoTrainingArgument(keras.Model):
    """A model whose `call` does not ask whether it is in training, with layers that do."""

    def __init__(self):
        super().__init__(name="no_training_argument")
        self.flatten = layers.Flatten()
        self.normalization = layers.BatchNormalization()
        self.dense = layers.Dense(10, kernel_regularizer=keras.regularizers.L2(0.1))

    def call(self, inputs):
        return self.dense(self.normalization(self.flatten(inputs)))


def test_a_model_of_ones_own_has_statistics_of_the_minibatch_and_its_penalties():
    problem = ClassificationProblem(
        _NoTrainingArgument(), IMAGES, LABELS, batch_size=20, initial_stddev=0.3
    )
    assert problem.name == "no_training_argument"
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    scale, shift, kernel, bias = (parameter.numpy() for parameter in parameters)
    values = (batch[0].numpy() / 255).reshape(20, 64)
    # The epsilon of Keras's batch normalisation is 1e-3.
    values = (values - values.mean(axis=0)) / np.sqrt(values.var(axis=0) + 1e-3)
    logits = (scale * values + shift) @ kernel + bias
    log_sums = np.log(np.exp(logits).sum(axis=1))
    entropies = log_sums - logits[np.arange(20), batch[1]]
    expected = entropies.mean() + 0.1 * (kernel**2).sum()
    np.testing.assert_allclose(problem.loss(parameters, batch), [expected], rtol=1e-5)


def test_moving_averages_neither_change_nor_matter():
    model = conv_net((8, 8, 1))
    averages = [variable for variable in model.variables if "moving" in variable.name]
    assert len(averages) == 8
    before = [average.numpy() for average in averages]
    problem = ClassificationProblem(model, IMAGES, LABELS, batch_size=20)
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    loss = problem.loss(parameters, batch)
    for average, value in zip(averages, before, strict=True):
        np.testing.assert_array_equal(average, value)
        average.assign(value + 3)
    other = ClassificationProblem(model, IMAGES, LABELS, batch_size=20)
    np.testing.assert_array_equal(other.loss(parameters, batch), loss)


def test_a_model_in_half_precision_has_parameters_and_losses_in_float32():
    model = mlp((8, 8, 1), units=5, dtype="mixed_float16")
    problem = ClassificationProblem(model, IMAGES, LABELS, initial_stddev=0.3)
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    losses, gradients = _loss_and_gradients(problem, parameters, batch)
    assert {tensor.dtype for tensor in (*parameters, losses, *gradients)} == {tf.float32}
    single = _mlp_problem(initial_stddev=0.3)
    # float16 has 11 bits, and the logits are of order 1.
    np.testing.assert_allclose(losses, single.loss(parameters, batch), rtol=5e-3)


# Minibatches


def test_a_minibatch_holds_images_with_their_labels():
    problem = _numbered_problem(1000, batch_size=128)
    images, labels = problem.batch(SEED, tf.constant(3))
    assert images.shape == (128, 1, 2, 1)
    assert images.dtype == tf.uint8
    assert labels.dtype == tf.int32
    numbers = images.numpy().reshape(128, 2).astype(int) @ [256, 1]
    np.testing.assert_array_equal(labels, numbers % 3)
    # 128 draws with replacement from 1000 are some 120 different ones.
    assert 100 < len(set(numbers.tolist())) < 128


def test_every_image_is_drawn_about_equally_often():
    problem = _numbered_problem(20, batch_size=1000)
    images, _ = problem.batch(SEED, tf.constant(0))
    counts = np.bincount(images.numpy()[:, 0, 1, 0], minlength=20)
    # Five standard deviations of a binomial count.
    np.testing.assert_allclose(counts, 50, atol=5 * (1000 * 19 / 400) ** 0.5)


def test_a_minibatch_depends_on_the_task_and_the_step_alone():
    problem = _numbered_problem(1000, batch_size=16)
    assert problem.is_stochastic
    first, second = task_seeds(0, "train", 0, 2)
    draws = [(first, 0), (first, 1), (second, 0), (second, 1)]
    drawn = [problem.batch(seed, tf.constant(step))[0].numpy().tobytes() for seed, step in draws]
    again = [problem.batch(seed, tf.constant(step))[0].numpy().tobytes() for seed, step in draws]
    assert drawn == again
    assert len(set(drawn)) == 4


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_task_is_the_same_eagerly_and_compiled_in_one_trace(jit_compile):
    problem = _mlp_problem(initial_stddev=0.5, batch_size=16)
    num_traces = 0

    def run(seed, step):
        nonlocal num_traces
        num_traces += 1
        parameters, batch = problem.initial_parameters(seed), problem.batch(seed, step)
        return parameters, batch, *_loss_and_gradients(problem, parameters, batch)

    compiled = tf.function(run, autograph=False, jit_compile=jit_compile)
    for step in range(3):
        ours, theirs = (function(SEED, tf.constant(step)) for function in (run, compiled))
        for one, other in zip(tf.nest.flatten(ours[1]), tf.nest.flatten(theirs[1]), strict=True):
            np.testing.assert_array_equal(one, other)
        for one, other in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # Three eager runs and one trace.
    assert num_traces == 4


@pytest.mark.slow
def test_tasks_side_by_side_are_the_tasks_run_apart():
    problem = ClassificationProblem(
        conv_net((8, 8, 1)), IMAGES, LABELS, batch_size=5, initial_stddev=0.3
    )
    seeds = task_seeds(0, "train", 0, 9)

    @tf.function(autograph=False)
    def run(problem, seed):
        parameters, batch = problem.initial_parameters(seed), problem.batch(seed, tf.constant(2))
        return parameters, batch, *_loss_and_gradients(problem, parameters, batch)

    apart = [run(problem, seed) for seed in seeds]
    # One, some that are written out, and some that are not.
    for num_tasks in (1, 2, 9):
        tasks = StackedProblem(problem, num_tasks)
        parameters, batch, losses, gradients = run(tasks, seeds[:num_tasks])
        for task, own in enumerate(apart[:num_tasks]):
            own_parameters, own_batch, own_losses, own_gradients = own
            for whole, part in zip(batch, own_batch, strict=True):
                np.testing.assert_array_equal(whole[task], part)
            np.testing.assert_allclose(losses[task], own_losses[0], rtol=1e-5)
            for whole, part in zip(
                [*parameters, *gradients], [*own_parameters, *own_gradients], strict=True
            ):
                np.testing.assert_allclose(whole[task], part, rtol=1e-4, atol=1e-5)


# Initial parameters


def test_initial_parameters_are_gaussian_with_the_deviation_asked_for():
    problem = ClassificationProblem(mlp((8, 8, 1), units=100), IMAGES, LABELS, initial_stddev=0.2)
    parameters = problem.initial_parameters(SEED)
    assert [parameter.shape for parameter in parameters] == problem.parameter_shapes
    assert problem.parameter_shapes == [(64, 100), (100,), (100, 10), (10,)]
    numbers = np.concatenate([np.ravel(parameter) for parameter in parameters]) / 0.2
    # E x = 0, E x^2 = 1, E x^4 = 3 with variances 1, 2 and 96; five standard errors.
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (4, 3, 96)]:
        error = 5 * (variance / numbers.size) ** 0.5
        np.testing.assert_allclose((numbers**power).mean(), moment, atol=error)


def test_variables_of_one_shape_start_apart_and_so_do_tasks():
    model = mlp((1, 2, 1), units=2, num_layers=3, num_classes=2)
    problem = ClassificationProblem(model, _numbered_images(4), np.arange(4) % 2)
    first, second = (problem.initial_parameters(seed) for seed in task_seeds(0, "train", 0, 2))
    kernels = [p.numpy().tobytes() for p in (*first, *second) if p.shape == (2, 2)]
    assert len(set(kernels)) == 8


def test_scales_of_normalization_layers_start_around_one_and_all_else_around_zero():
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            layers.BatchNormalization(),
            layers.LayerNormalization(),
            layers.Dense(10),
        ]
    )
    problem = ClassificationProblem(model, IMAGES, LABELS, initial_stddev=0.01)
    means = [float(tf.reduce_mean(p)) for p in problem.initial_parameters(SEED)]
    # 10 or more numbers of deviation .01.
    np.testing.assert_allclose(means, [1, 0, 1, 0, 0, 0], atol=5 * 0.01 * 10**-0.5)


def test_scales_start_around_what_their_layer_says_wherever_it_is():
    class Block(layers.Layer):
        """A layer of layers."""

        def __init__(self):
            super().__init__(name="block")
            self.normalization = normalization("zeros")

        def call(self, inputs, training=False):
            return self.normalization(inputs, training=training)

    def normalization(start, **arguments):
        return layers.BatchNormalization(gamma_initializer=start, center=False, **arguments)

    quarter = keras.initializers.Constant(0.25)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Flatten(),
            normalization("zeros"),
            keras.Sequential([layers.Input((64,)), normalization(quarter)]),
            normalization("zeros", scale=False),
            Block(),
            layers.RMSNormalization(),
            layers.Dense(10),
        ]
    )
    problem = ClassificationProblem(model, IMAGES, LABELS, initial_stddev=0.0)
    means = [float(tf.reduce_mean(p)) for p in problem.initial_parameters(SEED)]
    np.testing.assert_array_equal(means, [0, 0.25, 0, 1, 0, 0])


def test_the_model_is_left_as_it_is_and_its_values_play_no_part():
    model = conv_net((8, 8, 1))
    before = [variable.numpy() for variable in model.variables]
    problem = ClassificationProblem(model, IMAGES, LABELS)
    parameters, batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    loss = problem.loss(parameters, batch)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
        variable.assign(tf.zeros_like(value))
    for one, other in zip(parameters, problem.initial_parameters(SEED), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(problem.loss(parameters, batch), loss)


# What a problem is


def test_its_parameters_are_the_variables_of_the_model_without_further_axes():
    model = mlp((8, 8, 1), units=3, num_layers=2)
    problem = ClassificationProblem(model, IMAGES, LABELS)
    assert problem.batch_shape == ()
    trained = model.trainable_variables
    assert problem.variables == [(one.path, tuple(one.shape)) for one in trained]
    assert_variables_are_parameters_without_batch_axes(problem)


def test_images_are_no_part_of_a_graph():
    images = RNG.integers(0, 256, (5000, 8, 8, 1), dtype=np.uint8)
    problem = ClassificationProblem(mlp((8, 8, 1)), images, np.zeros(5000, np.int32))
    function = tf.function(lambda seed: problem.batch(seed, tf.constant(0)), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([2], tf.int32)).graph
    # The images are 320,000 bytes.
    assert len(graph.as_graph_def().SerializeToString()) < 30_000
    assert any(captured is problem._inputs for captured in graph.external_captures)


def test_a_config_is_plain_and_tells_problems_apart():
    def config(**changes):
        arguments = {"images": IMAGES, "labels": LABELS, "name": "digits"} | changes
        model = arguments.pop("model", mlp((8, 8, 1), units=5))
        return json.loads(json.dumps(ClassificationProblem(model, **arguments).get_config()))

    assert config() == config()
    assert sorted(config()) == ["batch_size", "examples", "initial_stddev", "model", "name"]
    assert config()["examples"]["shape"] == [50, 8, 8, 1]
    others = [
        config(model=mlp((8, 8, 1), units=6)),
        config(images=255 - IMAGES),
        config(labels=9 - LABELS),
        config(batch_size=3),
        config(initial_stddev=0.1),
        config(name="numbers"),
    ]
    assert all(other != config() for other in others)


@pytest.mark.slow
def test_a_model_is_rebuilt_from_the_config():
    problem = ClassificationProblem(conv_net((8, 8, 1)), IMAGES, LABELS)
    model = keras.saving.deserialize_keras_object(problem.get_config()["model"])
    rebuilt = ClassificationProblem(model, IMAGES, LABELS)
    assert rebuilt.get_config() == problem.get_config()
    assert rebuilt.parameter_shapes == problem.parameter_shapes


def test_a_model_that_was_not_built_is_built():
    model = keras.Sequential([layers.Flatten(), layers.Dense(10)], name="unbuilt")
    problem = ClassificationProblem(model, IMAGES, LABELS)
    assert problem.parameter_shapes == [(64, 10), (10,)]


def test_the_defaults():
    problem = _mlp_problem()
    assert problem.name == "mlp5_sigmoid"
    assert problem.num_functions == 1
    assert problem.batch_size == 128
    assert problem.initial_stddev == 0.01


# Real images


def test_gradient_descent_learns_the_digits():
    dataset = load("digits")
    problem = ClassificationProblem(mlp((8, 8, 1)), *dataset.train)
    step_of = tf.function(
        lambda p, t: _loss_and_gradients(problem, p, problem.batch(SEED, t)), autograph=False
    )
    parameters, losses = problem.initial_parameters(SEED), []
    for step in range(300):
        loss, gradients = step_of(parameters, tf.constant(step))
        losses.append(float(loss[0]))
        parameters = [p - 1.0 * g for p, g in zip(parameters, gradients, strict=True)]
    # Near zero, a network gives all classes alike.
    np.testing.assert_allclose(losses[0], np.log(10), atol=0.02)
    assert np.mean(losses[-10:]) < 0.5


@needs_data("mnist")
@pytest.mark.slow
def test_the_base_network_starts_on_mnist_where_all_classes_are_alike():
    problem = ClassificationProblem(mlp(), *load("mnist").train)
    assert problem.num_coordinates == 15_910
    parameters = problem.initial_parameters(SEED)
    loss = problem.loss(parameters, problem.batch(SEED, tf.constant(0)))
    np.testing.assert_allclose(loss, [np.log(10)], atol=0.02)


# Many devices


@pytest.mark.slow
def test_each_replica_has_its_own_task(two_devices):
    problem = ClassificationProblem(conv_net((8, 8, 1)), IMAGES, LABELS, 16, 0.3)
    seeds = task_seeds(0, "train", 0, 2)

    def loss(seed):
        return problem.loss(problem.initial_parameters(seed), problem.batch(seed, tf.constant(0)))

    def of_replica(seeds):
        return loss(seeds[tf.distribute.get_replica_context().replica_id_in_sync_group])

    losses = tf.function(lambda: two_devices.run(of_replica, (seeds,)), autograph=False)()
    losses = [float(part[0]) for part in two_devices.experimental_local_results(losses)]
    np.testing.assert_allclose(losses, [float(loss(seed)[0]) for seed in seeds], rtol=1e-5)
    assert losses[0] != losses[1]


# What is refused


def _ends_with(*last: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([layers.Input((8, 8, 1)), *last], name="model")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"images": IMAGES / 255},
            TypeError,
            "images must be uint8, brightness in 0..255. Received: images.dtype=float64. "
            "Scale and round them.",
        ),
        (
            {"images": IMAGES[..., 0]},
            ValueError,
            "images must be of shape [n, h, w, c], with n of at least 1. "
            "Received: images.shape=(50, 8, 8). "
            "Give grey images a last axis of 1, say images[..., np.newaxis].",
        ),
        (
            {"images": IMAGES[:0], "labels": LABELS[:0]},
            ValueError,
            "images must be of shape [n, h, w, c], with n of at least 1. "
            "Received: images.shape=(0, 8, 8, 1). "
            "Give grey images a last axis of 1, say images[..., np.newaxis].",
        ),
        (
            {"labels": LABELS.astype(np.float32)},
            TypeError,
            "labels must be integers. Received: labels.dtype=float32. "
            "Give the number of each image's class.",
        ),
        (
            {"labels": LABELS[:49]},
            ValueError,
            "labels must be of shape [n], one for each image. "
            "Received: labels.shape=(49,) with 50 images. Give as many labels as images.",
        ),
        (
            {"labels": np.eye(10, dtype=np.int32)[LABELS]},
            ValueError,
            "labels must be of shape [n], one for each image. "
            "Received: labels.shape=(50, 10) with 50 images. Give as many labels as images.",
        ),
        (
            {"labels": np.where(LABELS == 3, 10, LABELS)},
            ValueError,
            "labels must be in 0..C - 1 for a model of C outputs. "
            "Received: labels from 0 to 10 with C=10. "
            "Number the classes from 0, or build the model for more of them.",
        ),
        (
            {"labels": LABELS - 1},
            ValueError,
            "labels must be in 0..C - 1 for a model of C outputs. "
            "Received: labels from -1 to 8 with C=10. "
            "Number the classes from 0, or build the model for more of them.",
        ),
        (
            # As many pixels as the model takes, in another shape.
            {"images": IMAGES.reshape(50, 4, 16, 1)},
            ValueError,
            "model must take images of the shape of those given. "
            "Received: model='mlp20_sigmoid' with images.shape=(50, 4, 16, 1), which it refuses. "
            "Build it for these images, or give others.",
        ),
        (
            {"model": keras.Sequential([layers.Dense(10), layers.Conv2D(1, 9)], name="model")},
            ValueError,
            "model must take images of the shape of those given. "
            "Received: model='model' with images.shape=(50, 8, 8, 1), which it refuses. "
            "Build it for these images, or give others.",
        ),
    ],
)
def test_wrong_input_is_refused(arguments, error, message):
    whole = {"model": mlp((8, 8, 1)), "images": IMAGES, "labels": LABELS} | arguments
    with pytest.raises(error) as raised:
        ClassificationProblem(**whole)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("model", "mlp", TypeError),
        ("batch_size", 0, ValueError),
        ("batch_size", 12.5, ValueError),
        ("initial_stddev", -0.1, ValueError),
        ("initial_stddev", float("inf"), ValueError),
    ],
)
def test_an_argument_out_of_range_is_refused(argument, value, error):
    whole = {"model": mlp((8, 8, 1)), "images": IMAGES, "labels": LABELS} | {argument: value}
    with pytest.raises(error, match=f"^{argument} must"):
        ClassificationProblem(**whole)


def test_a_model_that_gives_no_logits_is_refused():
    with pytest.raises(ValueError) as raised:
        ClassificationProblem(_ends_with(layers.Dense(10)), IMAGES, LABELS)
    assert str(raised.value) == (
        "model must give logits, float [B, C]. "
        "Received: model='model' with outputs of shape (1, 8, 8, 10). "
        "Let it end with a Dense layer that has no activation."
    )


@pytest.mark.parametrize("last", [layers.Softmax(), layers.Dense(10, activation="softmax")])
def test_a_model_that_ends_with_a_softmax_is_refused(last):
    model = _ends_with(layers.Flatten(), layers.Dense(10), last)
    with pytest.raises(ValueError) as raised:
        ClassificationProblem(model, IMAGES, LABELS)
    assert str(raised.value) == (
        "model must give logits, float [B, C]. Received: model='model' that ends with a softmax. "
        "Let it end with a Dense layer that has no activation."
    )
