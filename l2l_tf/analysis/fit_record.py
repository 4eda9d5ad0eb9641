"""Recording an optimizer in Keras's `fit`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import Record
from l2l_tf.analysis.trajectory import chosen_coordinates, make_record
from l2l_tf.checks import check_count
from l2l_tf.rules.rule import Rule


class RecordFit(keras.callbacks.Callback):
    """Records what an optimizer sees and does in `fit`, on some coordinates of a model.

        recording = l2l_tf.analysis.RecordFit(l2l_tf.load_rule("mnist_rnnprop"))
        model.fit(x, y, callbacks=[recording])
        recording.record

    Deltas are the changes of the model's variables, so a learning rate other than 1 or weight decay
    count. `fit` traces the training step once more, before and after.

    Args:
        rule: the rule that the model's optimizer has, such as that given to `LearnedOptimizer`. Its
            states are computed again from the gradients.
        num_coordinates: about C, over all variables, drawn from each.
        max_steps: the number of steps to record; further ones are not.
        draw: the seed of the choice of coordinates.

    Raises:
        ValueError: a count is not positive. When training begins: the optimizer changes gradients
            before it uses them, or several steps run in one call.
    """

    def __init__(
        self, rule: Rule, num_coordinates: int = 128, max_steps: int = 1000, draw: int = 0
    ):
        super().__init__()
        check_count("num_coordinates", num_coordinates)
        check_count("max_steps", max_steps)
        self._rule = rule
        self._num_coordinates = num_coordinates
        self._max_steps = max_steps
        self._draw = draw
        self._gradients: list[np.ndarray] = []
        self._parameters: list[np.ndarray] = []
        self._losses: list[float] = []

    @property
    def record(self) -> Record:
        """The record of the last `fit`.

        Raises:
            ValueError: nothing was recorded, or a gradient was not finite.
        """
        if not self._gradients:
            raise ValueError(
                "RecordFit must have recorded one or more steps. Received: none so far. Pass it to "
                "fit in callbacks."
            )
        deltas = np.diff(np.stack(self._parameters), axis=0)
        variables = self._variables
        return make_record(
            self._rule,
            variables,
            self._sizes,
            self._chosen,
            np.stack(self._gradients),
            deltas,
            np.array(self._losses, np.float32),
        )

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        changes = ("clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps")
        found = [name for name in changes if getattr(optimizer, name, None)]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            found.append("loss scaling")
        if self.model.steps_per_execution > 1:
            found.append("steps_per_execution")
        if found:
            raise ValueError(
                "RecordFit must see each gradient as the optimizer uses it. "
                f"Received: a model compiled with {', '.join(found)}. Compile it without."
            )
        self._gradients, self._parameters, self._losses = [], [], []
        self._variables = list(self.model.trainable_variables)
        self._sizes = [int(np.prod(one.shape)) for one in self._variables]
        self._chosen = chosen_coordinates(self._sizes, self._num_coordinates, self._draw)
        self._of_step = tf.Variable(tf.zeros([len(self._chosen)]), trainable=False)
        self._note_parameters()
        apply = optimizer.apply

        def recorded(grads: Any, trainable_variables: Any = None) -> None:
            self._of_step.assign(self._chosen_of(grads))
            apply(grads, trainable_variables)

        # Keras calls it in the training step, which is traced again.
        optimizer.apply = recorded
        self.model.make_train_function(force=True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if len(self._gradients) < self._max_steps:
            self._gradients.append(self._of_step.numpy())
            self._note_parameters()
            self._losses.append(float((logs or {}).get("loss", np.nan)))

    def on_train_end(self, logs: Any = None) -> None:
        del self.model.optimizer.apply
        self.model.train_function = None

    def _note_parameters(self) -> None:
        values = [np.ravel(one.numpy()) for one in self._variables]
        self._parameters.append(np.concatenate(values)[self._chosen])

    def _chosen_of(self, gradients: Any) -> tf.Tensor:
        flat = [
            tf.zeros([size])
            if one is None
            else tf.reshape(tf.cast(tf.convert_to_tensor(one), tf.float32), [-1])
            for one, size in zip(gradients, self._sizes, strict=True)
        ]
        return tf.gather(tf.concat(flat, axis=0), self._chosen)
