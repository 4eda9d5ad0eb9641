"""Rules with schedules take the steps of Keras's own optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import NAG, SGD, AdamW, Muon, NAdam, Route, StepInfo

NUM_STEPS = 12
# A matrix that is wide, one that is high, and what Muon leaves to AdamW.
SHAPES = {
    "wide/kernel": (3, 7),
    "high/kernel": (6, 2),
    "wide/bias": (7,),
    "conv/kernel": (2, 2, 3, 4),
    "scale": (),
}


def _decay(rate):
    return keras.optimizers.schedules.CosineDecay(rate, NUM_STEPS, warmup_target=None)


def _warm_up(rate):
    return keras.optimizers.schedules.CosineDecay(
        0.1 * rate, NUM_STEPS - 3, warmup_target=rate, warmup_steps=3
    )


PAIRS = {
    "nag": (NAG(0.1), keras.optimizers.SGD(0.1, 0.9, nesterov=True)),
    "nag_cosine": (
        NAG(0.1, 0.7, schedule=_decay(1.0)),
        keras.optimizers.SGD(_decay(0.1), 0.7, nesterov=True),
    ),
    "adamw": (AdamW(0.1), keras.optimizers.AdamW(0.1)),
    "adamw_cosine": (
        AdamW(0.1, 0.3, 0.7, 0.8, 0.1, _warm_up(1.0)),
        keras.optimizers.AdamW(_warm_up(0.1), 0.3, 0.7, 0.8, 0.1),
    ),
    "nadam": (NAdam(0.1), keras.optimizers.Nadam(0.1)),
    "nadam_cosine": (
        NAdam(0.1, 0.3, 0.7, 0.8, 0.1, _decay(1.0)),
        keras.optimizers.Nadam(_decay(0.1), 0.7, 0.8, 0.1, weight_decay=0.3),
    ),
    "muon": (Muon(0.1), keras.optimizers.Muon(0.1)),
    "muon_cosine": (
        Muon(0.1, 0.3, 0.8, schedule=_decay(1.0)),
        keras.optimizers.Muon(_decay(0.1), weight_decay=0.3, adam_weight_decay=0.3, momentum=0.8),
    ),
}


def _gradients() -> list[list[np.ndarray]]:
    """Returns gradients of each tensor in each step, of sizes from 1e-4 to 100."""
    generator = np.random.default_rng(0)
    sizes = np.geomspace(1e-4, 100, len(SHAPES))
    return [
        [
            (size * generator.standard_normal(shape)).astype("float32")
            for size, shape in zip(sizes, SHAPES.values(), strict=True)
        ]
        for _ in range(NUM_STEPS)
    ]


def _start() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    return [generator.standard_normal(shape).astype("float32") for shape in SHAPES.values()]


def _specs() -> list[ParameterSpec]:
    return [ParameterSpec(path, shape) for path, shape in SHAPES.items()]


def _run(rule, gradients, specs, parameters, batch_shape=()):
    """Returns the parameters after each step."""
    bound = rule.bind(specs, batch_shape)
    state, iterates = bound.initial_state(), []
    for step, row in enumerate(gradients):
        info = StepInfo(tf.constant(step), None, parameters)
        deltas, state = bound.update([tf.constant(one) for one in row], state, info)
        parameters = [one + delta for one, delta in zip(parameters, deltas, strict=True)]
        iterates.append([one.numpy() for one in parameters])
    return iterates


@pytest.mark.parametrize("name", PAIRS)
def test_parameters_move_as_those_of_keras(name):
    rule, optimizer = PAIRS[name]
    variables = []
    for path, value in zip(SHAPES, _start(), strict=True):
        variables.append(keras.Variable(value, name=path.replace("/", "_")))
    optimizer.build(variables)
    iterates = _run(rule, _gradients(), _specs(), [tf.constant(one) for one in _start()])
    for gradients, ours in zip(_gradients(), iterates, strict=True):
        optimizer.apply([tf.constant(one) for one in gradients], variables)
        for path, variable, one in zip(SHAPES, variables, ours, strict=True):
            # Parameters of order 1, a dozen float32 operations in each step.
            np.testing.assert_allclose(one, variable.numpy(), rtol=2e-5, atol=2e-5, err_msg=path)


def test_nag_is_the_coordinatewise_rule_where_nothing_is_scheduled():
    parameters = [tf.constant(one) for one in _start()]
    ours = _run(NAG(0.1, 0.7), _gradients(), _specs(), parameters)
    other = _run(SGD(0.1, 0.7, nesterov=True), _gradients(), _specs(), parameters)
    for one, two in zip(ours[-1], other[-1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6)


@pytest.mark.parametrize("name", ["nag_cosine", "adamw_cosine", "nadam_cosine", "muon_cosine"])
def test_batch_entries_are_updated_as_if_alone(name):
    rule, _ = PAIRS[name]
    batched = _run(
        rule,
        [[np.stack([one, -2 * one]) for one in row] for row in _gradients()],
        _specs(),
        [tf.constant(np.stack([one, 3 * one])) for one in _start()],
        (2,),
    )
    for entry, (of_gradient, of_start) in enumerate([(1, 1), (-2, 3)]):
        alone = _run(
            rule,
            [[np.float32(of_gradient) * one for one in row] for row in _gradients()],
            _specs(),
            [tf.constant(of_start * one) for one in _start()],
        )
        for one, two in zip(batched[-1], alone[-1], strict=True):
            np.testing.assert_allclose(one[entry], two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [NAG, AdamW, NAdam, Muon])
def test_each_coordinate_can_have_a_rate_of_its_own(make):
    specs = [ParameterSpec("kernel", (3, 2)), ParameterSpec("bias", (2,))]
    start = [tf.ones([3, 2]), tf.ones([2])]
    gradients = [[np.full((3, 2), [1, -1], np.float32), np.ones(2, np.float32)]]
    rates = tf.constant([0.1] * 6 + [0.3] * 2)
    (both,) = _run(make(rates), gradients, specs, start)
    ((kernel, _),) = _run(make(0.1), gradients, specs, start)
    ((_, bias),) = _run(make(0.3), gradients, specs, start)
    np.testing.assert_allclose(both[0], kernel, rtol=1e-6)
    np.testing.assert_allclose(both[1], bias, rtol=1e-6)


def test_embeddings_go_to_adamw_by_a_route():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(6, 4), keras.layers.Dense(2)]
    )
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    routed = LearnedOptimizer(Muon(0.1), [Route(AdamW(0.1), name="embedding")])
    # No token twice: Keras squares its gradients one by one.
    x, y = np.arange(6).reshape(2, 3), np.ones((2, 3, 2), np.float32)
    for one, optimizer in ((model, routed), (other, keras.optimizers.Muon(0.1))):
        one.compile(optimizer, "mse")
        one.fit(x, y, epochs=4, batch_size=2, verbose=0)
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=2e-5, atol=2e-5)


def test_an_optimizer_with_a_schedule_is_saved_and_loaded():
    rule, _ = PAIRS["muon_cosine"]
    optimizer = LearnedOptimizer(rule)
    rebuilt = LearnedOptimizer.from_config(optimizer.get_config())
    assert rebuilt.get_config() == optimizer.get_config()
    variables = [keras.Variable(np.ones((3, 2), np.float32)) for _ in range(2)]
    for one, variable in zip((optimizer, rebuilt), variables, strict=True):
        for step in range(4):
            one.apply([tf.constant([[1.0, 2.0], [3.0, -1.0], [0.5, step]])], [variable])
    np.testing.assert_array_equal(*(variable.numpy() for variable in variables))
