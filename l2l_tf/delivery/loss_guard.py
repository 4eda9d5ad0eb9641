"""Going back to kept weights when the loss has become worse, in `fit` and in loops of one's own."""

import math
from typing import Any

import keras
import numpy as np

from l2l_tf.checks import check_at_least, check_count, check_non_negative
from l2l_tf.delivery.guard_report import guarded_optimizer

# The rounding of a sum of losses that would hide those of the next steps, relative to the sum.
_ROUNDING = 1e-4


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

    Keras tells callbacks the mean loss of the epoch so far. A loss that is not finite would stay in
    that mean, and a very large one would hide those that follow. In these cases the model's metrics
    begin anew with the next batch after a return: what the logs then tell of the epoch is of its
    later batches alone. If the return falls on the epoch's last batch, its logs are left as they
    are.

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
        ValueError: an argument is out of range; when training begins or a loss is noted, there is
            no model, or its optimizer has no guard.
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
        self._must_begin_mean = False
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

        Raises:
            ValueError: there is no model, or its optimizer has no guard.
        """
        if self.model is None:
            raise ValueError(
                "A LossGuard must know the model to restore its weights. Received: a loss before a "
                "model. Call set_model first."
            )
        guarded_optimizer(self.model, "LossGuard")
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
        guarded_optimizer(self.model, "LossGuard").hand_over(math.ceil(self._patience))
        self.model.set_weights(self._kept)
        self.num_returns += 1
        self._patience *= self.growth

    # In `fit`, which tells the mean loss of the epoch so far

    def on_train_begin(self, logs: Any = None) -> None:
        guarded_optimizer(self.model, "LossGuard")

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._last_batch = -1
        self._begin_mean()

    def _begin_mean(self) -> None:
        self._num_seen, self._total_seen = 0, 0.0
        self._must_begin_mean = False

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Not at once, which would leave an epoch that ends here without metrics.
        if self._must_begin_mean:
            self.model.reset_metrics()
            self._begin_mean()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Keras may take several steps at once.
        num_steps, self._last_batch = batch - self._last_batch, batch
        self._num_seen += num_steps
        total = float((logs or {}).get("loss", math.nan)) * self._num_seen
        of_these, self._total_seen = total - self._total_seen, total
        if self._note_several(of_these, num_steps):
            # Keras's sum is of float32.
            is_hidden = _ROUNDING * abs(total) > self.every * abs(self._least)
            self._must_begin_mean = not math.isfinite(total) or is_hidden
