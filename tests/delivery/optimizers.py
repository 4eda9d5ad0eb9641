"""Optimizers by the names of their rules, for tests that take each in turn."""

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer, load
from l2l_tf.rules import SGD, Adam

HAND_DESIGNED = {"adam": lambda: Adam(1e-3), "momentum": lambda: SGD(1e-2, 0.9)}


def optimizer_of(name: str, num_steps: int, **arguments) -> LearnedOptimizer:
    """Returns the optimizer of a shipped or hand-designed rule, told how long training is."""
    if name in HAND_DESIGNED:
        return LearnedOptimizer(HAND_DESIGNED[name](), num_steps=num_steps, **arguments)
    return load(name, replay=False, num_steps=num_steps, **arguments)
