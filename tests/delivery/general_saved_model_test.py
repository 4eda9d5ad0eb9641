"""The general rule that comes with the package, as TensorFlow alone sees it."""

import numpy as np
import tensorflow as tf

from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules.rule import StepInfo


def test_tensorflow_alone_runs_the_rule_that_comes_with_the_package():
    folder = list_rules()["general"].path
    module, rule = tf.saved_model.load(str(folder)), load_rule(folder)
    # Those of the first network that it was trained on, in the network's order.
    shapes = {
        "sequential_dense_kernel": (64, 40),
        "sequential_dense_bias": (40,),
        "sequential_dense_1_kernel": (40, 14),
        "sequential_dense_1_bias": (14,),
        "sequential_output_kernel": (14, 10),
        "sequential_output_bias": (10,),
    }
    bound = rule.bind([ParameterSpec(name, shape) for name, shape in shapes.items()])
    draw = np.random.default_rng(0)
    parameters = [tf.constant(draw.normal(size=one), tf.float32) for one in shapes.values()]
    wanted_state, state = bound.initial_state(), module.signatures["initial_state"]()
    for step in range(3):
        gradients = [tf.constant(draw.normal(size=one), tf.float32) for one in shapes.values()]
        given = {
            **{f"gradient_{name}": one for name, one in zip(shapes, gradients, strict=True)},
            **{f"parameter_{name}": one for name, one in zip(shapes, parameters, strict=True)},
            "step": tf.constant(step),
            "num_steps": tf.constant(10),
        }
        answer = module.signatures["update"](**given, **state)
        state = {name: one for name, one in answer.items() if name.startswith("state_")}
        info = StepInfo(step=tf.constant(step), parameters=parameters, num_steps=tf.constant(10))
        wanted, wanted_state = bound.update(gradients, wanted_state, info)
        for name, delta in zip(shapes, wanted, strict=True):
            # Sums of float32 in another order.
            np.testing.assert_allclose(answer[f"delta_{name}"], delta, rtol=1e-3, atol=1e-6)
