"""Rules of whole tensors, with tensors of several ranks and leading batch axes."""

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.rules import BoundToTensors, Rule, StepInfo
from l2l_tf.rules.rule import NO_INFO
from tests.training.toys import NormalizedGradient

VARIABLES = [
    ParameterSpec("kernel", (2, 3)),
    ParameterSpec("scale", ()),
    ParameterSpec("bias", (4,)),
]


class _Recorded(BoundToTensors):
    """Writes down what it is given; each delta is the tensor's own sum, for each batch entry."""

    def initial_state(self):
        return tf.constant(0)

    def update(self, gradients, state, info=NO_INFO):
        self.given = gradients, info
        sums = [
            tf.reduce_sum(one, self.own_axes(index), keepdims=True)
            for index, one in enumerate(gradients)
        ]
        return [one * tf.ones_like(other) for one, other in zip(sums, gradients, strict=True)], (
            state + 1
        )


@pytest.mark.parametrize("batch_shape", [(), (5,), (2, 3)])
def test_it_sees_tensors_with_batch_axes_before_their_own(batch_shape):
    bound = _Recorded(object(), VARIABLES, batch_shape)
    assert bound.batch_shape == batch_shape
    assert bound.shapes == [(2, 3), (), (4,)]
    assert [bound.own_axes(index) for index in range(3)] == [[-2, -1], [], [-1]]
    assert bound.trainable_variables == []
    num_entries = int(np.prod(batch_shape))
    assert bound.num_coordinates == 11 * num_entries
    vector = tf.constant(np.random.default_rng(0).standard_normal(11 * num_entries))
    parameters = 2 * vector
    info = StepInfo(tf.constant(3), tf.ones([num_entries]), parameters)
    delta, state = bound(vector, bound.initial_state(), info)
    assert state == 1
    gradients, given = bound.given
    assert [tuple(one.shape) for one in gradients] == [
        (*batch_shape, 2, 3),
        batch_shape,
        (*batch_shape, 4),
    ]
    for gradient, parameter in zip(gradients, given.parameters, strict=True):
        np.testing.assert_array_equal(parameter, 2 * gradient)
    assert given.step is info.step
    assert given.losses is info.losses
    # The flat vector holds all batch entries of the first tensor, then all of the second, ...
    kernel, scale, bias = np.split(vector.numpy(), [6 * num_entries, 7 * num_entries])
    expected = [
        np.repeat(kernel.reshape(-1, 6).sum(axis=1), 6),
        scale,
        np.repeat(bias.reshape(-1, 4).sum(axis=1), 4),
    ]
    np.testing.assert_allclose(delta, np.concatenate(expected), rtol=1e-12)


def test_without_parameters_it_is_given_none():
    bound = _Recorded(object(), VARIABLES)
    bound(tf.zeros([11]), bound.initial_state())
    assert bound.given[1] == StepInfo(None, None, None)


def test_a_setting_is_one_for_all_tensors_or_has_a_number_for_each_coordinate():
    bound = _Recorded(object(), VARIABLES, (2,))
    assert bound.of_tensors(0.5) == [0.5] * 3
    scalar = tf.constant(0.5)
    assert all(one is scalar for one in bound.of_tensors(scalar))
    kernel, scale, bias = bound.of_tensors(tf.range(22.0))
    np.testing.assert_array_equal(kernel, np.arange(12).reshape(2, 2, 3))
    np.testing.assert_array_equal(scale, [12, 13])
    np.testing.assert_array_equal(bias, np.arange(14, 22).reshape(2, 4))


def test_each_batch_entry_is_updated_as_it_is_alone():
    rule, gradients = NormalizedGradient(0.3), np.random.default_rng(0).standard_normal((6, 11))
    assert isinstance(rule, Rule)
    pieces = [gradients[:, :6].reshape(2, 3, 2, 3), gradients[:, 6].reshape(2, 3)]
    pieces.append(gradients[:, 7:].reshape(2, 3, 4))
    together = rule.bind(VARIABLES, (2, 3))
    deltas, _ = together.update([tf.constant(one) for one in pieces], ())
    rows = np.concatenate([np.reshape(one, [6, -1]) for one in deltas], axis=1)
    norms = np.sqrt(np.square(gradients).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(rows, -0.3 * gradients / norms, rtol=1e-12)
    for gradient, row in zip(gradients, rows, strict=True):
        alone, _ = rule.bind(VARIABLES)(tf.constant(gradient), ())
        np.testing.assert_allclose(row, alone, rtol=1e-12)


def test_it_is_trained_whole_and_says_so_where_chunks_are_asked_for():
    bound = NormalizedGradient().bind(VARIABLES)
    assert bound.for_training(10**9) is bound
    assert bound.for_training(10**9, chunk_size=0) is bound
    assert bound.for_steps() is bound
    with pytest.raises(ValueError) as raised:
        bound.for_training(20, chunk_size=7)
    assert str(raised.value) == (
        "chunk_size must be None or 0 for a rule that is not coordinatewise. "
        f"Received: chunk_size=7 with {bound!r}. Leave it out."
    )


def test_it_can_not_be_replayed():
    bound = NormalizedGradient().bind(VARIABLES)
    with pytest.raises(TypeError) as raised:
        bound.pullback((), tf.zeros([11]), tf.zeros([2, 11]), tf.ones([2]))
    assert str(raised.value) == (
        "pullback must be called on a rule that is replayed (is_replayed). "
        f"Received: {bound!r}. Differentiate the tape of its unroll, as meta_gradient does."
    )
