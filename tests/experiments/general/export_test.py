import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.export import load_card
from l2l_tf.delivery.pretrained import list_rules, load_rule
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import GeneralRule
from l2l_tf.rules.rule import StepInfo
from tests.experiments.binaries import ROOT, refusals, run


@pytest.mark.slow
def test_it_saves_the_rule_with_its_initial_weights_and_its_use(tmp_path):
    flags = ROOT / "experiments" / "configs" / "general.flags"
    printed = run("general.export", f"--flagfile={flags}", f"--output_dir={tmp_path}")
    assert printed == f"Wrote the rule with its initial weights to {tmp_path / 'rule'}\n"
    rule, card = load_rule(tmp_path / "rule"), load_card(tmp_path / "rule")
    for own, wanted in zip(rule.get_weights(), GeneralRule(seed=0).get_weights(), strict=True):
        np.testing.assert_array_equal(own, wanted)
    assert card["name"] == "general"
    assert card["use"] == load_card(list_rules()["general"])["use"]


@pytest.mark.slow
def test_flags_of_training_are_refused(tmp_path):
    arguments = ["--output_dir=@", "--num_steps=7", "--seed=1"]
    refused = refusals("general.export", {"case": tmp_path}, {"case": arguments})["case"]
    assert refused.errors == (
        "error: Flags must be ones that experiments.general.export reads. Received: --num_steps, "
        "--seed, which it does not. Leave them out; the rule has its initial weights."
    )


def test_tensorflow_alone_runs_the_rule_that_comes_with_the_package():
    folder = list_rules()["general"].path
    module, rule = tf.saved_model.load(str(folder)), load_rule(folder)
    shapes = {
        "sequential_dense_kernel": (784, 20),
        "sequential_dense_bias": (20,),
        "sequential_output_kernel": (20, 10),
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
