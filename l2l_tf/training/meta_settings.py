"""Settings and progress of a meta-training run."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from l2l_tf.checks import check_at_least, check_instance, check_one_of
from l2l_tf.evaluation.evaluation import METRICS
from l2l_tf.problems.seeds import check_seed


@dataclasses.dataclass(frozen=True)
class MetaTrainingSettings:
    """Settings of a meta-training run, apart from rule, problem, meta-optimizer and estimator.

    Attributes:
        num_steps: the horizon: the number of steps of a trajectory.
        unroll_length: the number of steps of an unroll. The last unroll of a trajectory is shorter
            if this does not divide the horizon.
        num_meta_epochs: the number of meta-epochs. Each ends with a validation of the frozen rule.
        trajectories_per_meta_epoch: the number of trajectories between validations. Tasks that run
            side by side count as one trajectory.
        tasks_per_meta_step: the number of tasks that run side by side. The meta-gradient is their
            mean.
        num_validation_tasks: the number of fixed held-out tasks on which the rule is validated over
            the horizon.
        validation_metric: "final_loss" or "mean_loss", as defined in
            `l2l_tf.evaluation.Evaluation`. The rule with the lowest value is kept.
        backtrack_ratio: if a validation loss exceeds this multiple of the best so far, training
            continues from the best weights. 0 never goes back.
        horizons: a curriculum: the trajectory length in each of its stages, ascending to
            `num_steps` (Chen et al. 2020, arXiv 2010.09089). A stage is validated over the horizon
            of the next stage, and the last stage over its own. A stage ends when validations no
            longer improve (`patience`), or when its share of the meta-epochs is used up. The next
            stage begins with its best weights. Unused meta-epochs go to later stages. A meta-epoch
            has the same number of steps in every stage, those of `trajectories_per_meta_epoch`
            trajectories of `num_steps`. Shorter trajectories are therefore more numerous. If empty,
            there is one stage of `num_steps`.
        drawn_horizons: if there are any, the length of each trajectory is drawn from these, all
            alike. A trajectory is then one unroll. The largest is `num_steps`, over which rules are
            validated.
        patience: the number of validations in a row without improvement after which a stage ends.
        seed: the seed of training and validation tasks, a signed 64-bit integer.

    Raises:
        TypeError: a count or the seed is not an integer.
        ValueError: a count is below 1, the seed is out of range, the metric is unknown, or the
            ratio is neither 0 nor at least 1. Also if horizons do not ascend to `num_steps`, are
            not multiples of `unroll_length`, do not divide the number of steps in a meta-epoch, or
            outnumber the meta-epochs; and if horizons to draw are not as above, or go with others.
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
    drawn_horizons: Sequence[int] = ()
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
        if self.drawn_horizons:
            self._check_drawn_horizons()

    def _check_drawn_horizons(self) -> None:
        drawn = list(self.drawn_horizons)
        if not all(isinstance(one, int) and one > 0 for one in drawn) or not (
            max(drawn) == self.num_steps <= self.unroll_length
        ):
            raise ValueError(
                "drawn_horizons must be counts of steps, of which num_steps is the largest, and "
                f"unroll_length as large as that. Received: drawn_horizons={drawn} with "
                f"num_steps={self.num_steps}, unroll_length={self.unroll_length}. Give, say, "
                "[50, 100, 200] with 200 for both."
            )
        if self.horizons:
            raise ValueError(
                "drawn_horizons must be left out where horizons grow. Received: "
                f"drawn_horizons={drawn} with horizons={list(self.horizons)}. Leave out one of the "
                "two."
            )

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
                "num_steps * trajectories_per_meta_epoch. "
                f"Received: horizons={horizons} with "
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
        """The number of steps of a trajectory in each stage."""
        return list(self.horizons) or [self.num_steps]

    def validation_horizon(self, stage: int) -> int:
        """Returns the number of steps over which a stage is validated."""
        return self.stages[min(stage + 1, len(self.stages) - 1)]

    def trajectories_of_meta_epoch(self, stage: int) -> int:
        """Returns the number of trajectories in a meta-epoch of a stage."""
        return self.trajectories_per_meta_epoch * self.num_steps // self.stages[stage]

    def horizon_of(self, stage: int, index: int) -> int:
        """Returns the number of steps of a trajectory.

        Args:
            stage: the stage of the curriculum.
            index: the trajectory's index, from 0.
        """
        if not self.drawn_horizons:
            return self.stages[stage]
        # NumPy takes no negative seeds. The last number is for draws of nothing else.
        generator = np.random.default_rng([self.seed % 2**64, index, 1])
        return int(generator.choice(list(self.drawn_horizons)))

    def last_meta_epoch(self, stage: int) -> int:
        """Returns the last possible meta-epoch of a stage, from 1."""
        return (stage + 1) * self.num_meta_epochs // len(self.stages)

    def unroll_lengths_of(self, stage: int) -> list[int]:
        """Returns the lengths of the unrolls in a stage's trajectory.

        They sum to its horizon. If horizons are drawn, there is one unroll of the largest.
        """
        if self.drawn_horizons:
            return [self.num_steps]  # Of which there is one.
        whole, rest = divmod(self.stages[stage], self.unroll_length)
        return [self.unroll_length] * whole + [rest] * (rest > 0)

    @property
    def unroll_lengths(self) -> list[int]:
        """The lengths of the unrolls of a trajectory, in order. They sum to the horizon."""
        return self.unroll_lengths_of(len(self.stages) - 1)

    @property
    def num_meta_steps(self) -> int:
        """The number of meta-steps in the whole run, if no trajectory is abandoned."""
        trajectories = self.num_meta_epochs * self.trajectories_per_meta_epoch
        return trajectories * len(self.unroll_lengths)


@dataclasses.dataclass
class MetaProgress:
    """The progress of a meta-training run.

    Attributes:
        num_trajectories: the number of finished trajectories.
        first_trajectory: the number of trajectories finished before the current meta-epoch.
        num_unrolls: the number of finished unrolls in the current trajectory.
        num_skipped: the number of meta-steps skipped because of non-finite values.
        num_validations: the number of meta-epochs with a finished validation.
        stage: the current stage of the curriculum, from 0.
        num_stale: the number of validations in a row without improvement in the current stage.
        num_backtracks: how often training went back to the best weights so far.
        best_validation_loss: the lowest so far over the horizon that the current stage is validated
            on. Infinite before the first validation.
        best_meta_epoch: the meta-epoch (from 1) of the best validation. 0 before the first
            validation, and if the initial weights are the best.
        seconds: the time spent in meta-training, over all resumptions of the run.
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
