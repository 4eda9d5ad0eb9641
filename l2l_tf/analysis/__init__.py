"""What a rule has learned: probes of any rule, and records of real trajectories.

    rule = l2l_tf.load_rule("quadratic_lstm")
    (seed,) = l2l_tf.problems.task_seeds(0, "test", 0, 1)
    problem = l2l_tf.problems.Quadratic(num_functions=16)
    record = analysis.record_trajectory(rule, problem, seed, num_steps=100)
    analysis.likeness(record, "adam").explained

`RecordFit` records a Keras `fit` instead.

A probe takes a rule and a record of it, or the record alone, and returns arrays. Rules that look at
whole tensors have records without states; for them, there are `effective_rate`, `attribution` and
`likeness`.
"""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.analysis.fit_record import RecordFit
from l2l_tf.analysis.fixed_points import (
    FixedPoint,
    FixedPoints,
    curvatures_of,
    fixed_points,
    optimal_heavy_ball,
)
from l2l_tf.analysis.gradients import GradientStatistics, gradient_statistics
from l2l_tf.analysis.linear_fits import (
    Attribution,
    EffectiveRate,
    attribution,
    default_features,
    effective_rate,
)
from l2l_tf.analysis.record import Record
from l2l_tf.analysis.responses import (
    Adaptation,
    AutonomousResponse,
    ImpulseResponse,
    NoiseResponse,
    adaptation,
    autonomous_response,
    impulse_response,
    noise_response,
)
from l2l_tf.analysis.state_space import StateSpace, state_space
from l2l_tf.analysis.trajectory import record_trajectory
from l2l_tf.analysis.update_function import (
    Likeness,
    Saturation,
    UpdateFunction,
    likeness,
    saturation,
    update_function,
)

__all__ = [
    "Adaptation",
    "Attribution",
    "AutonomousResponse",
    "EffectiveRate",
    "FixedPoint",
    "FixedPoints",
    "GradientStatistics",
    "ImpulseResponse",
    "Likeness",
    "NoiseResponse",
    "Record",
    "RecordFit",
    "Saturation",
    "StateSpace",
    "UpdateFunction",
    "adaptation",
    "attribution",
    "autonomous_response",
    "curvatures_of",
    "default_features",
    "effective_rate",
    "fixed_points",
    "gradient_statistics",
    "impulse_response",
    "likeness",
    "noise_response",
    "optimal_heavy_ball",
    "record_trajectory",
    "saturation",
    "state_space",
    "update_function",
]
