"""Arguments that are refused, and the whole message of each check."""

import math

import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.checks import (
    check_at_least,
    check_count,
    check_finite,
    check_instance,
    check_non_negative,
    check_one_of,
    check_positive,
)

# What is accepted


def test_a_count_from_the_minimum_on_is_accepted():
    check_count("units", 1)
    check_count("units", 10**20)
    check_count("chunk_size", 0, minimum=0)


@pytest.mark.parametrize("value", [1, 1.5, np.int64(1), np.float32(2), tf.constant(3), math.inf])
def test_a_number_of_any_type_from_the_minimum_on_is_accepted(value):
    check_at_least("num_steps", value, 1, "Give a horizon.")


@pytest.mark.parametrize("value", [1e-300, 1, np.float32(0.1), tf.constant(2.0)])
def test_a_positive_number_of_any_type_is_accepted(value):
    check_positive("factor", value, "Give, say, 2.")
    check_non_negative("factor", value, "Give, say, 2.")
    check_finite("factor", value, "Give, say, 2.")


def test_zero_is_not_negative_and_what_is_negative_may_be_finite():
    check_non_negative("stddev", 0.0, "Give, say, 0.01.")
    check_finite("scale", -1e300, "Give, say, 0.1.")


def test_a_choice_is_accepted_whatever_holds_the_choices():
    for choices in (("b", "a"), {"a": 1, "b": 2}, iter(["a"])):
        check_one_of("family", "a", choices)


def test_an_object_of_the_type_or_of_one_of_a_union_is_accepted():
    check_instance("name", "a", str, "a string", "Give one.")
    check_instance("name", None, str | None, "None or a string", "Give one.")


# What is refused


@pytest.mark.parametrize("value", [0, -3, 2.5, 2.0, "2", None, True, np.int64(2)])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError) as raised:
        check_count("units", value)
    assert str(raised.value) == (
        f"units must be an integer of at least 1. Received: units={value!r}. Give a positive count."
    )


def test_a_count_below_another_minimum_is_refused_with_advice_of_its_own():
    with pytest.raises(ValueError) as raised:
        check_count("chunk_size", -1, "Leave it out to have it chosen.", minimum=0)
    assert str(raised.value) == (
        "chunk_size must be an integer of at least 0. Received: chunk_size=-1. "
        "Leave it out to have it chosen."
    )


@pytest.mark.parametrize("value", [1, -2.5, math.nan, "10", None])
def test_a_number_below_the_minimum_is_refused(value):
    with pytest.raises(ValueError) as raised:
        check_at_least("num_steps", value, 2, "Give a horizon.")
    assert str(raised.value) == (
        f"num_steps must be at least 2. Received: num_steps={value!r}. Give a horizon."
    )


@pytest.mark.parametrize("value", [0, -1e-300, math.inf, -math.inf, math.nan, 10**400, "0.1", None])
def test_what_is_not_positive_or_not_finite_is_refused(value):
    with pytest.raises(ValueError) as raised:
        check_positive("factor", value, "Give, say, 2.")
    assert str(raised.value) == (
        f"factor must be positive and finite. Received: factor={value!r}. Give, say, 2."
    )


@pytest.mark.parametrize("value", [-1e-300, math.inf, -math.inf, math.nan, 10**400, "0.1", None])
def test_what_is_negative_or_not_finite_is_refused(value):
    with pytest.raises(ValueError) as raised:
        check_non_negative("stddev", value, "Give, say, 0.01.")
    assert str(raised.value) == (
        f"stddev must be finite and not negative. Received: stddev={value!r}. Give, say, 0.01."
    )


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 10**400, "0.1", None])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError) as raised:
        check_finite("scale", value, "Give, say, 0.1.")
    assert str(raised.value) == (
        f"scale must be finite. Received: scale={value!r}. Give, say, 0.1."
    )


@pytest.mark.parametrize("value", ["float16", None, ["float32"], tf.float32])
def test_what_is_no_choice_is_refused_with_the_choices_in_order(value):
    with pytest.raises(ValueError) as raised:
        check_one_of("state_dtype", value, ("float32", "bfloat16"))
    assert str(raised.value) == (
        "state_dtype must be one of ['bfloat16', 'float32']. "
        f"Received: state_dtype={value!r}. Choose one of them."
    )


def test_what_is_no_choice_is_refused_with_advice_of_its_own():
    with pytest.raises(ValueError) as raised:
        check_one_of("kind", "a", ["conv", "dense"], "Choose one, or a name.")
    assert str(raised.value) == (
        "kind must be one of ['conv', 'dense']. Received: kind='a'. Choose one, or a name."
    )


@pytest.mark.parametrize("value", [3, None, b"a"])
def test_what_is_of_another_type_is_refused(value):
    with pytest.raises(TypeError) as raised:
        check_instance("name", value, str, "a string, a regular expression", "Give a path.")
    assert str(raised.value) == (
        f"name must be a string, a regular expression. Received: name={value!r}. Give a path."
    )
