"""Small tasks, made-up examples and made-up runs of the suite."""

import dataclasses

import keras
import numpy as np

from experiments.general.data import NUM_TOPICS, Arrays, Data
from experiments.general.rates import NUM_RATES, rate_of
from experiments.general.runs import Key, Run
from experiments.general.tasks import TASKS, Task
from experiments.harness.keras_optimizers import BASELINES


def linear_task(num_steps: int = 4) -> Task:
    """A linear model of three inputs and squared errors."""

    def build() -> keras.Model:
        return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="output")])

    return Task(
        "linear",
        "validation",
        build,
        lambda folder: linear_data(),
        keras.losses.MeanSquaredError,
        batch_size=2,
        num_steps=num_steps,
    )


def linear_data(num_examples: int = 5) -> Data:
    generator = np.random.RandomState(0)
    arrays = [
        Arrays(
            *(generator.standard_normal((num_examples, size)).astype("float32") for size in (3, 1))
        )
        for _ in range(2)
    ]
    return Data(*arrays)


def short(name: str, num_steps: int = 3) -> Task:
    """A task of the suite with few steps and small minibatches."""
    return dataclasses.replace(TASKS[name], num_steps=num_steps, batch_size=4)


def examples_for(task: Task, num_examples: int = 8) -> Data:
    """Random examples of the shapes that a task's data have."""
    generator = np.random.RandomState(0)
    model = task.model(0)
    input_shape, output_shape = model.input_shape[1:], model.output_shape[1:]
    if model.inputs[0].dtype == "int32":
        inputs = generator.randint(NUM_TOPICS, size=(num_examples, *input_shape)).astype("int32")
    else:
        inputs = generator.uniform(size=(num_examples, *input_shape)).astype("float32")
    if task.metric is not None:
        shape = (num_examples, *output_shape[:-1])
        targets = generator.randint(10, size=shape).astype("int32")
    else:
        targets = generator.uniform(size=(num_examples, *output_shape)).astype("float32")
    arrays = Arrays(inputs, targets)
    return Data(arrays, arrays)


def made_up_run(
    task: str,
    contender: str,
    rate: float | None,
    seed: int,
    losses: list[float],
    test_loss: float = 1.0,
    fingerprints: tuple[str, str] = ("a", "b"),
) -> Run:
    """A run of which the final loss is the last of its losses, one for each step."""
    key = Key(task, contender, rate, seed, *fingerprints)
    steps = list(range(1, len(losses) + 1))
    return Run(key, losses[-1], test_loss, None, steps, losses, 7, 0.5)


def tuned_runs(
    task: str, contender: str, losses: list[float], test_loss: float = 1.0, num_seeds: int = 1
) -> list[Run]:
    """The runs of a baseline whose best rate, with the given losses, is the middle of its grid."""
    middle = BASELINES[contender].middle
    grid = range(middle - NUM_RATES // 2, middle + NUM_RATES // 2 + 1)
    worse = [loss + 1 for loss in losses]
    others = [made_up_run(task, contender, rate_of(one), 0, worse) for one in grid if one != middle]
    best = [
        made_up_run(task, contender, rate_of(middle), seed, losses, test_loss)
        for seed in range(num_seeds)
    ]
    return others + best
