"""Private parts of Keras and TensorFlow that this package uses.

A release that renames any of them breaks this file only.
"""

import abc
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def sublayers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields each layer inside a model once, including those of nested models and layers."""
    # Keras itself collects a model's variables with this method.
    return model._flatten_layers(include_self=False)


def is_seed_state(variable: keras.Variable) -> bool:
    """Returns whether a variable holds the state of a layer's random numbers."""
    return variable.name == "seed_generator_state"


def moving_averages(optimizer: keras.optimizers.Optimizer) -> Sequence[keras.Variable]:
    """Returns the moving averages that an optimizer with `use_ema=True` keeps, by variable."""
    return optimizer._model_variables_moving_average


def is_compiled_by_xla() -> bool:
    """Returns whether XLA compiles the graph that is being built."""
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


class JointOptimizer(keras.optimizers.Optimizer, abc.ABC):
    """A Keras optimizer that updates all variables together, in one call for each step.

    Keras's own optimizers update one variable after another. Weight decay is left to the update.
    """

    @abc.abstractmethod
    def update_on_devices(
        self,
        strategy: tf.distribute.Strategy,
        gradients: list[Any],
        variables: list[Any],
        learning_rate: Any,
    ) -> None:
        """Updates all variables on all devices, in cross-replica context.

        Args:
            strategy: the strategy under which the optimizer was made.
            gradients: the sums over all devices, in the order of the variables.
            variables: TensorFlow's variables, each with a copy on every device.
            learning_rate: float `[]`.
        """

    @property
    def built_variables(self) -> Sequence[Any]:
        """The variables that the optimizer was built with."""
        return self._trainable_variables

    @property
    def step_count(self) -> tf.Variable:
        """The number of calls, int64 `[]`, each with the gradients of one minibatch."""
        return self._iterations.value

    @property
    def strategy(self) -> tf.distribute.Strategy:
        """The strategy under which the optimizer was made."""
        return self._distribution_strategy

    def is_built_with(self, variable: Any) -> bool:
        """Returns whether the optimizer was built with a variable."""
        return self._var_key(variable) in self._trainable_variables_indices

    def index_of(self, variable: Any) -> int:
        """Returns the position of a variable among those that the optimizer was built with."""
        return self._get_variable_index(variable)

    def is_decayed(self, variable: Any) -> bool:
        """Returns whether `weight_decay` applies to a variable."""
        return bool(self.weight_decay and self._use_weight_decay(variable))

    def is_overwritten(self, variable: Any) -> bool:
        """Returns whether a variable is overwritten with its gradient (float8 scales)."""
        return self._overwrite_variable_with_gradient(variable)

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Does nothing. The update applies decay itself, so that it can skip the whole step."""

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        variables = [
            variable.value if isinstance(variable, keras.Variable) else variable
            for variable in trainable_variables
        ]
        reduced = self._all_reduce_sum_gradients(list(zip(grads, variables, strict=True)))
        tf.__internal__.distribute.interim.maybe_merge_call(
            self.update_on_devices,
            self.strategy,
            [gradient for gradient, _ in reduced],
            variables,
            learning_rate,
        )
