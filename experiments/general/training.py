"""One training run: a task, an optimizer and a seed, in the loop that a user of Keras writes."""

import dataclasses
import math
import time

import keras
import numpy as np
import tensorflow as tf

from experiments.general.data import Arrays, Data
from experiments.general.tasks import Task

NUM_CURVE_POINTS = 50
# Losses are means over this share of the horizon, and over this many steps at least.
SMOOTHED_SHARE = 0.05
MIN_SMOOTHED_STEPS = 10
# Steps that one call takes; a run that has diverged ends with its call.
_STEPS_PER_CALL = 50
_TEST_BATCH_SIZE = 500


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run. All numbers are infinite if it diverged.

    Attributes:
        losses: the loss of each minibatch before its step, float `[T]`.
        test_loss: the loss on all test examples at the end, in inference mode.
        test_metric: the task's metric there; None if it has none, or if the run diverged.
        num_parameters: the number of trainable weights.
        seconds: how long the run took, with tracing, under whatever load there was.
    """

    losses: np.ndarray
    test_loss: float
    test_metric: float | None
    num_parameters: int
    seconds: float

    @property
    def final_loss(self) -> float:
        """The mean of the last minibatches' losses."""
        return self.curve[1][-1]

    @property
    def curve(self) -> tuple[list[int], list[float]]:
        """Some steps, evenly spaced, and the mean loss of the minibatches before each."""
        num_steps = len(self.losses)
        num_points = min(NUM_CURVE_POINTS, num_steps)
        steps = [num_steps * (point + 1) // num_points for point in range(num_points)]
        width = smoothed_steps(num_steps)
        with np.errstate(invalid="ignore"):
            means = [float(self.losses[max(0, step - width) : step].mean()) for step in steps]
        return steps, [mean if math.isfinite(mean) else math.inf for mean in means]


def smoothed_steps(num_steps: int) -> int:
    """Returns the number of steps whose losses a smoothed loss is the mean of."""
    return max(MIN_SMOOTHED_STEPS, round(SMOOTHED_SHARE * num_steps))


def train(task: Task, data: Data, optimizer: keras.optimizers.Optimizer, seed: int) -> Outcome:
    """Returns the outcome of a run.

    The seed decides the initial weights, the minibatches and the network's own random numbers, the
    same for each optimizer.
    """
    start = time.perf_counter()
    model = task.model(seed)
    optimizer.build(model.trainable_variables)
    losses = _train(task, model, optimizer, data.train, seed)
    has_diverged = not np.isfinite(losses).all()
    test_loss, test_metric = math.inf, None
    if not has_diverged:
        test_loss, test_metric = _test(task, model, data.test)
    return Outcome(
        losses,
        test_loss if math.isfinite(test_loss) else math.inf,
        test_metric,
        sum(int(np.prod(variable.shape)) for variable in model.trainable_variables),
        time.perf_counter() - start,
    )


def _train(
    task: Task,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    examples: Arrays,
    seed: int,
) -> np.ndarray:
    """Trains a model and returns the loss of each minibatch, `[T]`; NaN after it has diverged."""
    inputs, targets = (tf.constant(array) for array in examples)
    loss = task.loss()

    # Graphs outlive a run; what they captured, all examples, would too.
    @tf.function
    def take_steps(inputs: tf.Tensor, targets: tf.Tensor, minibatches: tf.Tensor) -> tf.Tensor:
        num_steps = tf.shape(minibatches)[0]
        losses = tf.TensorArray(tf.float32, num_steps)
        for step in tf.range(num_steps):
            chosen = minibatches[step]
            with tf.GradientTape() as tape:
                outputs = model(tf.gather(inputs, chosen), training=True)
                value = loss(tf.gather(targets, chosen), outputs) + sum(model.losses)
            gradients = tape.gradient(value, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            losses = losses.write(step, value)
        return losses.stack()

    losses = np.full(task.num_steps, np.nan)
    minibatches = task.minibatches(len(examples.inputs), seed)
    for start in range(0, task.num_steps, _STEPS_PER_CALL):
        part = slice(start, start + _STEPS_PER_CALL)
        losses[part] = take_steps(inputs, targets, minibatches[part]).numpy()
        if not np.isfinite(losses[part]).all():
            break
    return losses


def _test(task: Task, model: keras.Model, examples: Arrays) -> tuple[float, float | None]:
    """Returns the loss and the metric over examples, in inference mode."""
    loss = task.loss()
    metric = None if task.metric is None else task.metric()

    @tf.function(autograph=False)
    def measure(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        outputs = model(inputs, training=False)
        if metric is not None:
            metric.update_state(targets, outputs)
        return loss(targets, outputs) + sum(model.losses)

    total = 0.0
    for start in range(0, len(examples.inputs), _TEST_BATCH_SIZE):
        batch = [array[start : start + _TEST_BATCH_SIZE] for array in examples]
        total += float(measure(*map(tf.constant, batch))) * len(batch[0])
    value = None if metric is None else float(metric.result())
    return total / len(examples.inputs), value
