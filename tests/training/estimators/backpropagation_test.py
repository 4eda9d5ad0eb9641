"""Valid settings of truncated back-propagation; meta_gradient_test.py tests its results."""

import keras
import pytest

from l2l_tf.training import MetaTrainer, MetaTrainingSettings, TruncatedBackpropagation
from tests.training.toys import LinearRule, Parabolas


def test_another_number_of_step_weights_than_steps_is_refused():
    settings = MetaTrainingSettings(num_steps=9, unroll_length=3)
    estimator = TruncatedBackpropagation(step_weights=[1.0, 2.0])
    with pytest.raises(ValueError) as raised:
        MetaTrainer(
            LinearRule(), Parabolas(), keras.optimizers.SGD(1.0), settings, estimator=estimator
        )
    assert str(raised.value) == (
        "step_weights must hold a weight for each step of an unroll. "
        "Received: 2 weights with unroll_length=3. Give as many weights as steps."
    )


@pytest.mark.parametrize("name", ["chunk_size", "backpropagation_steps"])
def test_what_may_be_left_out_and_is_no_whole_number_is_refused(name):
    with pytest.raises(TypeError, match=f"^{name} must"):
        TruncatedBackpropagation(**{name: 2.5})


def test_backpropagation_through_no_step_is_refused():
    with pytest.raises(ValueError, match=r"^backpropagation_steps must"):
        TruncatedBackpropagation(backpropagation_steps=0)


def test_a_negative_chunk_is_refused():
    with pytest.raises(ValueError, match=r"^chunk_size must"):
        TruncatedBackpropagation(chunk_size=-1)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_second_derivatives_that_is_none_is_refused(share):
    with pytest.raises(ValueError) as raised:
        TruncatedBackpropagation(second_derivatives=share)
    assert str(raised.value) == (
        f"second_derivatives must be in [0, 1]. Received: second_derivatives={share}. "
        "0 leaves them out, 1 is the true derivative."
    )


def test_chunks_with_second_derivatives_are_refused():
    with pytest.raises(ValueError) as raised:
        TruncatedBackpropagation(chunk_size=4, second_derivatives=True)
    assert str(raised.value) == (
        "chunk_size must be None or 0 with second derivatives, which need the tape of a whole "
        "unroll. Received: chunk_size=4. Leave out one of the two."
    )
