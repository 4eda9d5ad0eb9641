"""What a guard did in each epoch, among the logs of `fit`."""

from typing import Any

import keras


class GuardReport(keras.callbacks.Callback):
    """Adds what the guard of a `LearnedOptimizer` did to the logs of each epoch.

        optimizer = l2l_tf.load("mnist_rnnprop", guard=l2l_tf.rules.Adam(0.001))
        model.compile(optimizer, "mse")
        model.fit(x, y, callbacks=[l2l_tf.GuardReport(), keras.callbacks.TensorBoard("logs")])

    The logs `guarded_steps` and `cut_share` are the number of steps of the epoch in which the guard
    has cut a delta, and the share that it has cut, in the mean over all steps of the epoch, of what
    the rule would have added to the fallback's delta. Of several guarded rules, such as the parts
    of one, each counts its own steps, so there may be more than the epoch has. `History` keeps the
    logs. Callbacks that come later in the list, such as `keras.callbacks.TensorBoard`, show them.
    """

    def on_train_begin(self, logs: Any = None) -> None:
        guarded_optimizer(self.model, "GuardReport")
        self._before = self._numbers()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        before, self._before = self._before, self._numbers()
        (num_steps, num_guarded, total), (num_then, guarded_then, total_then) = self._before, before
        if logs is not None:
            logs["guarded_steps"] = num_guarded - guarded_then
            logs["cut_share"] = (total - total_then) / max(1, num_steps - num_then)

    def _numbers(self) -> tuple[int, int, float]:
        """Returns the numbers of steps and of guarded steps, and the sum of shares."""
        optimizer = guarded_optimizer(self.model, "GuardReport")
        num_steps = optimizer.num_taken_steps
        return num_steps, optimizer.num_guarded_steps, num_steps * optimizer.mean_cut_share


def guarded_optimizer(model: Any, callback: str) -> Any:
    """Returns the `LearnedOptimizer` of a model, which must have a guard.

    Args:
        model: the model.
        callback: the name of the class that needs it, for the error.

    Raises:
        ValueError: the model is trained by another optimizer, or without a guard.
    """
    optimizer = getattr(model, "optimizer", None)
    # With mixed precision in float16, Keras wraps the optimizer.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not getattr(optimizer, "is_guarded", False):
        raise ValueError(
            f"{callback} must be used with a LearnedOptimizer that has a guard. "
            f"Received: a model that is trained by {optimizer!r}. Load its rule with guard=, or "
            "leave the callback out."
        )
    return optimizer
