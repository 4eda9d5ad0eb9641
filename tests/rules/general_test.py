import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import GeneralRule, StepInfo
from l2l_tf.rules.general import INPUTS, OUTPUTS
from tests.reference.general import General

SHAPES = [(7, 5), (5,), (3, 3, 2, 4), (4,), (6, 11), ()]
NUM_STEPS = 12


def _specs(shapes):
    return [ParameterSpec(f"tensor_{index}", shape) for index, shape in enumerate(shapes)]


def _trained(seed: int = 0, dtype: str = "float32") -> GeneralRule:
    rule = GeneralRule(num_hidden=4, seed=seed, dtype=dtype)
    draw = np.random.default_rng(seed)
    rule.set_weights([one + 0.1 * draw.standard_normal(one.shape) for one in rule.get_weights()])
    return rule


def _gradients(shapes, num_steps=NUM_STEPS, scale=1.0):
    draw = np.random.default_rng(1)
    return [
        [
            scale * draw.standard_normal(shape) * 10.0 ** (index - 3)
            for index, shape in enumerate(shapes)
        ]
        for _ in range(num_steps)
    ]


def _run(rule, gradients, parameters, num_steps=NUM_STEPS):
    """Returns the deltas of each step, from given parameters."""
    dtype = rule.compute_dtype
    bound = rule.bind(_specs([np.shape(one) for one in parameters]))
    state, deltas = bound.initial_state(), []
    parameters = [tf.constant(one, dtype) for one in parameters]

    @tf.function(autograph=False)
    def update(gradients, state, step, parameters):
        return bound.update(gradients, state, StepInfo(step, None, parameters, num_steps))

    for step, of_step in enumerate(gradients):
        given = [tf.constant(one, dtype) for one in of_step]
        of_tensors, state = update(given, state, tf.constant(step), parameters)
        parameters = [one + delta for one, delta in zip(parameters, of_tensors, strict=True)]
        deltas.append([one.numpy() for one in of_tensors])
    return deltas


def _sizes(deltas, index):
    """Returns the root mean square of a tensor's delta at each step."""
    return np.array([np.sqrt(np.mean(np.square(one[index]))) for one in deltas])


def _parameters(shapes):
    draw = np.random.default_rng(2)
    return [0.3 * draw.standard_normal(shape) for shape in shapes]


def test_it_takes_the_steps_of_its_twin():
    rule, parameters = _trained(dtype="float64"), _parameters(SHAPES)
    # So many that a tenth of them is more than one.
    num_steps = 4 * NUM_STEPS
    twin = General([one.numpy() for one in rule.weights], SHAPES, num_steps)
    gradients = _gradients(SHAPES)
    taken = _run(rule, gradients, parameters, num_steps)
    for of_step, deltas in zip(gradients, taken, strict=True):
        expected = twin.step(parameters, of_step)
        for one, other in zip(deltas, expected, strict=True):
            # The twin adds no tiny numbers to means.
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        parameters = [one + delta for one, delta in zip(parameters, expected, strict=True)]


class _Recording(General):
    """The twin, which keeps the outputs of its controller."""

    def step(self, parameters, gradients):
        self.outputs = []
        return super().step(parameters, gradients)

    def _outputs(self, inputs):
        self.outputs.append(super()._outputs(inputs))
        return self.outputs[-1]


def test_it_says_what_its_twin_decides():
    rule, shapes = _trained(dtype="float64"), [*SHAPES, (0, 3)]
    parameters = _parameters(SHAPES)
    twin = _Recording([one.numpy() for one in rule.weights], SHAPES, NUM_STEPS)
    bound = rule.bind(_specs(shapes))
    state = bound.initial_state()
    given = [tf.constant(one, "float64") for one in (*parameters, np.zeros((0, 3)))]
    for step, of_step in enumerate(_gradients(SHAPES, 3)):
        gradients = [tf.constant(one, "float64") for one in (*of_step, np.zeros((0, 3)))]
        info = StepInfo(tf.constant(step), None, given, NUM_STEPS)
        *decisions, nothing = bound.decisions(gradients, state, info)
        _, state = bound.update(gradients, state, info)
        twin.step(parameters, of_step)
    assert nothing is None
    for one, outputs in zip(decisions, twin.outputs, strict=True):
        values = list(outputs.values())
        # The twin adds no tiny numbers to means.
        np.testing.assert_allclose(one.mix, values[:4] + np.eye(4)[3], rtol=1e-9)
        nominal = [0.1, 0.45, 0.45, 0]
        np.testing.assert_allclose(one.orthogonalized, np.add(values[4:8], nominal), rtol=1e-9)
        np.testing.assert_allclose(one.log_rate, np.clip(3 * values[8], -5, 5), rtol=1e-9)
        decay = 3e-3 * np.log1p(np.exp(3 * values[9] - 5))
        np.testing.assert_allclose(one.decay, decay, rtol=1e-9)
    for one, persistence in zip(decisions, twin.persistence, strict=True):
        pace = np.clip(np.exp(4 * (persistence - 0.1)), 0.8, 5)
        np.testing.assert_allclose(one.pace, pace, rtol=1e-9)


@pytest.mark.parametrize(("batch_shape", "jit_compile"), [((), False), ((2,), False), ((2,), True)])
def test_large_tensors_take_the_steps_of_the_twin_in_batches_or_alone(batch_shape, jit_compile):
    rule, shape = _trained(dtype="float64"), (150, 2, 60)
    draw = np.random.default_rng(0)
    parameters, *gradients = draw.standard_normal((4, *batch_shape, *shape))
    bound = rule.bind(_specs([shape]), batch_shape)
    state = bound.initial_state()
    update = tf.function(bound.update, autograph=False, jit_compile=jit_compile)
    for step, of_step in enumerate(gradients):
        info = StepInfo(tf.constant(step), None, [tf.constant(parameters)], NUM_STEPS)
        (delta,), state = update([tf.constant(of_step)], state, info)
    for entry in np.ndindex(batch_shape):
        twin = General([one.numpy() for one in rule.weights], [shape], NUM_STEPS)
        for of_step in gradients:
            (expected,) = twin.step([parameters[entry]], [of_step[entry]])
        # Rounding is amplified by the iteration that orthogonalises.
        np.testing.assert_allclose(delta.numpy()[entry], expected, rtol=1e-6, atol=1e-10)


def test_untrained_it_moves_a_matrix_along_its_orthogonalised_momentum():
    (delta,) = _run(GeneralRule(seed=0), _gradients([(6, 6)], 1), [np.zeros((6, 6))])[0]
    (gradient,) = _gradients([(6, 6)], 1)[0]
    left, _, right = np.linalg.svd(gradient)
    # Newton and Schulz's iteration is not exact: singular values come out between .7 and 1.2.
    cosine = -np.sum(delta * (left @ right)) / np.linalg.norm(delta) / np.sqrt(6)
    assert cosine > 0.95


def test_the_scale_of_the_loss_changes_nothing():
    rule, shapes = _trained(), SHAPES[:2]
    parameters = _parameters(shapes)
    expected = _run(rule, _gradients(shapes), parameters)
    for scale in (1e-6, 1e6):
        deltas = _run(rule, _gradients(shapes, scale=scale), parameters)
        for one, other in zip(tf.nest.flatten(deltas), tf.nest.flatten(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)


def test_the_rate_of_an_untrained_rule_warms_up_and_falls_to_zero():
    num_steps, (one,) = 100, _gradients([(4, 4)], 1)
    # Gradients that do not persist, so that the pace is the lowest throughout.
    gradients = [[(-1) ** step * one[0]] for step in range(num_steps)]
    deltas = _run(GeneralRule(seed=0), gradients, [np.zeros((4, 4))], num_steps)
    rates = _sizes(deltas, 0)
    # 3e-3 for 1,000 steps, times the root of ten, times the lowest pace.
    assert max(rates) == pytest.approx(3e-3 * 10**0.5 * 0.8, rel=0.02)
    assert rates[0] == pytest.approx(max(rates) / 6, rel=0.02)
    assert int(np.argmax(rates)) == 5
    assert rates[-1] < 1e-3 * max(rates)
    assert (np.diff(rates[6:]) < 0).all()


def test_in_the_first_tenth_it_learns_the_pace_of_each_tensor():
    num_steps, shapes = 60, [(4, 4), (4, 4), (9,)]
    draw = np.random.default_rng(0)
    (first,) = _gradients(shapes, 1)
    gradients = [[first[0], (-1) ** step * first[1], first[2]] for step in range(7)]
    # Whatever comes later.
    gradients += [[draw.standard_normal(one) for one in shapes] for _ in range(20)]
    deltas = _run(GeneralRule(seed=0), gradients, [np.zeros(one) for one in shapes], num_steps)
    persistent, alternating, vector = (_sizes(deltas, index) for index in range(3))
    assert persistent[0] == pytest.approx(alternating[0], rel=1e-3)
    np.testing.assert_allclose(persistent[1:] / alternating[1:], 5 / 0.8, rtol=1e-3)
    np.testing.assert_allclose(vector[1:] / alternating[1:], 5 / 0.8, rtol=1e-3)


def test_after_the_last_step_it_stands_still():
    shapes = SHAPES[:2]
    deltas = _run(_trained(), _gradients(shapes, 6), _parameters(shapes), num_steps=4)
    assert all(np.abs(one).max() > 0 for one in deltas[3])
    for of_tensors in deltas[4:]:
        for one in of_tensors:
            np.testing.assert_array_equal(one, 0)


def test_a_tensor_without_gradients_moves_by_its_decay_alone():
    shapes = [(4, 3), (3,)]
    parameters = _parameters(shapes)
    gradients = [[np.zeros((4, 3)), one[1]] for one in _gradients(shapes)]
    deltas = _run(GeneralRule(seed=0), gradients, parameters)
    moved = sum(one[0] for one in deltas)
    # Before anything is learned, 3e-3 softplus(-5) of the parameters a step at most.
    assert np.abs(moved).max() < 3e-3 * 0.0068 * NUM_STEPS * np.abs(parameters[0]).max()
    assert np.abs(sum(one[1] for one in deltas)).max() > 1e-2


def test_it_recovers_from_a_huge_gradient():
    shapes = [(4, 3)]
    gradients = _gradients(shapes, 60)
    gradients[5] = [np.full((4, 3), 1e15)]
    deltas = _run(_trained(), gradients, _parameters(shapes), num_steps=60)
    assert np.isfinite(deltas).all()
    # Every step has the size that the controller decides on.
    sizes = _sizes(deltas, 0)
    assert min(sizes[6:50]) > 0.1 * np.median(sizes)
    assert max(sizes) < 10 * np.median(sizes)


def test_it_names_what_its_controller_sees_and_says():
    rule = GeneralRule(num_hidden=3, seed=0)
    assert {one.name: tuple(one.shape) for one in rule.weights} == {
        "hidden_kernel": (20, 3),
        "mix_kernel": (23, 4),
        "mix_bias": (4,),
        "orthogonalized_kernel": (23, 4),
        "orthogonalized_bias": (4,),
        "rate_kernel": (23, 2),
        "rate_bias": (2,),
    }
    assert (len(INPUTS), len(OUTPUTS)) == (20, 10)


def test_its_state_is_three_numbers_for_each_coordinate():
    state = GeneralRule(seed=0).bind(_specs([(30, 40), (40,)])).initial_state()
    assert sum(int(tf.size(one)) for one in tf.nest.flatten(state)) == 3 * 31 * 40 + 4


def test_without_the_number_of_steps_it_says_so():
    bound = GeneralRule(seed=0).bind(_specs([(2,)]))
    with pytest.raises(ValueError, match="num_steps=None"):
        bound.update([tf.ones([2])], bound.initial_state(), StepInfo(0, None, [tf.ones([2])]))


def test_num_hidden_must_be_a_count():
    with pytest.raises(ValueError, match="num_hidden"):
        GeneralRule(num_hidden=0)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_derivatives_are_finite_where_gradients_are_zero(jit_compile):
    rule = _trained()
    bound = rule.bind(_specs([(6, 2), (2,)]))
    gradients = [tf.zeros([6, 2]), tf.ones([2])]
    parameters = [tf.ones([6, 2]), tf.ones([2])]
    weights = [weight.value for weight in rule.trainable_variables]

    @tf.function(autograph=False, jit_compile=jit_compile)
    def derivatives(step, state):
        """Returns those of all that comes out of a step by all that goes in, and the next state."""
        sources = [*weights, *gradients, *tf.nest.flatten(state)]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            deltas, state = bound.update(gradients, state, StepInfo(step, None, parameters, 4))
            total = sum(map(tf.reduce_sum, [*deltas, *tf.nest.flatten(state)]))
        return tape.gradient(total, sources), state

    state = bound.initial_state()
    for step in range(2):
        found, state = derivatives(tf.constant(step), state)
        assert all(np.isfinite(one).all() for one in found)
