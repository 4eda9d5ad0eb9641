"""A minimal learned rule that looks at whole tensors."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from l2l_tf.rules import NO_INFO, BoundToTensors, StepInfo, TensorState


@keras.saving.register_keras_serializable(package="l2l_tf_tests")
class TensorRule(keras.layers.Layer):
    """delta = -rate * m / rms(m) - decay * parameter, m the momentum of a tensor; both learned."""

    is_coordinatewise = False

    def __init__(self, momentum: float = 0.9, **arguments: Any):
        super().__init__(**arguments, autocast=False)
        self.momentum = momentum
        self.rate = self.add_weight(
            name="rate", shape=(), initializer=keras.initializers.Constant(0.03)
        )
        self.decay = self.add_weight(
            name="decay", shape=(), initializer=keras.initializers.Constant(0.01)
        )
        self.built = True

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundTensorRule":
        return BoundTensorRule(self, variables, batch_shape)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"momentum": self.momentum}


class BoundTensorRule(BoundToTensors):
    needs = frozenset({"parameters"})

    def initial_state(self) -> TensorState:
        dtype = self.rule.compute_dtype
        momenta = [tf.zeros(shape, dtype) for shape in self.layout.shapes]
        return TensorState(tf.zeros([], dtype), momenta)

    def update(
        self, gradients: Sequence[tf.Tensor], state: TensorState, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], TensorState]:
        count = state.shared + 1
        correction = 1 - self.rule.momentum**count
        deltas, momenta = [], []
        for index, (gradient, momentum) in enumerate(zip(gradients, state.tensors, strict=True)):
            momentum = self.rule.momentum * momentum + (1 - self.rule.momentum) * gradient
            corrected = momentum / correction
            axes = self.own_axes(index)
            mean_square = tf.reduce_mean(tf.square(corrected), axes, keepdims=True)
            direction = corrected * tf.math.rsqrt(mean_square + 1e-12)
            deltas.append(-self.rule.rate * direction - self.rule.decay * info.parameters[index])
            momenta.append(momentum)
        return deltas, TensorState(count, momenta)
