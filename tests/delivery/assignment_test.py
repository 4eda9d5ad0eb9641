"""Rules are assigned to variables once, whatever Keras calls the variables later."""

import copy
import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.assignment import Assignment, assign
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.rules import SGD, Route, RoutedRule
from tests.delivery.linear_rule import LinearRule

IDLE = "A route should match a variable"


@keras.saving.register_keras_serializable(package="assignment_test")
def is_kernel_of_encoder(variable) -> bool:
    return "encoder/" in variable.path and variable.path.endswith("kernel")


def _model() -> keras.Model:
    """Returns a model whose encoder is built inside it: a copy's is built before it."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.layers.Dense(4, name="a"), keras.layers.Dense(4, name="b")], name="encoder"
    )
    return keras.Sequential([keras.Input((4,)), encoder, keras.layers.Dense(4, name="out")])


def _load(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.models.load_model(tmp_path / "model.keras")


DUPLICATES = {
    "file": _load,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)),
    "deepcopy": lambda model, _: copy.deepcopy(model),
    "clone": lambda model, _: keras.models.clone_model(model),
}

# Each makes the kernels of the encoder, or of all layers, move ten times as fast.
OPTIMIZERS = {
    "name": lambda: LearnedOptimizer(SGD(0.1), [Route(SGD(1.0, 0.9), name="encoder/.*kernel")]),
    "predicate": lambda: LearnedOptimizer(
        SGD(0.1), [Route(SGD(1.0, 0.9), predicate=is_kernel_of_encoder)]
    ),
    "kind": lambda: LearnedOptimizer(SGD(0.1), [Route(SGD(1.0, 0.9), kind="dense")]),
    "parts": lambda: LearnedOptimizer(
        RoutedRule(LinearRule(-0.1), [Route(LinearRule(-1.0), name="encoder/.*kernel")])
    ),
}


def _compiled(optimizer) -> keras.Model:
    model = _model()
    model.compile(optimizer, loss="mse", jit_compile=False)
    return model


def _step(model):
    variables = model.trainable_variables
    gradients = [np.full(one.shape, 0.01 * (1 + index)) for index, one in enumerate(variables)]
    model.optimizer.apply([tf.constant(one, tf.float32) for one in gradients], variables)


def _moves(model) -> list[float]:
    """Returns by how much each variable moves in a step."""
    before = model.get_weights()
    _step(model)
    return [np.abs(a - b).max() for a, b in zip(model.get_weights(), before, strict=True)]


@pytest.mark.parametrize("duplicate", DUPLICATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [0, 2])
def test_a_copy_has_the_same_rule_for_each_variable(optimizer, duplicate, num_steps, tmp_path):
    model = _compiled(OPTIMIZERS[optimizer]())
    model.optimizer.build(model.trainable_variables)
    for _ in range(num_steps):
        _step(model)
    again = DUPLICATES[duplicate](model, tmp_path)
    # Else there would be nothing to take over.
    paths = [[one.path for one in each.trainable_variables] for each in (model, again)]
    assert paths[0][0].endswith("encoder/a/kernel")
    assert paths[1][0] == "a/kernel"
    assert again.optimizer.get_config() == model.optimizer.get_config()
    for one, other in zip(again.trainable_variables, model.trainable_variables, strict=True):
        rules = again.optimizer.rule_for(one), model.optimizer.rule_for(other)
        assert rules[0].get_config() == rules[1].get_config()
    if duplicate != "clone":
        np.testing.assert_array_equal(_moves(again), _moves(model))
    elif num_steps == 0:
        np.testing.assert_allclose(_moves(again), _moves(model), rtol=1e-5)


# NumPy's about h5py, which pytest repeats as if it were ours.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("duplicate", DUPLICATES)
@pytest.mark.parametrize("optimizer", ["name", "predicate", "parts"])
def test_a_copy_of_what_never_knew_its_variables_says_that_a_route_is_idle(
    optimizer, duplicate, tmp_path
):
    model = _compiled(OPTIMIZERS[optimizer]())
    with pytest.warns(UserWarning, match=IDLE):
        DUPLICATES[duplicate](model, tmp_path)


def test_the_warning_of_an_idle_route_says_what_to_do():
    variables = [keras.Variable(np.ones(2), name=f"v{index}") for index in range(6)]
    with pytest.warns(UserWarning, match=IDLE) as warned:
        LearnedOptimizer(SGD(0.1), [Route(SGD(1.0), name="encoder/")]).build(variables)
    assert [str(one.message) for one in warned] == [
        "A route should match a variable. Received: name='encoder/', which matches none of v0, v1, "
        "v2, v3, v4, ...: other rules update all of them. Correct the route. If saving or "
        "copying the model changed its paths, first call "
        "optimizer.build(model.trainable_variables) or train for a step."
    ]


def test_a_route_that_matches_what_an_earlier_one_takes_is_not_idle():
    routes = [Route(SGD(1.0), kind="vector"), Route(SGD(2.0), name="bias")]
    variable = keras.Variable(np.ones(2), name="bias")
    optimizer = LearnedOptimizer(SGD(0.1), routes)
    optimizer.build([variable])
    assert optimizer.rule_for(variable).learning_rate == 1.0


def test_variables_of_other_shapes_are_assigned_anew():
    optimizer = LearnedOptimizer(SGD(0.1), [Route(SGD(1.0), name="first")])
    names = ("first", "second")
    optimizer.build([keras.Variable(np.ones(2), name=name) for name in names])
    again = LearnedOptimizer.from_config(optimizer.get_config())
    shorter = [keras.Variable(np.ones(1 + index), name=name) for index, name in enumerate(names)]
    again.build(shorter[::-1])
    assert [again.rule_for(one).learning_rate for one in shorter] == [1.0, 0.1]


def test_a_variable_that_the_optimizer_does_not_have_is_asked_about_by_its_path():
    optimizer = LearnedOptimizer(SGD(0.1), [Route(SGD(1.0), name="first")])
    optimizer.build([keras.Variable(np.ones(2), name="first")])
    assert optimizer.rule_for(keras.Variable(0.0, name="second")).learning_rate == 0.1


def _store(optimizer) -> dict[str, np.ndarray]:
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    return store


def test_a_weights_file_says_which_rule_each_variable_had(tmp_path):
    model = _compiled(OPTIMIZERS["name"]())
    _step(model)
    model.save_weights(tmp_path / "of.weights.h5")
    other = keras.models.clone_model(model)
    assert other.trainable_variables[0].path == "a/kernel"
    other.compile(OPTIMIZERS["name"](), loss="mse", jit_compile=False)
    other.load_weights(tmp_path / "of.weights.h5")
    np.testing.assert_array_equal(_moves(other), _moves(model))


def test_routes_that_ask_for_something_else_are_matched_anew():
    first = LearnedOptimizer(SGD(0.1), [Route(SGD(0.1), name="first")], name="mine")
    variables = [keras.Variable(np.ones(2), name=name) for name in ("first", "second")]
    first.build(variables)
    second = LearnedOptimizer(SGD(0.1), [Route(SGD(0.1), name="second")], name="mine")
    second.load_own_variables(_store(first))
    with pytest.warns(UserWarning, match="The state that was saved for the optimizer 'mine'"):
        second.build(variables)
    assert second.get_config()["assignment"] == [[None, [2]], [0, [2]]]


def test_a_configuration_without_an_assignment_is_one_of_an_earlier_version():
    config = OPTIMIZERS["kind"]().get_config()
    assert "assignment" not in config
    optimizer = LearnedOptimizer.from_config(config)
    optimizer.build([keras.Variable(np.ones([2, 2]))])
    assert optimizer.get_config()["assignment"] == [[0, [2, 2]]]


@pytest.mark.parametrize(
    "damaged", ["all", [[1, [2]]], [[-1, [2]]], [[True, [2]]], [[0, [-2]]], [[0]], [[0, 2]], {}]
)
def test_what_is_no_assignment_is_refused(damaged):
    config = OPTIMIZERS["kind"]().get_config() | {"assignment": damaged}
    with pytest.raises(ValueError) as raised:
        LearnedOptimizer.from_config(config)
    assert str(raised.value) == (
        "assignment must list, for each variable, a route's index or null, and a shape. "
        f"Received: assignment={damaged!r}, with 1 routes. Leave it out to have routes matched "
        "anew."
    )


@pytest.mark.parametrize("damaged", [b"{", b"[]", b'{"assigned": [[7, [2]]]}', b"\xff"])
def test_a_state_with_a_damaged_assignment_is_refused(damaged):
    optimizer = OPTIMIZERS["kind"]()
    optimizer.build([keras.Variable(np.ones(2))])
    store = _store(optimizer) | {"assignment": np.frombuffer(damaged, np.uint8)}
    with pytest.raises(ValueError, match="a state that has a damaged assignment of routes"):
        OPTIMIZERS["kind"]().load_own_variables(store)


def test_what_was_decided_counts_before_what_matches_now():
    routes = [Route(SGD(1.0), kind="dense")]
    variables = [keras.Variable(np.ones([2, 2])), keras.Variable(np.ones([2]))]
    other, known = Assignment((0,), ((2,),)), Assignment((None, 0), ((2, 2), (2,)))
    assert assign(routes, variables, [None, other, known]) is known
    assert assign(routes, variables, [other]).routes == (0, None)
    assert Assignment.from_config(known.to_config(), num_routes=1) == known
