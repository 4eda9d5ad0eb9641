"""All probes of one rule on one record, and their numbers for `analysis.json`."""

import dataclasses
from typing import Any

import numpy as np

from l2l_tf import analysis
from l2l_tf.analysis import Record
from l2l_tf.rules.rule import Rule

# Steps for which impulses and the absence of gradients are followed.
_NUM_FOLLOWED = 40
_LIKENESSES = ("adam", "momentum", "sgd")


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the probes have found on one rule, or one part of a rule, on one problem.

    Attributes:
        label: the names of rule, part and problem.
        rule: the name of the rule.
        problem: the name of the problem.
        record: the record.
        gradients: sizes and signs of the gradients met.
        likeness: how like each hand-designed rule it is.
        rates: effective rates.
        attribution: what explains the deltas.
        probes: the results of probes that step the rule, by name. None for a rule that looks at
            whole tensors.
    """

    label: str
    rule: str
    problem: str
    record: Record
    gradients: analysis.GradientStatistics
    likeness: dict[str, analysis.Likeness]
    rates: analysis.EffectiveRate
    attribution: analysis.Attribution
    probes: dict[str, Any] | None


def probe(label: str, rule_name: str, problem: str, rule: Rule, record: Record) -> Findings:
    """Runs all probes that a rule can be probed with."""
    likeness = {name: analysis.likeness(record, name) for name in _LIKENESSES}
    return Findings(
        label,
        rule_name,
        problem,
        record,
        analysis.gradient_statistics(record),
        likeness,
        analysis.effective_rate(record),
        analysis.attribution(record),
        _stepped(rule, record) if rule.is_coordinatewise else None,
    )


def _stepped(rule: Rule, record: Record) -> dict[str, Any]:
    num_steps = record.num_steps
    followed = min(_NUM_FOLLOWED, max(1, num_steps // 2))
    at = [0, num_steps // 4, num_steps - followed]
    function = analysis.update_function(rule, record)
    return {
        "update_function": function,
        "saturation": analysis.saturation(function, record),
        "impulse": analysis.impulse_response(
            rule, record, at, followed, background="recorded", size=0.1
        ),
        "lone_impulse": analysis.impulse_response(rule, record, [0], followed),
        "autonomous": analysis.autonomous_response(rule, record, num_steps=followed),
        "adaptation": analysis.adaptation(rule, num_steps=num_steps),
        "noise": analysis.noise_response(rule, num_steps=num_steps),
        "fixed_points": analysis.fixed_points(rule, record, num_starts=8),
        "state_space": analysis.state_space(record),
    }


def numbers(found: Findings) -> dict[str, Any]:
    """Returns the numbers of findings, as values of JSON. Medians are over coordinates."""
    rates, shares = found.rates, found.attribution
    contents: dict[str, Any] = {
        "rule": found.rule,
        "problem": found.problem,
        "num_steps": found.record.num_steps,
        "num_coordinates": found.record.num_coordinates,
        "first_loss": float(found.record.losses[0]),
        "last_losses": float(found.record.losses[-5:].mean()),
        "delta_size": _rms(found.record.deltas),
        "delta_size_by_window": [
            _rms(part) for part in np.array_split(found.record.deltas, len(rates.starts))
        ],
        "gradients": {
            **dict(
                zip(
                    (f"size_{share:g}" for share in found.gradients.shares),
                    found.gradients.sizes.tolist(),
                    strict=True,
                )
            ),
            "zeros": found.gradients.zeros,
            "persistence": found.gradients.persistence,
            "signal": found.gradients.signal,
        },
        "likeness": {
            name: {"rate": one.rate, "explained": one.explained}
            for name, one in found.likeness.items()
        },
        "effective_rate": {
            "starts": rates.starts.tolist(),
            "tensors": list(rates.tensors),
            "of_gradient": rates.of_gradient.tolist(),
            "of_momentum": rates.of_momentum.tolist(),
            "explained_by_gradient": rates.explained_by_gradient.tolist(),
            "explained_by_momentum": rates.explained_by_momentum.tolist(),
        },
        "attribution": {
            "starts": shares.starts.tolist(),
            "features": list(shares.features),
            "explained": shares.explained.tolist(),
            "alone": shares.alone.tolist(),
            "lost": shares.lost.tolist(),
            "weights": shares.weights.tolist(),
        },
    }
    return contents | (_stepped_numbers(found) if found.probes else {})


def _stepped_numbers(found: Findings) -> dict[str, Any]:
    probes: dict[str, Any] = found.probes or {}
    function, bends = probes["update_function"], probes["saturation"]
    impulse, lone = probes["impulse"], probes["lone_impulse"]
    silent, constant, noise = (probes[name] for name in ("autonomous", "adaptation", "noise"))
    points, space = probes["fixed_points"], probes["state_space"]
    return {
        "update_function": {
            "steps": function.steps.tolist(),
            "relative_gradients": (function.gradients[:, 0] / function.units[0]).tolist(),
            "deltas": np.median(function.deltas, axis=2).tolist(),
            **{name: np.median(one, axis=2).tolist() for name, one in function.others.items()},
        },
        "saturation": {
            "steps": bends.steps.tolist(),
            "bends": np.median(bends.bends, axis=1).tolist(),
            "relative_bends": np.median(bends.bends / function.units, axis=1).tolist(),
            "beyond": bends.beyond.tolist(),
        },
        "impulse": _impulse_numbers(impulse),
        "lone_impulse": _impulse_numbers(lone),
        "autonomous": {
            "steps": silent.steps.tolist(),
            "sizes": [[_rms(of_step) for of_step in one] for one in silent.deltas],
            "drifts": np.median(np.abs(silent.drift), axis=1).tolist(),
        },
        "adaptation": {
            "sizes": constant.sizes.tolist(),
            "settled": constant.settled[:, 0].tolist(),
            "settled_of_negative": constant.settled_of_negative[:, 0].tolist(),
            "first": constant.deltas[0, :, 0].tolist(),
            "exponents": constant.exponents[:, 0].tolist(),
            "schedule": constant.schedule[:, 0].tolist(),
        },
        "noise": {
            "means": noise.means.tolist(),
            "sizes": noise.sizes[..., 0].tolist(),
            "drifts": noise.drifts[..., 0].tolist(),
        },
        "fixed_points": {
            "num_lost": points.num_lost,
            "held_leaves": list(points.held),
            "points": [
                {
                    "num_starts": one.num_starts,
                    "delta": one.delta,
                    "largest_eigenvalue": one.largest_eigenvalue,
                    "direct_rate": one.direct_rate,
                    "unit": one.unit,
                    "modes": [
                        {
                            "rate": rate.real,
                            "rate_imaginary": rate.imag,
                            "momentum": momentum.real,
                            "momentum_imaginary": momentum.imag,
                            "time_constant": float(time),
                            "curvatures": _curvatures(rate, momentum),
                        }
                        for rate, momentum, time in zip(
                            one.rates.tolist(),
                            one.momenta.tolist(),
                            one.time_constants,
                            strict=True,
                        )
                    ],
                }
                for one in points.points
            ],
        },
        "state_space": {
            "num_dimensions": len(space.variances),
            "participation_ratio": space.participation_ratio,
            "participation_ratio_by_step": space.by_step.tolist(),
            "variances": space.variances.tolist(),
        },
    }


def _curvatures(rate: complex, momentum: complex) -> list[float] | None:
    """Returns the curvatures for which a mode is the optimal heavy ball's, or None."""
    is_real = rate.imag == momentum.imag == 0
    if not (is_real and rate.real > 0 and 0 <= momentum.real < 1):
        return None
    return list(analysis.curvatures_of(rate.real, momentum.real))


def _impulse_numbers(response: analysis.ImpulseResponse) -> dict[str, Any]:
    # A unit gradient's change of deltas in units of the loss would differ between coordinates.
    relative = response.deltas * response.units
    mean = np.median(relative, axis=2)
    moved = np.abs(mean).cumsum(axis=1)
    return {
        "steps": response.steps.tolist(),
        "deltas": mean.tolist(),
        "half_time": (1 + (moved < 0.5 * moved[:, -1:]).sum(axis=1)).tolist(),
        "time_constants": np.nanmedian(response.time_constants, axis=1).tolist(),
        "momenta": np.nanmedian(response.momenta, axis=1).tolist(),
        "oscillations": np.median(response.oscillations, axis=1).tolist(),
    }


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
