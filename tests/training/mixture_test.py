"""Meta-training on problems of different sizes."""

import keras
import numpy as np
import pytest

from l2l_tf.evaluation import evaluate
from l2l_tf.problems import MixtureProblem, Quadratic, SupervisedProblem, task_seeds
from l2l_tf.rules import CoordinatewiseLSTM
from l2l_tf.training import (
    EvolutionStrategies,
    MetaTrainer,
    MetaTrainingSettings,
    TruncatedBackpropagation,
)
from l2l_tf.training.estimators.estimator import Run
from tests.training.recorder import KeepCheckpoints, StopAfter
from tests.training.toys import NoisyBowls

SETTINGS = MetaTrainingSettings(
    num_steps=6,
    unroll_length=2,
    num_meta_epochs=2,
    trajectories_per_meta_epoch=3,
    tasks_per_meta_step=2,
    num_validation_tasks=2,
)
ESTIMATORS = {"backpropagation": TruncatedBackpropagation, "evolution": EvolutionStrategies}


class HundredfoldBowls(NoisyBowls):
    """Bowls whose losses count a hundredth beside those of others."""

    name = "hundredfold_bowls"

    loss_unit = 100.0


def _mixture() -> MixtureProblem:
    quadratic = Quadratic(num_functions=3, initial_stddev=1.0)
    return MixtureProblem([quadratic, HundredfoldBowls(num_functions=2)])


def _trainer(checkpoint_dir=None, estimator="backpropagation") -> MetaTrainer:
    return MetaTrainer(
        CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1),
        _mixture(),
        keras.optimizers.Adam(0.01, clipnorm=1.0),
        SETTINGS,
        checkpoint_dir=checkpoint_dir,
        checkpoint_seconds=0,
        estimator=ESTIMATORS[estimator](),
    )


@pytest.mark.slow
@pytest.mark.usefixtures("deterministic_operations")
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_run_that_was_killed_ends_with_the_weights_of_one_that_was_not(tmp_path, estimator):
    folder, killed = tmp_path / "run", tmp_path / "killed"
    whole = _trainer(folder, estimator)
    # In the middle of a trajectory.
    whole.fit([KeepCheckpoints(folder, killed, 8)])
    resumed = _trainer(killed, estimator)
    assert resumed.progress.num_unrolls == 2
    resumed.fit()
    for one, same in zip(resumed.rule.get_weights(), whole.rule.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)
    assert resumed.progress.best_validation_loss == whole.progress.best_validation_loss


def test_validation_is_the_mean_over_problems_of_normalized_losses():
    trainer = _trainer()
    loss, curve = trainer.validate()
    seeds = task_seeds(0, "validation", 0, 2)
    quadratic, bowls = (
        evaluate(trainer.rule, problem, seeds, 6) for problem in trainer.problem.components
    )
    np.testing.assert_allclose(curve, (quadratic.curve + bowls.curve / 100) / 2, rtol=1e-5)
    # Of bowls, whose steps have noise, several of the last losses count.
    own = {"quadratic_uniform": quadratic.final_loss, "hundredfold_bowls": bowls.final_loss / 100}
    assert trainer.validation_losses == pytest.approx(own, rel=1e-5)
    assert loss == pytest.approx(sum(own.values()) / 2, rel=1e-5)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_meta_gradients_are_of_losses_in_units_of_the_problem(estimator):
    estimates = []
    for problem in (NoisyBowls(num_functions=2), HundredfoldBowls(num_functions=2)):
        rule = CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1)
        run = Run(rule, problem, num_tasks=2, horizon=6, unroll_length=2)
        seeds = task_seeds(0, "train", 0, 2)
        own = ESTIMATORS[estimator]()
        estimates.append(own.estimate(run, seeds, own.begin(run, seeds), 2))
    whole, hundredth = estimates
    np.testing.assert_allclose(hundredth.meta_loss, whole.meta_loss / 100, rtol=1e-5)
    for one, other in zip(whole.gradients, hundredth.gradients, strict=True):
        np.testing.assert_allclose(other, one / 100, rtol=1e-4, atol=1e-7)


def test_a_mixture_can_be_trained_on_and_one_of_it_validated():
    rule = CoordinatewiseLSTM((3,), seed=0)
    bowls = _mixture().components[1]
    trainer = MetaTrainer(rule, _mixture(), keras.optimizers.Adam(0.01), SETTINGS, bowls)
    alone = MetaTrainer(rule, bowls, keras.optimizers.Adam(0.01), SETTINGS)
    assert trainer.validate()[0] == alone.validate()[0]


def _keras_problem(units: int = 3) -> SupervisedProblem:
    """Returns a problem of a new model, whose layers Keras numbers anew."""
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(units, "tanh")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Add()([hidden, hidden])))
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    return SupervisedProblem(model, x, x[:, :1], "mse", batch_size=2, name="mine")


def test_the_same_model_made_anew_is_the_same_run(tmp_path):
    def trainer(problem):
        rule = CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1)
        optimizer = keras.optimizers.Adam(0.01)
        return MetaTrainer(rule, problem, optimizer, SETTINGS, checkpoint_dir=tmp_path)

    first = trainer(_keras_problem())
    first.fit([StopAfter(first, 1)])
    assert trainer(_keras_problem()).progress.num_unrolls == 1
    with pytest.raises(ValueError, match=r"problem_config\.model\..*units") as raised:
        trainer(_keras_problem(units=4))
    assert len(str(raised.value)) < 2000


def test_another_mixture_is_another_run(tmp_path):
    trainer = _trainer(tmp_path)
    trainer.fit([StopAfter(trainer, 1)])
    other = MixtureProblem(_mixture().components, [1, 2])
    with pytest.raises(ValueError, match=r"problem_config\.weights"):
        MetaTrainer(
            CoordinatewiseLSTM((3,), seed=0, output_stddev=0.1),
            other,
            keras.optimizers.Adam(0.01, clipnorm=1.0),
            SETTINGS,
            checkpoint_dir=tmp_path,
        )
