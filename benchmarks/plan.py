"""Contenders and durations of each workload, in all about 15 minutes on two cores."""

import dataclasses
from collections.abc import Collection


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a workload is measured.

    Attributes:
        contenders: the contenders, in the order in which they run.
        num_rounds: the number of turns of each contender. With more than one, all contenders stay
            alive and take turns, so that whatever else the machine does affects all alike. With
            one, each has the machine's memory to itself. With none, only the first step is run.
        seconds: the duration of each turn; a step in progress is finished.
        min_steps: the number of steps in a turn, however long they take.
        time_limit: seconds in which a process must finish its first step, including compilation,
            and then each turn.
        trial_steps: numbers of steps on which a contender whose memory grows with the unroll is
            tried first. If the trials predict that the whole unroll does not fit, the contender is
            extrapolated instead of run. Empty for workloads that always fit.
    """

    contenders: tuple[str, ...]
    num_rounds: int = 1
    seconds: float = 2.0
    min_steps: int = 1
    time_limit: float = 150.0
    trial_steps: tuple[int, ...] = ()

    def only(self, contenders: Collection[str]) -> "Plan":
        """Returns the plan for these contenders alone."""
        chosen = tuple(name for name in self.contenders if name in contenders)
        return dataclasses.replace(self, contenders=chosen)

    def with_rounds(self, num_rounds: int) -> "Plan":
        """Returns the plan with another number of rounds."""
        return dataclasses.replace(self, num_rounds=num_rounds)

    def quick(self) -> "Plan":
        """Returns the shortest plan that shows whether everything works."""
        return dataclasses.replace(
            self, num_rounds=min(self.num_rounds, 2), seconds=0.0, min_steps=1
        )


_ALL = ("ours", "plain_tensorflow", "jax_scan", "pytorch", "pytorch_compiled")
_WITH_ONE_THREAD = (*_ALL[:2], "plain_one_thread", *_ALL[2:])
_INNER = Plan(_ALL, seconds=1.5, min_steps=3)

PLANS: dict[str, Plan] = {
    "mnist": Plan(_WITH_ONE_THREAD, num_rounds=4, seconds=2.5),
    "cifar": Plan(_WITH_ONE_THREAD, num_rounds=3, seconds=4),
    # Without pytorch_compiled, which needs about as much memory as pytorch and takes longer to
    # start.
    "mlp_1m": Plan(_ALL[:-1], seconds=12, trial_steps=(2, 4)),
    # Its one meta-step shows whether memory is as 1M coordinates predict.
    "mlp_10m": Plan(("ours",), num_rounds=0, time_limit=420),
    "mnist_two_tasks": Plan(("one_device", "two_devices"), num_rounds=3, seconds=2),
    "inner_1e4": _INNER,
    "inner_1e5": _INNER,
    "inner_1e6": _INNER,
    # Without pytorch_compiled, which takes half a minute to start here.
    "inner_1e7": Plan(_ALL[:-1], seconds=1.5, min_steps=4),
}
