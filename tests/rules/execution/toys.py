"""Coordinatewise rules whose states cover every form that a state may have."""

from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules import CoordinatewiseRule


class Stateless(CoordinatewiseRule):
    """Gradient descent: its state is empty."""

    def initial_state(self, num_coordinates: int) -> tuple[()]:
        return ()

    def __call__(self, gradient: tf.Tensor, state: tuple[()]) -> tuple[tf.Tensor, tuple[()]]:
        return -gradient, state


class ManyForms(CoordinatewiseRule):
    """A state with a scalar, a vector and a matrix `[N, 2]`, nested, one part of it empty."""

    def initial_state(self, num_coordinates: int) -> dict[str, Any]:
        return {
            "count": tf.constant(0),
            "sums": (tf.zeros([num_coordinates], tf.float64), ()),
            "last": [tf.zeros([num_coordinates, 2], tf.float64)],
        }

    def __call__(self, gradient: tf.Tensor, state: dict[str, Any]) -> tuple[tf.Tensor, Any]:
        count, total, last = state["count"] + 1, state["sums"][0] + gradient, state["last"][0]
        delta = -gradient - total / tf.cast(count, gradient.dtype) - 0.1 * last[:, 1]
        last = tf.stack([gradient, last[:, 0]], axis=1)
        return delta, {"count": count, "sums": (total, ()), "last": [last]}


class DividesByItsState(CoordinatewiseRule, keras.layers.Layer):
    """delta = weight * gradient / size: a state of zeros, which it never has, would be no number.

    The size is 1 at first and then the largest size of a gradient so far.
    """

    def __init__(self):
        super().__init__(dtype="float64", autocast=False)
        self.weight = self.add_weight(name="weight", shape=(), initializer="ones")
        self.built = True

    def initial_state(self, num_coordinates: int) -> tf.Tensor:
        return tf.ones([num_coordinates], tf.float64)

    def call(self, gradient: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self.weight * gradient / state, tf.maximum(state, tf.abs(gradient))
