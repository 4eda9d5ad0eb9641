"""Update rules: learned and hand-designed, with one call signature."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

from l2l_tf.rules.coordinatewise import CoordinatewiseRule
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.distilled import DistilledRule
from l2l_tf.rules.general import GeneralRule
from l2l_tf.rules.global_averaging_lstm import GlobalAveragingLSTM
from l2l_tf.rules.guards.guarded import Guarded, guarded
from l2l_tf.rules.guards.loss_guarded import LossGuarded
from l2l_tf.rules.hand_designed import BASELINES, SGD, Adam, RMSprop
from l2l_tf.rules.ntm_bfgs import NTMBFGS, NTMLBFGS
from l2l_tf.rules.rnnprop import RNNprop
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import NO_INFO, BoundRule, FlatLayout, Rule, StepInfo
from l2l_tf.rules.scheduled import NAG, AdamW, Muon, NAdam, ScheduledRule
from l2l_tf.rules.tensors import BoundToTensors, TensorState

__all__ = [
    "BASELINES",
    "NAG",
    "NO_INFO",
    "NTMBFGS",
    "NTMLBFGS",
    "SGD",
    "Adam",
    "AdamW",
    "BoundRule",
    "BoundToTensors",
    "CoordinatewiseLSTM",
    "CoordinatewiseRule",
    "DistilledRule",
    "FlatLayout",
    "GeneralRule",
    "GlobalAveragingLSTM",
    "Guarded",
    "LossGuarded",
    "Muon",
    "NAdam",
    "RMSprop",
    "RNNprop",
    "Route",
    "RoutedRule",
    "Rule",
    "ScheduledRule",
    "StepInfo",
    "TensorState",
    "guarded",
]
