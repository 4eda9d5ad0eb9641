"""A learned rule whose deltas are known in closed form."""

from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules import CoordinatewiseRule


@keras.saving.register_keras_serializable(package="l2l_tf_tests.delivery")
class LinearRule(CoordinatewiseRule, keras.layers.Layer):
    """A weight times the gradient: with a weight of -1, gradient descent with a rate of 1.

    Its state has one tensor of each form: the number of steps so far, int32 `[]`; the sum of all
    gradients, float `[N]`; and the last two gradients, float `[N, 2]`.
    """

    def __init__(self, weight: float = -1.0, **arguments: Any):
        super().__init__(**{"dtype": "float32", "autocast": False} | arguments)
        self.weight = weight
        self.factor = self.add_weight(
            name="factor", shape=(), initializer=keras.initializers.Constant(weight)
        )
        self.built = True

    def initial_state(self, num_coordinates: int) -> Any:
        """Returns the state before the first step."""
        dtype = self.compute_dtype
        return (
            tf.constant(0),
            tf.zeros([num_coordinates], dtype),
            {"last": tf.zeros([num_coordinates, 2], dtype)},
        )

    def call(self, gradient: tf.Tensor, state: Any) -> tuple[tf.Tensor, Any]:
        count, total, last = state[0], state[1], state[2]["last"]
        last = tf.stack([gradient, last[:, 0]], axis=1)
        return self.factor * gradient, (count + 1, total + gradient, {"last": last})

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"weight": self.weight}
