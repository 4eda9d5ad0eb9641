from types import SimpleNamespace

import pytest

from l2l_tf.rules import SGD, Route
from l2l_tf.rules.routing import assign_routes

RULE = SGD(0.1)


def _variable(path, shape):
    return SimpleNamespace(path=path, name=path.rpartition("/")[2], shape=shape)


VARIABLES = [
    _variable("net/conv/kernel", (3, 3, 1, 8)),
    _variable("net/conv/bias", (8,)),
    _variable("net/dense/kernel", (8, 10)),
    _variable("net/dense/bias", (10,)),
    _variable("net/scale", ()),
    _variable("net/volume/kernel", (3, 3, 3, 1, 8)),
    _variable("net/sequence/kernel", (3, 1, 8)),
]


@pytest.mark.parametrize(
    ("route", "matched"),
    [
        ({"kind": "conv"}, [0, 5]),
        ({"kind": "dense"}, [2]),
        ({"kind": "vector"}, [1, 3, 4]),
        ({"name": "dense/"}, [2, 3]),
        ({"name": "^net/[cv].*kernel$"}, [0, 5]),
        ({"predicate": lambda variable: len(variable.shape) == 3}, [6]),
    ],
)
def test_a_route_matches_the_variables_that_it_is_for(route, matched):
    assigned = assign_routes([Route(RULE, **route)], VARIABLES)
    assert [index for index, chosen in enumerate(assigned) if chosen == 0] == matched


def test_of_several_routes_the_first_counts():
    routes = [Route(RULE, name="bias"), Route(RULE, kind="vector"), Route(RULE, kind="conv")]
    assert assign_routes(routes, VARIABLES) == [2, 0, None, 0, 1, 2, None]


def test_a_variable_without_a_path_is_known_by_its_name():
    variable = SimpleNamespace(name="kernel:0", shape=(2, 2))
    assert Route(RULE, name="kernel").matches(variable)


@pytest.mark.parametrize(
    ("arguments", "given"), [({}, []), ({"kind": "conv", "name": "a"}, ["kind", "name"])]
)
def test_a_route_is_given_in_exactly_one_way(arguments, given):
    with pytest.raises(ValueError) as raised:
        Route(RULE, **arguments)
    assert str(raised.value) == (
        "A route must have exactly one of kind, name and predicate. "
        f"Received: {given}. Make one route for each."
    )


@pytest.mark.parametrize("kind", ["convolution", ["conv"]])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(ValueError, match=r"^kind must"):
        Route(RULE, kind=kind)


def test_a_name_that_is_no_regular_expression_is_refused():
    with pytest.raises(ValueError) as raised:
        Route(RULE, name="dense(")
    assert str(raised.value) == (
        "name must be a regular expression. Received: name='dense(', where missing ), unterminated "
        "subpattern at position 5. Escape what is meant literally (re.escape)."
    )


def test_a_name_that_is_no_string_is_refused():
    with pytest.raises(TypeError, match=r"^name must"):
        Route(RULE, name=5)


def test_a_predicate_that_is_no_function_is_refused():
    with pytest.raises(TypeError) as raised:
        Route(RULE, predicate="bias")
    assert str(raised.value) == (
        "predicate must be a function of a variable. Received: predicate='bias'. "
        "Give a kind or a name as kind= or name=."
    )
