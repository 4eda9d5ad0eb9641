import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.evaluation.evaluation import Evaluation, evaluate, task_groups
from l2l_tf.evaluation.unroll import start, unroll
from l2l_tf.problems import MixtureProblem, Quadratic, task_seeds
from l2l_tf.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    CoordinatewiseRule,
    RNNprop,
    Route,
    RoutedRule,
    coordinatewise,
)
from l2l_tf.rules.execution.chunks import InChunks
from tests.reference import lstm as lstm_reference
from tests.reference import optimizers as optimizer_reference
from tests.reference import quadratic as quadratic_reference
from tests.reference.trajectory import follow
from tests.training.toys import (
    NoisyBowls,
    NormalizedGradient,
    Parabolas,
    WeightDecay,
    walk_of_weight_decay,
)


def _lstm() -> CoordinatewiseLSTM:
    return CoordinatewiseLSTM(units=(4,), output_stddev=3.0, seed=1)


# What is run


def test_runs_of_sgd_on_parabolas_have_their_closed_form():
    curvatures = np.array([1.0, 0.5, 3.0])
    evaluation = evaluate(SGD(0.1), Parabolas(curvatures), task_seeds(0, "test", 0, 3), 7)
    steps = np.arange(8)[:, np.newaxis]
    expected = curvatures * (1 - 2 * curvatures * 0.1) ** (2 * steps)
    # Seven float32 products.
    np.testing.assert_allclose(evaluation.losses, expected, rtol=1e-5)
    assert evaluation.losses.dtype == np.float64
    assert evaluation.num_final == 1


@pytest.mark.parametrize("name", ["adam", "lstm"])
def test_runs_are_those_of_numpy_task_after_task_and_function_after_function(name):
    rule = Adam(0.1) if name == "adam" else _lstm()
    problem = Quadratic("gaussian", num_functions=2, num_dimensions=3)
    seeds = task_seeds(0, "test", 4, 2)

    def deltas_of(gradients: np.ndarray) -> np.ndarray:
        if name == "adam":
            return optimizer_reference.adam(gradients, 0.1, 0.9, 0.999, 1e-7)
        return lstm_reference.deltas(lstm_reference.Weights.of(rule), gradients, None)

    expected = []
    for seed in seeds:
        thetas = problem.initial_parameters(seed)[0].numpy()
        for theta, *function in zip(
            thetas, *(p.numpy() for p in problem.batch(seed, 0)), strict=True
        ):
            path = follow(
                deltas_of,
                lambda point, step, function=function: quadratic_reference.gradient(
                    *function, point
                ),
                theta,
                5,
            )
            expected.append([quadratic_reference.loss(*function, p) for p in path.points])
    evaluation = evaluate(rule, problem, seeds, 5)
    # Losses of order 10 in float32 over 5 steps; Adam's 1 - beta_2^t has four digits.
    np.testing.assert_allclose(evaluation.losses, np.transpose(expected), rtol=1e-3)
    assert evaluation.losses.shape == (6, 4)


def test_a_rule_of_whole_tensors_runs_tasks_side_by_side_as_each_runs_alone():
    problem, seeds = NoisyBowls(num_functions=2), task_seeds(0, "test", 0, 3)
    together = evaluate(NormalizedGradient(), problem, seeds, 5).losses
    alone = [evaluate(NormalizedGradient(), problem, seed[np.newaxis], 5).losses for seed in seeds]
    # The same float32 operations but for fused vector instructions.
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), rtol=1e-5)
    # A task's functions have nothing to do with each other either: each goes 0.1 in a step.
    _, last = unroll(
        NormalizedGradient(), problem, seeds[0], start(NormalizedGradient(), problem, seeds[0]), 1
    )
    begin, end = (problem.initial_parameters(seeds[0]), last.parameters)
    moves = end - np.concatenate([np.reshape(one, -1) for one in begin])
    lengths = np.linalg.norm(np.column_stack([np.reshape(moves[:4], [2, 2]), moves[4:]]), axis=1)
    np.testing.assert_allclose(lengths, 0.1, rtol=1e-5)


def test_a_rule_that_needs_more_than_gradients_finds_it_in_each_group_of_tasks():
    problem, seeds = NoisyBowls(dtype="float64"), task_seeds(0, "test", 0, 5)
    walks = [walk_of_weight_decay(problem, seed, 4).losses for seed in seeds]
    # All five side by side; in groups of three, the last of which is filled up; one by one.
    for max_coordinates in (None, 6 * 4, 1):
        losses = evaluate(WeightDecay(), problem, seeds, 4, max_coordinates).losses
        np.testing.assert_allclose(losses, np.concatenate(walks, axis=1), rtol=1e-12)


@pytest.mark.parametrize("make_rule", [lambda: Adam(0.1), NormalizedGradient])
@pytest.mark.parametrize("max_coordinates", [6 * 2, 1])
def test_tasks_in_groups_give_what_they_give_side_by_side_whatever_the_rule(
    make_rule, max_coordinates
):
    problem, seeds = NoisyBowls(), task_seeds(0, "test", 0, 3)
    together = evaluate(make_rule(), problem, seeds, 5).losses
    in_groups = evaluate(make_rule(), problem, seeds, 5, max_coordinates).losses
    # The same float32 operations but for fused vector instructions.
    np.testing.assert_allclose(in_groups, together, rtol=1e-5)


def test_the_parts_of_a_rule_run_in_their_fastest_form(monkeypatch):
    def rule():
        parts = (RNNprop((3,), output_stddev=1.0, seed=seed) for seed in range(2))
        return RoutedRule(next(parts), [Route(next(parts), name="parameter_0")])

    problem, seeds = NoisyBowls(), task_seeds(0, "test", 0, 3)
    whole = evaluate(rule(), problem, seeds, 4).losses
    monkeypatch.setattr(coordinatewise, "CHUNK_SIZE", 5)
    made = []

    class Recorded(InChunks):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append((self.num_coordinates, self.chunk_size))

    monkeypatch.setattr(coordinatewise, "InChunks", Recorded)
    # Three tasks of two functions: 12 coordinates in one tensor, 6 in the other.
    np.testing.assert_allclose(evaluate(rule(), problem, seeds, 4).losses, whole, rtol=1e-4)
    assert set(made) == {(12, 5), (6, 5)}


def test_the_same_tasks_start_from_the_same_losses_whatever_the_rule():
    problem, seeds = NoisyBowls(), task_seeds(0, "test", 0, 2)
    first, second = (evaluate(rule, problem, seeds, 2) for rule in (Adam(0.1), SGD(0.01)))
    np.testing.assert_array_equal(first.losses[0], second.losses[0])
    assert np.all(first.losses[1:] != second.losses[1:])


@pytest.mark.parametrize("max_coordinates", [6 * 5, 6 * 2])
def test_parameters_after_the_last_step_are_kept_where_they_are_asked_for(max_coordinates):
    problem, seeds = NoisyBowls(), task_seeds(0, "test", 0, 5)
    assert evaluate(SGD(0.1), problem, seeds, 3).parameters is None
    kept = evaluate(SGD(0.1), problem, seeds, 3, max_coordinates, keep_parameters=True).parameters
    assert kept.shape == (5, 6)
    for seed, parameters in zip(seeds, kept, strict=True):
        rule = SGD(0.1)
        _, last = unroll(rule, problem, seed, start(rule, problem, seed), 3)
        np.testing.assert_allclose(parameters, last.parameters, rtol=1e-5)


def test_tasks_in_groups_give_what_they_give_side_by_side():
    # Five tasks of six coordinates: in one group, in groups of 3 and 2, and alone.
    problem, seeds = NoisyBowls(), task_seeds(0, "test", 0, 5)
    together = evaluate(_lstm(), problem, seeds, 4).losses
    for max_coordinates in (6 * 5, 6 * 4, 1):
        in_groups = evaluate(_lstm(), problem, seeds, 4, max_coordinates).losses
        assert in_groups.shape == (5, 10)
        # The same float32 operations but for fused vector instructions.
        np.testing.assert_allclose(in_groups, together, rtol=1e-5)


def test_a_group_never_holds_more_coordinates_than_it_may():
    class Counting(SGD):
        num_coordinates = 0

        def __call__(self, gradient, state):
            self.num_coordinates = gradient.shape[0]
            return super().__call__(gradient, state)

    for max_coordinates in (6, 11, 12, 23, 29):
        rule = Counting(0.1)
        evaluate(rule, NoisyBowls(), task_seeds(0, "test", 0, 5), 1, max_coordinates)
        assert rule.num_coordinates <= max_coordinates


# Divergence


def test_a_run_that_overflows_counts_as_infinite_from_there_on():
    # With a curvature of 1000, x grows 199-fold a step: its loss, 1e3 * 199^(2t), leaves float32 at
    # t = 8.
    evaluation = evaluate(SGD(0.1), Parabolas([1.0, 1000.0]), task_seeds(0, "test", 0, 2), 12)
    fine, diverged = evaluation.losses.T
    np.testing.assert_allclose(fine, 0.8 ** (2.0 * np.arange(13)), rtol=1e-5)
    np.testing.assert_allclose(diverged[:8], 1e3 * 199.0 ** (2 * np.arange(8)), rtol=1e-5)
    np.testing.assert_array_equal(diverged[8:], np.inf)
    assert evaluation.num_diverged == 1
    assert evaluation.final_loss == np.inf
    assert evaluation.mean_loss == np.inf
    assert np.isnan(evaluation.final_loss_stderr)
    np.testing.assert_allclose(evaluation.curve[:8], (fine + diverged)[:8] / 2)
    np.testing.assert_array_equal(evaluation.curve[8:], np.inf)
    np.testing.assert_array_equal(evaluation.final_losses, [fine[-1], np.inf])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_run_does_not_come_back_from_a_loss_that_was_not_finite(value):
    class Still(CoordinatewiseRule):
        def initial_state(self, num_coordinates):
            return ()

        def __call__(self, gradient, state):
            return tf.zeros_like(gradient), state

    # Whatever the gradient, the rule stays where it is: after steps 2 and 3 the loss is 1 again.
    problem = Parabolas([1.0, value, 1.0], first_step=2, last_step=3)
    evaluation = evaluate(Still(), problem, task_seeds(0, "test", 0, 3), 6)
    expected = np.ones([7, 3])
    expected[2:, 1] = np.inf
    np.testing.assert_array_equal(evaluation.losses, expected)
    assert evaluation.num_diverged == 1


# What is reported


LOSSES = np.random.default_rng(0).uniform(1, 2, size=[11, 4])


def test_the_curve_is_the_mean_over_runs_at_each_iterate():
    curve = Evaluation(LOSSES).curve
    assert curve.shape == (11,)
    for step in range(11):
        np.testing.assert_allclose(curve[step], statistics.mean(LOSSES[step]))


def test_the_mean_loss_leaves_out_the_initial_one():
    expected = statistics.mean(float(loss) for row in LOSSES[1:] for loss in row)
    np.testing.assert_allclose(Evaluation(LOSSES).mean_loss, expected)


@pytest.mark.parametrize("num_final", [1, 5])
def test_the_final_loss_and_its_standard_error_are_those_of_the_runs_last_losses(num_final):
    evaluation = Evaluation(LOSSES, num_final)
    finals = [statistics.mean(LOSSES[11 - num_final :, run]) for run in range(4)]
    np.testing.assert_allclose(evaluation.final_losses, finals)
    np.testing.assert_allclose(evaluation.final_loss, statistics.mean(finals))
    np.testing.assert_allclose(evaluation.final_loss_stderr, statistics.stdev(finals) / 4**0.5)
    assert evaluation.num_diverged == 0


def test_a_single_run_has_no_standard_error():
    assert np.isnan(Evaluation(LOSSES[:, :1]).final_loss_stderr)


@pytest.mark.parametrize(("num_steps", "num_final"), [(8, 5), (5, 5), (3, 3)])
def test_with_minibatches_the_final_loss_is_that_of_the_last_five_steps(num_steps, num_final):
    seeds = task_seeds(0, "test", 0, 2)
    evaluation = evaluate(SGD(0.1), NoisyBowls(), seeds, num_steps)
    assert evaluation.num_final == num_final
    expected = evaluation.losses[num_steps + 1 - num_final :].mean()
    np.testing.assert_allclose(evaluation.final_loss, expected)


# Hygiene


def test_one_trace_serves_all_tasks():
    counts = []
    for num_tasks in (1, 4):
        rule = NormalizedGradient()
        evaluate(rule, Parabolas(), task_seeds(0, "test", 0, num_tasks), 3)
        counts.append(rule.num_calls)
    assert counts[0] == counts[1] > 0


def test_seeds_may_be_a_numpy_array():
    seeds = task_seeds(0, "test", 0, 2)
    for rule in (SGD(0.1), NormalizedGradient()):
        np.testing.assert_array_equal(
            evaluate(rule, Parabolas(), seeds.numpy(), 2).losses,
            evaluate(rule, Parabolas(), tf.constant(seeds), 2).losses,
        )


@pytest.mark.parametrize("shape", [(2,), (3, 3), (0, 2)])
def test_seeds_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as raised:
        evaluate(SGD(0.1), Parabolas(), np.zeros(shape, np.int32), 2)
    assert str(raised.value) == (
        "seeds must be of shape [M, 2], one for each of M tasks. "
        f"Received: seeds.shape={shape}. Draw them with l2l_tf.problems.task_seeds."
    )


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rule": "mnist_lstm"}, "rule"),
        ({"rule": keras.optimizers.SGD(0.1)}, "rule"),
        ({"problem": MixtureProblem([Parabolas(), Quadratic()])}, "problem"),
        ({"seeds": np.zeros((2, 2), np.float32)}, "seeds"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, name):
    given = {"rule": SGD(0.1), "problem": Parabolas(), "seeds": np.zeros((2, 2), np.int32)}
    with pytest.raises(TypeError, match=f"^{name} must"):
        evaluate(**given | arguments, num_steps=2)


def test_seeds_may_be_int64():
    seeds = np.arange(4).reshape(2, 2)
    np.testing.assert_array_equal(
        evaluate(SGD(0.1), Parabolas(), seeds, 2).losses,
        evaluate(SGD(0.1), Parabolas(), seeds.astype(np.int32), 2).losses,
    )


@pytest.mark.parametrize(
    ("num_tasks", "max_coordinates", "groups"),
    [
        (4, 40, [[0, 1, 2, 3]]),
        (4, 39, [[0, 1], [2, 3]]),
        (5, 39, [[0, 1, 2], [3, 4, 0]]),
        (5, 29, [[0, 1], [2, 3], [4, 0]]),
        (3, 19, [[0], [1], [2]]),
        (2, 1, [[0], [1]]),
    ],
)
def test_groups_are_of_equal_size_and_hold_all_tasks(num_tasks, max_coordinates, groups):
    problem = Quadratic(num_functions=1, num_dimensions=10)
    assert task_groups(num_tasks, problem, max_coordinates).tolist() == groups


@pytest.mark.parametrize(("gpus", "num_groups"), [([], 32), (["GPU:0"], 1)])
def test_by_default_a_gpu_has_more_coordinates_at_once(gpus, num_groups, monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: gpus)
    problem = Quadratic(num_functions=2**10, num_dimensions=2**5)
    assert len(task_groups(32, problem)) == num_groups


def test_a_problem_may_ask_for_more_tasks_side_by_side_unless_their_number_is_given(
    monkeypatch,
):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    problem = Quadratic(num_functions=2**10, num_dimensions=2**5)
    problem.min_tasks_side_by_side = 4
    assert task_groups(6, problem).shape == (2, 3)
    assert task_groups(6, problem, max_coordinates=2**15).shape == (6, 1)


@pytest.mark.parametrize(("log_size", "tasks_of_group"), [(18, 4), (19, 2), (20, 1), (21, 1)])
def test_more_tasks_side_by_side_have_no_more_coordinates_than_a_gpu_gets(
    log_size, tasks_of_group, monkeypatch
):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [])
    problem = Quadratic(num_functions=2 ** (log_size - 5), num_dimensions=2**5)
    problem.min_tasks_side_by_side = 4
    assert task_groups(8, problem).shape == (8 // tasks_of_group, tasks_of_group)


def test_groups_of_no_coordinates_are_refused():
    with pytest.raises(ValueError, match=r"^max_coordinates must"):
        evaluate(SGD(0.1), Parabolas(), task_seeds(0, "test", 0, 1), 2, 0)


def test_an_evaluation_of_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"^num_steps must"):
        evaluate(SGD(0.1), Parabolas(), np.zeros((1, 2), np.int32), 0)
