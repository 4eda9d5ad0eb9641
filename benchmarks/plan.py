"""Who is measured on what, and for how long: about 15 minutes on two cores in all."""

import dataclasses
from collections.abc import Collection


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a workload is measured.

    Attributes:
        contenders: who runs, in this order.
        num_rounds: how often each has its turn. With more than one, all of them stay alive and
            take turns, so that what else goes on in the machine meets all alike; with one, each
            has the machine's memory to itself. With none, all there is is the first step.
        seconds: of each turn; a step in work is ended.
        min_steps: how many a turn has whatever time they take.
        time_limit: seconds in which a process must get to the end of its first step, compilation
            included, and then of each turn.
        trial_steps: numbers of steps on which a contender whose memory grows with the unroll is
            tried first. Where what they show says that the whole unroll does not fit, it is
            extrapolated instead of run. Empty for workloads that fit anyway.
    """

    contenders: tuple[str, ...]
    num_rounds: int = 1
    seconds: float = 2.0
    min_steps: int = 1
    time_limit: float = 150.0
    trial_steps: tuple[int, ...] = ()

    def only(self, contenders: Collection[str]) -> "Plan":
        """Returns the plan without other contenders."""
        chosen = tuple(name for name in self.contenders if name in contenders)
        return dataclasses.replace(self, contenders=chosen)

    def with_rounds(self, num_rounds: int) -> "Plan":
        """Returns the plan with another number of rounds."""
        return dataclasses.replace(self, num_rounds=num_rounds)

    def quick(self) -> "Plan":
        """Returns the least that shows whether it works."""
        return dataclasses.replace(
            self, num_rounds=min(self.num_rounds, 2), seconds=0.0, min_steps=1
        )


_ALL = ("ours", "plain_tensorflow", "jax_scan", "pytorch", "pytorch_compiled")
_WITH_ONE_THREAD = (*_ALL[:2], "plain_one_thread", *_ALL[2:])
_INNER = Plan(_ALL, seconds=1.5, min_steps=3)

PLANS: dict[str, Plan] = {
    "mnist": Plan(_WITH_ONE_THREAD, num_rounds=4, seconds=2.5),
    "cifar": Plan(_WITH_ONE_THREAD, num_rounds=3, seconds=4),
    # Without pytorch_compiled, which needs much as pytorch does and longer to begin.
    "mlp_1m": Plan(_ALL[:-1], seconds=12, trial_steps=(2, 4)),
    # Its one meta-step shows whether memory is what 1M coordinates let expect.
    "mlp_10m": Plan(("ours",), num_rounds=0, time_limit=420),
    "mnist_two_tasks": Plan(("one_device", "two_devices"), num_rounds=3, seconds=2),
    "inner_1e4": _INNER,
    "inner_1e5": _INNER,
    "inner_1e6": _INNER,
    # Without pytorch_compiled, which takes half a minute here to begin.
    "inner_1e7": Plan(_ALL[:-1], seconds=1.5, min_steps=4),
}
