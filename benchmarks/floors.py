"""The time of the arithmetic alone: matrix products, counted and timed by themselves.

    python -m benchmarks.floors --workloads=mnist,inner_1e5

prints JSON. A floor is the number of FLOPs over the rate that TensorFlow reaches on products of the
same shapes: those of the rule's LSTM layers and, in a meta-step, of the optimizee. Sigmoids,
logarithms, sums and everything that only moves memory count nothing, so no floor can quite be
reached.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from absl import app, flags

from benchmarks.networks import Shape
from benchmarks.timing import time_steps
from benchmarks.workloads import UNITS, WORKLOADS, MetaStep, Workload

_WORKLOADS = flags.DEFINE_list("workloads", list(WORKLOADS), "Workloads to compute floors for.")

# Larger products are timed as several products of this many rows, which suits the caches better.
_MAX_ROWS = 2**14
_SECONDS_PER_PRODUCT = 0.2
_SECONDS_PER_GRAPH = 0.05


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product `[rows, inner]` x `[inner, columns]`, with factors as they are stored.

    Attributes:
        rows: rows of the result.
        inner: the length of the sums.
        columns: columns of the result.
        transpose_a: whether the first factor is stored as `[inner, rows]`.
        transpose_b: whether the second is stored as `[columns, inner]`.
    """

    rows: int
    inner: int
    columns: int
    transpose_a: bool = False
    transpose_b: bool = False

    @property
    def flops(self) -> int:
        """The number of multiplications and additions."""
        return 2 * self.rows * self.inner * self.columns


def layer_products(
    rows: int, inner: int, columns: int, backward: bool, needed_inputs: int
) -> list[Product]:
    """Returns the products of a layer: forward, and for the gradients of weights and inputs.

    Args:
        rows: the number of examples or coordinates.
        inner: the number of inputs of the layer.
        columns: the number of its outputs.
        backward: whether to include the backward pass.
        needed_inputs: the number of inputs whose gradient is needed.
    """
    products = [Product(rows, inner, columns)]
    if backward:
        products.append(Product(inner, rows, columns, transpose_a=True))
        if needed_inputs:
            products.append(Product(rows, columns, needed_inputs, transpose_b=True))
    return products


def lstm_products(num_coordinates: int, backward: bool) -> list[Product]:
    """Returns the products of one step of the rule's LSTM layers; inputs and hidden are stacked.

    The logarithm and sign of a gradient are constants, so the first layer's inputs have no
    gradient; its hidden values do.
    """
    products = []
    for inputs, units, needed in zip((2, *UNITS), UNITS, (0, *UNITS), strict=False):
        products += layer_products(
            num_coordinates, inputs + units, 4 * units, backward, needed + units
        )
    return products


def output_products(num_coordinates: int, backward: bool) -> list[Product]:
    """Returns the products of one step of the rule's output layer."""
    return layer_products(num_coordinates, UNITS[-1], 1, backward, UNITS[-1])


def network_products(forward: Iterable[Shape]) -> list[Product]:
    """Returns the products of a forward and a backward pass of an optimizee."""
    return [
        product
        for layer, (rows, inner, columns) in enumerate(forward)
        for product in layer_products(rows, inner, columns, True, inner if layer else 0)
    ]


def floor(workload: Workload) -> dict[str, float]:
    """Returns the floor of a workload, and the numbers behind it.

    Returns:
        `flops`; `gflops_per_second`, the rate of the LSTM's products with many of them in one
        graph, and the floor in `seconds` at such rates; `gflops_per_second_by_call` and
        `seconds_by_call`, the same with one call for each product.
    """
    is_meta_step = isinstance(workload, MetaStep)
    lstm = lstm_products(workload.num_coordinates, is_meta_step)
    rates = _flops(lstm) / _seconds(lstm)
    # The output layer is too narrow for a meaningful rate, so it gets the rate of the others.
    flops = _flops(lstm) + _flops(output_products(workload.num_coordinates, is_meta_step))
    seconds = flops / rates
    if isinstance(workload, MetaStep):
        optimizee = network_products(workload.network.products(workload.batch_size))
        times = workload.num_tasks * workload.num_steps
        flops = times * (flops + _flops(optimizee))
        seconds = times * (seconds + _seconds(optimizee))
    return {
        "flops": flops,
        "gflops_per_second": float(rates[0]) / 1e9,
        "gflops_per_second_by_call": float(rates[1]) / 1e9,
        "seconds": float(seconds[0]),
        "seconds_by_call": float(seconds[1]),
    }


def _flops(products: list[Product]) -> int:
    return sum(product.flops for product in products)


def _seconds(products: list[Product]) -> np.ndarray:
    """Returns the seconds that products take in a graph and called one by one, `[2]`."""
    return np.sum([seconds_of(product) for product in products], axis=0)


@functools.cache
def seconds_of(product: Product) -> tuple[float, float]:
    """Returns a product's seconds among others in a graph, and in a call by itself."""
    longest = max(product.rows, product.inner)
    if longest > _MAX_ROWS:
        rows, inner = min(product.rows, _MAX_ROWS), min(product.inner, _MAX_ROWS)
        part = dataclasses.replace(product, rows=rows, inner=inner)
        in_graph, by_call = seconds_of(part)
        return in_graph * longest / _MAX_ROWS, by_call * longest / _MAX_ROWS
    by_call = _seconds_of_graph(product, 1)
    count = math.ceil(_SECONDS_PER_GRAPH / by_call)
    return _seconds_of_graph(product, count) / count, by_call


def _seconds_of_graph(product: Product, count: int) -> float:
    """Returns the median time of a graph that computes a product several times in a row."""
    shape_a, shape_b = (product.rows, product.inner), (product.inner, product.columns)
    a = tf.random.stateless_normal(shape_a[::-1] if product.transpose_a else shape_a, [0, 0])
    b = tf.random.stateless_normal(shape_b[::-1] if product.transpose_b else shape_b, [0, 1])

    @tf.function
    def products(a, b):
        result = tf.matmul(a, b, product.transpose_a, product.transpose_b)
        for _ in range(count - 1):
            # The next product begins only when the last has ended.
            with tf.control_dependencies([result]):
                result = tf.matmul(a, b, product.transpose_a, product.transpose_b)
        return result

    products(a, b)
    times = time_steps(lambda: products(a, b), _SECONDS_PER_PRODUCT)
    return float(np.median(times))


def main(_: list[str]) -> None:
    """Prints the floors by workload."""
    # Without this, Grappler would see that products of the same factors are the same.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    print(json.dumps({name: floor(WORKLOADS[name]) for name in _WORKLOADS.value}))


if __name__ == "__main__":
    app.run(main)
