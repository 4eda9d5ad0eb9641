"""Does what guards promise hold at every step, whatever the rule?

Checks docs/guarantees.md in float64, at the iterates of runs in float32. (A) and (B) hold of any
step in which eta is small enough, whatever is added to gradient descent: they check the proof and
beta. The guard is checked by its radius or its ledger, and by what follows from them: each step
decreases the loss, or the sum of squared gradients is bounded. Rules without a guard are checked in
the same way, and must fail.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from experiments.guard.wild import RULES, Exact, Wavy
from l2l_tf.evaluation import bind, start
from l2l_tf.evaluation.unroll import step_function
from l2l_tf.rules import SGD, Guarded, Rule

THETA = 0.9
# Relative to 1 / stretch^2, as are the squared distances to the minima.
BUDGET = 1.0
# With backtracking, eta begins this many times too large.
_TOO_LARGE = 100.0
# A run without a guard counts as diverged when it ends above this many times its first loss.
_DIVERGED = 10.0
# The rounding of sums in float64, relative to the sizes of their terms.
_ROUNDING = 1e-12
_ROUNDING_OF_FLOAT32 = 1e-4


class Run(NamedTuple):
    """A run of a rule on the functions of a task.

    Attributes:
        points: float64 `[T + 1, F, D]`, the iterates, which are numbers of float32.
        gradients: float64 `[T + 1, F, D]`, as the rule saw them, in float32.
        rates: float64 `[T, F]`, eta in each step.
        took_back: bool `[T, F]`, whether the step was one back.
        budget_left: float64 `[F]`, what the guard's own ledger says at the end.
    """

    points: np.ndarray
    gradients: np.ndarray
    rates: np.ndarray
    took_back: np.ndarray
    budget_left: np.ndarray


# By name, as functions of F. The last are far from what `quadratic_lstm` has learned on.
PROBLEMS: dict[str, Callable[[int], Wavy]] = {
    "quadratics": Wavy,
    "quadratics + cosine": lambda num_functions: Wavy(num_functions, amplitude=2.0),
    "steep quadratics": lambda num_functions: Wavy(num_functions, stretch=30.0),
}


def certificate(
    num_functions: int, num_steps: int, seed: tf.Tensor, note: Callable[[], None]
) -> list[dict[str, Any]]:
    """Returns a row for each problem, rule and guard: what was checked, and how often it failed.

    Args:
        num_functions: F.
        num_steps: T.
        seed: names the task, int32 `[2]`.
        note: is called after each rule on each problem.
    """
    problems = {name: make(num_functions) for name, make in PROBLEMS.items()}
    rows = []
    for name, problem in problems.items():
        exact = Exact(problem, seed)
        eta = 1 / exact.beta
        for rule_name, make in RULES.items():
            rule = make(eta)
            alone = _run(rule, problem, seed, num_steps, eta)
            budget = BUDGET / problem.stretch**2
            # Without a guard, the same checks must find something.
            of_alone = {
                mode: _checks(exact, alone, mode, budget) for mode in ("relative", "budget")
            }
            for mode, guarded, first_rate in _guards(rule, eta, budget):
                run = _run(guarded, problem, seed, num_steps, first_rate)
                rows.append(
                    {
                        "problem": name,
                        "rule": rule_name,
                        "guard": mode,
                        **_numbers("alone", _losses(exact, alone)),
                        **_numbers("guarded", _losses(exact, run)),
                        **_checks(exact, run, mode, budget),
                        **_failures("num_alone_fails_", of_alone[_promise(mode)]),
                    }
                )
            note()
    return rows


def _guards(rule: Rule, eta: float, budget: float) -> list[tuple[str, Rule, float]]:
    """Returns guards around a rule: name, guarded rule, and the first eta."""
    too_large = _TOO_LARGE * eta
    return [
        ("relative", Guarded(rule, SGD(eta), "relative", THETA), eta),
        ("budget", Guarded(rule, SGD(eta), "budget", THETA, budget=budget), eta),
        (
            "backtracking",
            Guarded(rule, SGD(too_large), "relative", THETA, backtracking=True),
            too_large,
        ),
    ]


def _promise(mode: str) -> str:
    """Returns the mode whose promise a guard makes."""
    return "budget" if mode == "budget" else "relative"


def _failures(prefix: str, checks: dict[str, Any]) -> dict[str, int]:
    """Returns how often each promise did not hold, under other names."""
    own = "num_fails_"
    return {
        prefix + key.removeprefix(own): value
        for key, value in checks.items()
        if key.startswith(own)
    }


def _run(rule: Rule, problem: Wavy, seed: tf.Tensor, num_steps: int, rate: float) -> Run:
    """Runs a rule; `rate` is eta in the first step."""
    bound = bind(rule, problem)
    iterate = start(bound, problem, seed)
    take_step = step_function(bound, problem, seed, iterate.step, num_steps)
    step = tf.function(lambda iterate: take_step(tf.constant(0), iterate)[1], autograph=False)
    points, gradients, rates, took_back = [iterate.parameters], [iterate.gradient], [], []
    num_functions = problem.num_functions
    failed = np.zeros(num_functions, int)
    for _ in range(num_steps):
        iterate = step(iterate)
        points.append(iterate.parameters)
        gradients.append(iterate.gradient)
        trial = getattr(iterate.rule_state, "trial", ())
        factor = trial.factor.numpy() if trial else np.ones(num_functions)
        now = trial.num_failed.numpy() if trial else failed
        rates.append(rate * factor.astype(np.float64))
        took_back.append(now > failed)
        failed = now
    ledger = getattr(iterate.rule_state, "ledger", None)
    shape = (num_steps + 1, num_functions, problem.num_dimensions)
    return Run(
        np.array(points, np.float64).reshape(shape),
        np.array(gradients, np.float64).reshape(shape),
        np.array(rates),
        np.array(took_back),
        np.zeros(num_functions) if ledger is None else ledger.budget_left.numpy(),
    )


def _losses(exact: Exact, run: Run) -> np.ndarray:
    """Returns the losses, float64 `[T + 1, F]`."""
    with np.errstate(all="ignore"):
        return np.stack([exact.losses(one) for one in run.points])


def _numbers(prefix: str, losses: np.ndarray) -> dict[str, Any]:
    """Returns what a table and a figure show of losses `[T + 1, F]`."""
    with np.errstate(all="ignore"):
        has_diverged = ~(losses[-1] <= _DIVERGED * losses[0])
        curve = np.median(np.where(np.isfinite(losses), losses, np.inf), axis=1)
    return {
        f"{prefix}_final_loss": _finite(curve[-1]),
        f"{prefix}_diverged": float(has_diverged.mean()),
        f"{prefix}_curve": [_finite(one) for one in curve],
    }


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _checks(exact: Exact, run: Run, mode: str, budget: float) -> dict[str, Any]:
    """Returns how often each promise was checked, and how often it did not hold.

    Steps back, and those that they take back, are no steps of the theorem.
    """
    losses, (rates, squares, lengths) = _losses(exact, run), _lengths(exact, run)
    is_later_taken_back = np.concatenate([run.took_back[1:], np.zeros_like(run.took_back[:1])])
    holds = ~run.took_back & ~is_later_taken_back

    # Backtracking compares losses in float32.
    rounding = _ROUNDING if mode != "backtracking" else _ROUNDING_OF_FLOAT32
    with np.errstate(all="ignore"):
        # (A)
        bound = losses[:-1] - rates / 2 * squares + lengths**2 / (2 * rates)
        scale = np.abs(losses[:-1]) + rates * squares + lengths**2 / rates
        fails_a = holds & ~(losses[1:] <= bound + rounding * scale)

        # (B), at every T: (A) of all steps, added up. A step back changes the loss by itself.
        decrease = np.cumsum(np.where(holds, rates / 2 * squares, 0), 0)
        allowed = np.cumsum(np.where(holds, lengths**2 / (2 * rates), 0), 0)
        rise = np.cumsum(np.where(holds, 0, np.diff(losses, axis=0)), 0)
        right = losses[0] - exact.least + allowed + rise
        fails_b = ~(decrease <= right + rounding * np.abs(right))

        # The guard itself.
        radii = _radii(exact, run)
        beyond = ~(lengths <= radii)
        spent = np.where(beyond, lengths**2 - THETA**2 * rates**2 * squares, 0).sum(0)
        if mode == "budget":
            fails_radius = ~(spent <= budget * (1 + 1e-5)) | ~(run.budget_left >= 0)
            # At every T: the sum of squared gradients, with what rounding adds to radii.
            within = rates**2 * THETA**2 * squares
            added = budget * (1 + 1e-5) + np.cumsum(radii**2 - within, 0)
            largest = 2 / rates * (losses[0] - exact.least) + added / rates**2
            sums = (1 - THETA**2) * np.cumsum(squares, 0)
            fails_descent = ~(sums <= largest * (1 + rounding))
        else:
            fails_radius = beyond & ~run.took_back
            # Each step decreases the loss, by as much as the longest v allows.
            most = losses[:-1] - rates / 2 * squares + radii**2 / (2 * rates)
            size = np.abs(losses[:-1]) + rates * squares
            fails_descent = holds & ~(losses[1:] <= most + rounding * size)
    return {
        "num_checked": int(holds.sum()),
        "num_fails_a": int(fails_a.sum()),
        "num_fails_b": int(fails_b.sum()),
        "num_fails_radius": int(fails_radius.sum()),
        "num_fails_descent": int(fails_descent.sum()),
        "largest_share_of_b": _finite(np.max(decrease / right)),
        "largest_share_of_budget": _finite(spent.max() / budget) if mode == "budget" else None,
        "num_taken_back": int(run.took_back.sum()),
    }


def _lengths(exact: Exact, run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns eta, |g|^2 and |v| of each step, float64 `[T, F]`, with exact gradients."""
    with np.errstate(all="ignore"):
        true = np.stack([exact.gradients(one) for one in run.points[:-1]])
        differences = np.diff(run.points, axis=0) + run.rates[..., np.newaxis] * true
        return run.rates, np.square(true).sum(-1), np.sqrt(np.square(differences).sum(-1))


def _radii(exact: Exact, run: Run) -> np.ndarray:
    """Returns theta eta |g| of each step, and what rounding adds to it, float64 `[T, F]`.

    What float32 has rounded in gradients is measured. In iterates and deltas, it is bounded by
    their last digits.
    """
    rates, squares, _ = _lengths(exact, run)
    with np.errstate(all="ignore"):
        true = np.stack([exact.gradients(one) for one in run.points[:-1]])
        of_gradient = rates * np.sqrt(np.square(run.gradients[:-1] - true).sum(-1))
        deltas = np.diff(run.points, axis=0)
        sizes = sum(np.sqrt(np.square(one).sum(-1)) for one in (run.points[:-1], deltas))
        digits = 4 * np.finfo(np.float32).eps * (sizes + rates * np.sqrt(squares))
        return THETA * rates * np.sqrt(squares) * (1 + 1e-6) + 2 * of_gradient + digits
