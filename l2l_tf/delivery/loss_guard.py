"""Going back to kept weights when the loss has become worse, in `fit` and in loops of one's own."""

import math
from typing import Any

import keras
import numpy as np

from l2l_tf.checks import check_at_least, check_count, check_non_negative
from l2l_tf.delivery.guard_report import guarded_optimizer


class LossGuard(keras.callbacks.Callback):
    """Watches the training loss; goes back, and hands over to the fallback, when it gets worse.

        optimizer = l2l_tf.load("mnist_lstm", guard=l2l_tf.rules.Adam(0.001))
        model.compile(optimizer, "mse")
        model.fit(x, y, callbacks=[l2l_tf.LossGuard()])

    Every `every` steps, the mean loss of these steps is compared with the least one so far, at
    first the loss of the first step. If it is lower, the model's weights are kept. If it is above
    it by more than the margin, or is not finite, the kept weights are restored, and the fallback
    alone takes the next `patience` steps, from a new state. Each time, the patience grows. The idea
    of a fallback that takes over when a learned rule does worse is that of Premont-Schwarz et al.
    2022 (arXiv 2201.12426), which compares the losses of both; here one run is compared with its
    own past.

    In a loop of your own, with a model whose `optimizer` is set by `compile`:

        guard = l2l_tf.LossGuard()
        guard.set_model(model)
        ...
            guard.note(loss)  # after each step: a float

    Args:
        every: the number of steps between checks.
        margin: how much worse the loss may be, relative to the least one.
        patience: the number of steps that the fallback takes over for. None is `every`.
        growth: the factor by which the patience grows each time.

    Attributes:
        num_returns: how often it has gone back.

    Raises:
        ValueError: an argument is out of range; at the beginning of training, the optimizer has no
            guard.
    """

    def __init__(
        self,
        every: int = 100,
        margin: float = 0.1,
        patience: int | None = None,
        growth: float = 2.0,
    ):
        super().__init__()
        check_count("every", every, "Give the number of steps between checks.")
        check_non_negative("margin", margin, "Give how much worse the loss may be.")
        if patience is not None:
            check_count("patience", patience, "Leave it out to have it chosen.")
        check_at_least("growth", growth, 1, "Give the factor by which the patience grows.")
        self.every = every
        self.margin = margin
        self.growth = growth
        self.num_returns = 0
        self._patience = float(every if patience is None else patience)
        self._kept: list[np.ndarray] | None = None
        self._begin()

    def set_model(self, model: Any) -> None:
        """Begins to watch a model, whose weights are kept if it has any yet."""
        super().set_model(model)
        self._kept = model.get_weights() if model is not None and model.built else None
        self._begin()

    def _begin(self) -> None:
        self._least = math.inf
        self._sum, self._count = 0.0, 0

    def note(self, loss: float) -> bool:
        """Notes the loss of a step that was taken, and returns whether it went back.

        Args:
            loss: the loss of the step's minibatch, before the step.
        """
        return self._note_several(float(loss), 1)

    def _note_several(self, total: float, count: int) -> bool:
        """Notes the sum of the losses of several steps."""
        if math.isinf(self._least) and self._kept is not None and math.isfinite(total):
            self._least = total / count
        self._sum += total
        self._count += count
        if self._count < self.every:
            return False
        mean = self._sum / self._count
        self._sum, self._count = 0.0, 0
        if mean < self._least:
            self._least, self._kept = mean, self.model.get_weights()
            return False
        has_kept = self._kept is not None and math.isfinite(self._least)
        if not has_kept or mean <= self._least + self.margin * abs(self._least):
            return False
        self._go_back()
        return True

    def _go_back(self) -> None:
        self.num_returns += 1
        self.model.set_weights(self._kept)
        guarded_optimizer(self.model, "LossGuard").hand_over(math.ceil(self._patience))
        self._patience *= self.growth

    # In `fit`, which tells the mean loss of the epoch so far

    def on_train_begin(self, logs: Any = None) -> None:
        guarded_optimizer(self.model, "LossGuard")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._last_batch = -1
        self._begin_mean()

    def _begin_mean(self) -> None:
        self._num_seen, self._total_seen = 0, 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras may take several steps at once.
        num_steps, self._last_batch = batch - self._last_batch, batch
        self._num_seen += num_steps
        total = float((logs or {}).get("loss", math.nan)) * self._num_seen
        of_these, self._total_seen = total - self._total_seen, total
        if self._note_several(of_these, num_steps):
            # A loss that is not finite would stay in the mean.
            self.model.reset_metrics()
            self._begin_mean()
