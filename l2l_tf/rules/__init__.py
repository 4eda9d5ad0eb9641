"""What updates: learned and hand-designed rules behind one call."""

from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.hand_designed import BASELINES, SGD, Adam, RMSprop
from l2l_tf.rules.nesterov_rnnprop import NesterovRNNprop
from l2l_tf.rules.rnnprop import RNNprop
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.routing import Route
from l2l_tf.rules.rule import FlatLayout, Rule

__all__ = [
    "BASELINES",
    "SGD",
    "Adam",
    "CoordinatewiseLSTM",
    "FlatLayout",
    "NesterovRNNprop",
    "RMSprop",
    "RNNprop",
    "Route",
    "RoutedRule",
    "Rule",
]
