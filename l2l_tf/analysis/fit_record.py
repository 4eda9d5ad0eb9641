"""Recording an optimizer in Keras's `fit`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.analysis.record import Record
from l2l_tf.analysis.stepping import stepper_for
from l2l_tf.analysis.trajectory import chosen_coordinates, make_record
from l2l_tf.checks import check_count, check_instance
from l2l_tf.rules.routed import OTHER, RoutedRule, parts_of
from l2l_tf.rules.routing import assign_routes
from l2l_tf.rules.rule import Rule

# Arguments of Keras optimizers with which deltas are not the rule's answers to the gradients.
_CHANGES = (
    *("clipnorm", "clipvalue", "global_clipnorm"),
    *("gradient_accumulation_steps", "weight_decay", "ema_overwrite_frequency"),
)


class RecordFit(keras.callbacks.Callback):
    """Records what an optimizer sees and does in `fit`, on some coordinates of a model.

        rule = l2l_tf.load_rule("mnist_rnnprop")
        model.compile(l2l_tf.LearnedOptimizer(rule), loss="mse")
        recording = l2l_tf.analysis.RecordFit(rule)
        model.fit(x, y, callbacks=[recording])
        recording.record

    Deltas are the changes of the model's variables, so a record is of a rule only if the optimizer
    does nothing else, and from its first step. `fit` traces the training step once more, before and
    after.

    Args:
        rule: the rule that the model's optimizer has, such as that given to `LearnedOptimizer`. For
            an optimizer of Keras, it is a rule that does the same, such as `l2l_tf.rules.SGD(0.1)`.
            Its states are computed again from the gradients.
        num_coordinates: about C, over all variables, drawn from each.
        max_steps: the number of steps to record; further ones are not.
        draw: the seed of the choice of coordinates.

    Raises:
        TypeError: the rule is none.
        ValueError: a count is not positive. When training begins: the optimizer changes gradients
            or deltas, has another rule or has trained before, several steps run in one call, or
            another `RecordFit` records the same `fit`.
    """

    def __init__(
        self, rule: Rule, num_coordinates: int = 128, max_steps: int = 1000, draw: int = 0
    ):
        super().__init__()
        check_instance("rule", rule, Rule, "a rule", "Load one with l2l_tf.load_rule.")
        check_count("num_coordinates", num_coordinates)
        check_count("max_steps", max_steps)
        self._rule = rule
        self._num_coordinates = num_coordinates
        self._max_steps = max_steps
        self._draw = draw
        self._gradients: list[np.ndarray] = []
        self._parameters: list[np.ndarray] = []
        self._losses: list[float] = []
        self._loss_so_far = (0.0, 0.0)

    @property
    def record(self) -> Record:
        """The record of the last `fit`.

        A loss is that of one minibatch. It is taken from Keras's running mean, or NaN if the model
        has none of the name "loss".

        Raises:
            ValueError: nothing was recorded, a gradient was not finite, or the optimizer did
                something else than the rule.
        """
        if not self._gradients:
            raise ValueError(
                "RecordFit must have recorded one or more steps. Received: none so far. Pass it to "
                "fit in callbacks."
            )
        record = make_record(
            self._rule,
            self._variables,
            self._sizes,
            self._chosen,
            np.stack(self._gradients),
            np.diff(np.stack(self._parameters), axis=0),
            np.array(self._losses, np.float32),
        )
        if self._rule.is_coordinatewise:
            stepper_for(self._rule, record)
        return record

    def on_train_begin(self, logs: Any = None) -> None:
        optimizer = self.model.optimizer
        variables = list(self.model.trainable_variables)
        self._restore_apply()
        self._check(optimizer, variables)
        self._gradients, self._parameters, self._losses = [], [], []
        self._variables = variables
        self._sizes = [int(np.prod(one.shape)) for one in variables]
        self._chosen = chosen_coordinates(self._sizes, self._num_coordinates, self._draw)
        self._of_step = tf.Variable(tf.zeros([len(self._chosen)]), trainable=False)
        self._note_parameters()
        apply = optimizer.apply

        def recorded(grads: Any, trainable_variables: Any = None) -> None:
            self._of_step.assign(self._chosen_of(grads))
            apply(grads, trainable_variables)

        recorded.recording = self  # type: ignore[attr-defined]
        # Keras calls it in the training step, which is traced again.
        optimizer.apply = recorded
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Keras begins a new mean.
        self._loss_so_far = (0.0, 0.0)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if len(self._gradients) < self._max_steps:
            self._gradients.append(self._of_step.numpy())
            self._note_parameters()
            self._losses.append(self._loss_of_batch())

    def on_train_end(self, logs: Any = None) -> None:
        self._restore_apply()
        self.model.train_function = None

    def _restore_apply(self) -> None:
        """Gives the optimizer its own `apply` back, unless another callback of this `fit` has it.

        Keras does not end the callbacks of a `fit` that is interrupted, so another's may be left.
        """
        optimizer = self.model.optimizer
        recording = getattr(vars(optimizer).get("apply"), "recording", None)
        # Keras gives all callbacks of one `fit` the same object.
        if recording is not None and (recording is self or recording.params is not self.params):
            del optimizer.apply

    def _check(self, optimizer: Any, variables: list[Any]) -> None:
        """Checks that the optimizer answers gradients as the rule does, from its first step."""
        found = [name for name in _CHANGES if getattr(optimizer, name, None)]
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            found.append("loss scaling")
        if self.model.steps_per_execution > 1:
            found.append("steps_per_execution")
        # A `LearnedOptimizer`, on which this package must not depend.
        rule_for = getattr(optimizer, "rule_for", None)
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        if rule_for is not None and rate != 1:
            found.append(f"learning_rate={rate:g}")
        if found:
            raise ValueError(
                "RecordFit must see each gradient as the optimizer uses it, and each delta as the "
                f"rule gives it. Received: a model compiled with {', '.join(found)}. Compile it "
                "without."
            )
        if int(optimizer.iterations.numpy()):
            raise ValueError(
                "RecordFit must record an optimizer from its first step. Received: one that has "
                f"taken {int(optimizer.iterations.numpy())}. Compile the model with a new one."
            )
        if "apply" in vars(optimizer):
            raise ValueError(
                "callbacks must hold one RecordFit at most. Received: two. Record more coordinates "
                "with one of them."
            )
        if rule_for is None:
            return
        for one, rule in zip(variables, _rules_of(self._rule, variables), strict=True):
            if not _is_same(rule_for(one), rule):
                raise ValueError(
                    "rule must be the one that the model's optimizer has. "
                    f"Received: rule={self._rule!r}, while the optimizer updates {one.path} by "
                    f"{rule_for(one)!r}. Give that rule to both."
                )

    def _loss_of_batch(self) -> float:
        for metric in self.model.metrics:
            if metric.name == "loss" and isinstance(metric, keras.metrics.Mean):
                total, count = float(metric.total.numpy()), float(metric.count.numpy())
                total_before, count_before = self._loss_so_far
                self._loss_so_far = total, count
                if count > count_before:
                    return (total - total_before) / (count - count_before)
        return float("nan")

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


def _rules_of(rule: Rule, variables: list[Any]) -> list[Any]:
    """Returns the rule, or its part, that updates each variable."""
    if not isinstance(rule, RoutedRule):
        return [rule] * len(variables)
    parts = parts_of(rule)
    names = list(parts)
    routes = assign_routes(rule.routes, variables)
    return [parts[OTHER if route is None else names[route]] for route in routes]


def _is_same(one: Any, other: Any) -> bool:
    """Returns whether two rules are of the same kind and have the same weights."""
    if type(one) is not type(other):
        return False
    if not isinstance(one, keras.layers.Layer):
        return True  # What it does shows in the record.
    pairs = list(zip(one.get_weights(), other.get_weights(), strict=False))
    return len(one.get_weights()) == len(other.get_weights()) and all(
        np.array_equal(own, given) for own, given in pairs
    )
