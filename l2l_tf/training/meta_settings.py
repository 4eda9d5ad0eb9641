"""What a meta-training run is, and how far it has come."""

import dataclasses
from collections.abc import Sequence

from l2l_tf.checks import check_at_least, check_instance, check_one_of
from l2l_tf.evaluation.evaluation import METRICS
from l2l_tf.problems.seeds import check_seed


@dataclasses.dataclass(frozen=True)
class MetaTrainingSettings:
    """What a meta-training run is, beside its rule, its problem and its meta-optimizer.

    Attributes:
        num_steps: the horizon: steps of a trajectory.
        unroll_length: steps of an unroll; the last one of a trajectory is shorter where it doesn't
            divide the horizon.
        num_meta_epochs: meta-epochs; each ends with a validation of the frozen rule.
        trajectories_per_meta_epoch: trajectories between validations. Tasks that run side by side
            count as one trajectory.
        tasks_per_meta_step: tasks that run side by side; the meta-gradient is their mean.
        num_validation_tasks: fixed held-out tasks on which the rule is validated over the horizon.
        validation_metric: "final_loss" or "mean_loss", as `l2l_tf.evaluation.Evaluation` has them;
            the lowest decides which rule is kept.
        backtrack_ratio: where a validation's loss exceeds this multiple of the best so far,
            training goes on from the weights of the best; 0 never goes back.
        horizons: a curriculum: the steps of a trajectory in each of its stages, ascending to
            `num_steps` (Chen et al. 2020, arXiv 2010.09089). A stage is validated over the horizon
            of the one after it; the last, over its own. It ends, and the next begins with its best
            weights, when validations no longer improve (`patience`), at the latest with its share
            of the meta-epochs; what it leaves of them goes to those after it. A meta-epoch has as
            many steps in each stage: `trajectories_per_meta_epoch` of `num_steps`, and so the more
            the shorter they are. Empty: one stage of `num_steps`.
        patience: after how many validations in a row without improvement a stage ends.
        seed: of training and validation tasks, a signed integer of 64 bits.

    Raises:
        TypeError: a count, the size of a chunk, the steps of backpropagation or the seed is no
            integer.
        ValueError: a count is below 1, the seed is out of range, the metric is unknown, the ratio
            is neither 0 nor from 1 on, the share of second derivatives is outside [0, 1], there are
            not as many step weights as steps in an unroll, chunks are negative or asked for with
            second derivatives, or horizons do not ascend to `num_steps`, are no multiples of an
            unroll, do not divide the steps of a meta-epoch, or are more than there are meta-epochs.
    """

    num_steps: int = 100
    unroll_length: int = 20
    num_meta_epochs: int = 10
    trajectories_per_meta_epoch: int = 100
    tasks_per_meta_step: int = 1
    num_validation_tasks: int = 1
    validation_metric: str = "final_loss"
    backtrack_ratio: float = 0.0
    horizons: Sequence[int] = ()
    patience: int = 1
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                check_instance(field.name, value, int, "an integer", "Give a whole number.")
                if field.name != "seed":
                    check_at_least(field.name, value, 1, "Give a positive count.")
        check_seed(self.seed)
        check_one_of("validation_metric", self.validation_metric, METRICS)
        # Written so that NaN is out of range.
        if not (self.backtrack_ratio == 0 or self.backtrack_ratio >= 1):
            raise ValueError(
                "backtrack_ratio must be 0 or at least 1. Received: "
                f"backtrack_ratio={self.backtrack_ratio}. Give, say, 1.5."
            )
        if self.horizons:
            self._check_horizons()

    def _check_horizons(self) -> None:
        horizons = list(self.horizons)
        if not all(isinstance(one, int) for one in horizons) or not (
            horizons[0] > 0 and horizons == sorted(set(horizons)) and horizons[-1] == self.num_steps
        ):
            raise ValueError(
                "horizons must be counts of steps that ascend to num_steps. Received: "
                f"horizons={horizons} with num_steps={self.num_steps}. Give, say, "
                "[100, 200, 500, 1000] with num_steps=1000."
            )
        steps = self.trajectories_per_meta_epoch * self.num_steps
        if any(one % self.unroll_length or steps % one for one in horizons):
            raise ValueError(
                "horizons must be multiples of unroll_length and divide the steps of a meta-epoch, "
                f"num_steps * trajectories_per_meta_epoch. Received: horizons={horizons} with "
                f"unroll_length={self.unroll_length} and {steps} steps. Change one of them."
            )
        if len(horizons) > self.num_meta_epochs:
            raise ValueError(
                "horizons must be no more than the meta-epochs. Received: "
                f"horizons={horizons} with num_meta_epochs={self.num_meta_epochs}. Give each stage "
                "a meta-epoch at least."
            )

    @property
    def stages(self) -> list[int]:
        """The steps of a trajectory in each stage."""
        return list(self.horizons) or [self.num_steps]

    def validation_horizon(self, stage: int) -> int:
        """Returns over how many steps a stage is validated."""
        return self.stages[min(stage + 1, len(self.stages) - 1)]

    def trajectories_of_meta_epoch(self, stage: int) -> int:
        """Returns how many trajectories make up a meta-epoch of a stage."""
        return self.trajectories_per_meta_epoch * self.num_steps // self.stages[stage]

    def last_meta_epoch(self, stage: int) -> int:
        """Returns the meta-epoch, from 1, with which a stage ends at the latest."""
        return (stage + 1) * self.num_meta_epochs // len(self.stages)

    def unroll_lengths_of(self, stage: int) -> list[int]:
        """Returns the lengths of the unrolls of a stage's trajectory; they sum to its horizon."""
        whole, rest = divmod(self.stages[stage], self.unroll_length)
        return [self.unroll_length] * whole + [rest] * (rest > 0)

    @property
    def unroll_lengths(self) -> list[int]:
        """The lengths of the unrolls of a trajectory, in order; they sum to the horizon."""
        return self.unroll_lengths_of(len(self.stages) - 1)

    @property
    def num_meta_steps(self) -> int:
        """The meta-steps of the whole run, if no trajectory is given up."""
        trajectories = self.num_meta_epochs * self.trajectories_per_meta_epoch
        return trajectories * len(self.unroll_lengths)


@dataclasses.dataclass
class MetaProgress:
    """How far a meta-training run has come.

    Attributes:
        num_trajectories: trajectories that have ended.
        first_trajectory: how many had ended when the present meta-epoch began.
        num_unrolls: unrolls of the present trajectory that have ended.
        num_skipped: meta-steps that were skipped because something in them was not finite.
        num_validations: meta-epochs whose validation has ended.
        stage: the present stage of the curriculum, from 0.
        num_stale: validations in a row without improvement in it.
        num_backtracks: how often training went back to the best weights so far.
        best_validation_loss: the lowest so far over the horizon that the present stage is
            validated on; infinite before the first.
        best_meta_epoch: the meta-epoch (from 1) that gave it; 0 before the first, and where the
            initial weights did.
        seconds: time spent in meta-training, over all resumptions of the run.
    """

    num_trajectories: int = 0
    first_trajectory: int = 0
    num_unrolls: int = 0
    num_skipped: int = 0
    num_validations: int = 0
    stage: int = 0
    num_stale: int = 0
    num_backtracks: int = 0
    best_validation_loss: float = float("inf")
    best_meta_epoch: int = 0
    seconds: float = 0.0
