"""Saving, shipping, loading and using rules. Does not depend on `l2l_tf.training`."""

# Imported first, so that this package is then registered with Keras (`l2l_tf.startup`).
import keras  # noqa: F401

# Importing the rules registers them with Keras, so that saved rules can be rebuilt.
import l2l_tf.rules  # noqa: F401
from l2l_tf.delivery.export import check_destination, export_rule, load_card, update_card
from l2l_tf.delivery.guard_report import GuardReport
from l2l_tf.delivery.horizon import NumStepsFromFit
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer, load
from l2l_tf.delivery.loss_guard import LossGuard
from l2l_tf.delivery.pretrained import PretrainedRule, find_rule, list_rules, load_rule
from l2l_tf.delivery.use import RuleUse

__all__ = [
    "GuardReport",
    "LearnedOptimizer",
    "LossGuard",
    "NumStepsFromFit",
    "PretrainedRule",
    "RuleUse",
    "check_destination",
    "export_rule",
    "find_rule",
    "list_rules",
    "load",
    "load_card",
    "load_rule",
    "update_card",
]
