"""A state that doesn't fit is left out or refused as a whole; nothing is half loaded."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.delivery.coordinate_group import CoordinateGroup
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer
from l2l_tf.delivery.rule_config import rules_to_bytes
from l2l_tf.rules import SGD, Route
from tests.delivery.linear_rule import LinearRule

LEFT_OUT = (
    "The state that was saved for the optimizer 'mine' is left out: it belongs to other variables "
    "of the model than are trained now. To continue with it, train the same layers with the same "
    "shapes."
)
# NumPy's about h5py, which pytest repeats as if it were ours.
of_h5py = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def _variables(*shapes) -> list[keras.Variable]:
    return [keras.Variable(np.ones(shape, np.float32)) for shape in shapes]


def _optimizer(rule=None, **arguments) -> LearnedOptimizer:
    return LearnedOptimizer(rule or LinearRule(), **{"name": "mine"} | arguments)


def _retrained() -> LinearRule:
    """Returns the same rule with another weight."""
    rule = LinearRule()
    rule.set_weights([np.float32(-3.0)])
    return rule


def _step(optimizer, variables, size=0.25):
    optimizer.apply([tf.fill(one.shape, size) for one in variables], variables)


def _trained(*shapes, num_steps=5, **arguments) -> LearnedOptimizer:
    optimizer, variables = _optimizer(**arguments), _variables(*shapes)
    for _ in range(num_steps):
        _step(optimizer, variables)
    return optimizer


def _store(optimizer) -> dict[str, np.ndarray]:
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    return store


def _everything(optimizer) -> list[np.ndarray]:
    weights = [optimizer._rule_layers.named_weights()[name] for name in ("rule_0_0",)]
    return [one.numpy() for one in [*optimizer.variables, *weights]]


def _same(one, other):
    for value, wanted in zip(_everything(one), _everything(other), strict=True):
        np.testing.assert_array_equal(value, wanted)


# Loaded before there are variables


@pytest.mark.parametrize("shapes", [[(3, 4)], [(6, 2)], [(2, 6), (1,)], [(2, 3), (6,)]])
def test_a_state_for_other_variables_is_left_out_as_if_it_had_never_been_loaded(shapes):
    optimizer, fresh = _optimizer(), _optimizer()
    saved = _trained((2, 6), rule=_retrained(), learning_rate=0.5)
    optimizer.load_own_variables(_store(saved))
    assert (int(optimizer.iterations), float(optimizer.learning_rate)) == (5, 0.5)
    variables, others = _variables(*shapes), _variables(*shapes)
    with pytest.warns(UserWarning, match="is left out") as warned:
        _step(optimizer, variables)
    assert [str(one.message) for one in warned] == [LEFT_OUT]
    _step(fresh, others)
    for _ in range(2):
        _same(optimizer, fresh)
        for one, other in zip(variables, others, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        _step(optimizer, variables)
        _step(fresh, others)


def test_what_was_set_after_a_state_was_loaded_stays_when_it_is_left_out():
    optimizer = _optimizer()
    optimizer.load_own_variables(_store(_trained((2, 6), learning_rate=0.5)))
    optimizer.learning_rate = 0.125
    with pytest.warns(UserWarning, match="is left out"):
        optimizer.build(_variables((3, 4)))
    assert (int(optimizer.iterations), float(optimizer.learning_rate)) == (0, 0.125)


@pytest.mark.parametrize("second", ["built", "unbuilt"])
def test_of_two_states_the_second_counts(second):
    optimizer = _optimizer()
    optimizer.load_own_variables(_store(_trained((2, 6), learning_rate=0.5)))
    wanted = _trained((3, 4), num_steps=2) if second == "built" else _optimizer()
    optimizer.load_own_variables(_store(wanted))
    optimizer.build(_variables((3, 4)))
    if second == "unbuilt":
        wanted.build(_variables((3, 4)))
    _same(optimizer, wanted)


def test_a_state_is_left_out_in_a_compiled_step():
    optimizer, (variable,) = _optimizer(), _variables((3,))
    optimizer.load_own_variables(_store(_trained((2, 6), learning_rate=0.5)))
    step = tf.function(lambda: _step(optimizer, [variable]))
    with pytest.warns(UserWarning, match="is left out"):
        step()
    step()
    np.testing.assert_array_equal(variable.numpy(), np.full(3, 0.5))
    assert int(optimizer.iterations) == 2


def test_a_state_is_left_out_on_each_device(two_devices):
    store = _store(_trained((2, 6), learning_rate=0.5))
    with two_devices.scope():
        optimizer, (variable,) = _optimizer(), _variables((3,))
        optimizer.load_own_variables(store)
    with pytest.warns(UserWarning, match="is left out"):
        two_devices.run(lambda: _step(optimizer, [variable]))
    two_devices.run(lambda: _step(optimizer, [variable]))
    # Two steps with the gradients of two devices.
    np.testing.assert_array_equal(variable.numpy(), np.zeros(3))
    assert [int(one) for one in optimizer.iterations.value.values] == [2, 2]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"use_ema": True}, "has 7 variables instead of 5"),
        ({"gradient_accumulation_steps": 2}, "has 7 variables instead of 5"),
        ({"chunk_size": 2}, "has 7 variables instead of 5"),
    ],
)
def test_a_state_of_other_options_is_refused_when_it_is_loaded(options, what):
    fresh, optimizer = (_optimizer(learning_rate=lambda: 1.0) for _ in range(2))
    saved = _trained((2, 6), (2,), rule=_retrained(), learning_rate=lambda: 1.0, **options)
    with pytest.raises(ValueError, match=what):
        optimizer.load_own_variables(_store(saved))
    _same(optimizer, fresh)
    for one in (optimizer, fresh):
        _step(one, _variables((2, 6), (2,)))
    _same(optimizer, fresh)


def test_an_optimizer_whose_build_has_failed_refuses_to_go_on(monkeypatch):
    def add_state(self, *_):
        raise MemoryError("full")

    optimizer, variables = _optimizer(), _variables((2,))
    with monkeypatch.context() as patched:
        patched.setattr(CoordinateGroup, "add_state", add_state)
        with pytest.raises(MemoryError):
            _step(optimizer, variables)
    with pytest.raises(RuntimeError) as raised:
        _step(optimizer, variables)
    assert str(raised.value) == (
        "An optimizer whose build has failed can't be used. Received: 'mine', which failed with "
        "MemoryError('full'). Make a new one with the same arguments."
    )
    np.testing.assert_array_equal(variables[0].numpy(), np.ones(2))


# Beside Keras's own


def _model(units=3, name="out") -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="in"), keras.layers.Dense(units, name=name)]
    )


def _fit(model):
    model.fit(np.ones([4, 2]), np.ones([4, model.output_shape[-1]]), verbose=0)


MAKERS = {"ours": _optimizer, "adam": keras.optimizers.Adam}


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_ema": True}], ids=["units", "options"])
def test_with_skip_mismatch_a_model_warns_and_trains(make, built, options, tmp_path):
    model = _model()
    model.compile(MAKERS[make](), loss="mse", jit_compile=False)
    _fit(model)
    model.save_weights(tmp_path / "of.weights.h5")
    other = _model(units=3 if options else 4)
    other.compile(MAKERS[make](**options), loss="mse", jit_compile=False)
    if built:
        other.optimizer.build(other.trainable_variables)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        other.load_weights(tmp_path / "of.weights.h5", skip_mismatch=True)
        _fit(other)
    assert any(one.category is UserWarning for one in caught)
    # Adam's is half loaded where shapes alone differ.
    if make == "ours" or options:
        assert int(other.optimizer.iterations) == 1


@of_h5py
@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("frozen_first", [False, True])
def test_a_model_that_was_frozen_after_training_is_loaded_with_a_warning(
    make, frozen_first, tmp_path
):
    model = _model()
    model.layers[0].trainable = not frozen_first
    model.compile(MAKERS[make](), loss="mse", jit_compile=False)
    _fit(model)
    model.layers[0].trainable = frozen_first
    model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match=r"is left out|Skipping variable loading"):
        loaded = keras.models.load_model(tmp_path / "model.keras")
    _fit(loaded)
    assert int(loaded.optimizer.iterations) == 1
    for one, wanted in zip(loaded.layers, model.layers, strict=True):
        assert one.trainable == wanted.trainable


# What stands in no group


def _with_overwritten(first: bool) -> list[keras.Variable]:
    overwritten, (kernel,) = keras.Variable(np.ones([4], np.float32)), _variables((2, 3))
    overwritten.overwrite_with_gradient = True
    return [overwritten, kernel] if first else [kernel, overwritten]


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("options", [{}, {"use_ema": True}])
def test_where_variables_stand_that_no_rule_updates_is_no_matter(built, options):
    saved, variables = _optimizer(**options), _with_overwritten(first=True)
    for _ in range(3):
        _step(saved, variables)
    optimizer, variables = _optimizer(**options), _with_overwritten(first=False)
    if built:
        optimizer.build(variables)
    optimizer.load_own_variables(_store(saved))
    optimizer.build(variables)
    _same(optimizer, saved)


# Files of earlier versions


def _old_store(*routes) -> dict[str, np.ndarray]:
    """Returns what was saved for a matrix, a vector and what wants its gradient, after 3 steps."""
    rules = [LinearRule(), *(one.rule for one in routes)]
    state = {
        # One group of 8, or one of 2 and one of 6.
        8: [np.int32(3), np.full([8], 0.75), np.full([8, 2], 0.25)],
        2: [np.int32(3), np.full([2], 0.75), np.full([2, 2], 0.25)],
        6: [np.int32(3), np.full([6], 0.75), np.full([6, 2], 0.25)],
    }
    values = [np.int64(3), np.float32(1.0), np.int64(0)]
    for size in (2, 6) if routes else (8,):
        values += [
            np.asarray(one, np.int32 if one.ndim == 0 else np.float32) for one in state[size]
        ]
    matrix, vector = ([1, 2, 2, 3], [0, 1, 2]) if routes else ([0, 2, 2, 3], [0, 1, 2])
    store = {str(index): np.asarray(value) for index, value in enumerate(values)}
    weights = {f"rule_{index}_0": np.float32(-1.0) for index in range(len(rules))}
    layout = np.array([-1, 1, 5, *matrix, *vector], np.int64)
    return store | weights | {"layout": layout, "rules": rules_to_bytes(rules)}


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("has_routes", [False, True])
def test_a_state_of_an_earlier_version_is_loaded(built, has_routes):
    routes = [Route(LinearRule(), kind="dense")] if has_routes else []
    optimizer, wanted = _optimizer(routes=routes), _optimizer(routes=routes)
    variables = _variables((5,), (2, 3), (2,))
    variables[0].overwrite_with_gradient = True
    for _ in range(3):
        _step(wanted, variables)
    if built:
        optimizer.build(variables)
    optimizer.load_own_variables(_old_store(*routes))
    optimizer.build(variables)
    _same(optimizer, wanted)


@pytest.mark.parametrize("has_routes", [False, True])
def test_a_state_of_an_earlier_version_for_other_variables_is_left_out(has_routes):
    routes = [Route(LinearRule(), kind="dense")] if has_routes else []
    optimizer, fresh = _optimizer(routes=routes), _optimizer(routes=routes)
    optimizer.load_own_variables(_old_store(*routes))
    with pytest.warns(UserWarning, match="is left out"):
        optimizer.build(_variables((3, 2), (2,)))
    fresh.build(_variables((3, 2), (2,)))
    _same(optimizer, fresh)


# Damaged ones


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ({"3": np.array(["a", "b"])}, "has <U1 where numbers should be"),
        ({"rule_0_0": np.array("a")}, "has <U1 where numbers should be"),
        ({"layout": np.array([0.5])}, "has a damaged layout"),
        ({"layout": np.array([0, 3, 2])}, "has a damaged layout"),
        ({"layout": np.array([0])}, "has a damaged layout"),
        ({"layout": np.array([0, -1])}, "has a damaged layout"),
        ({"layout": np.array([0, 1, -2])}, "has a damaged layout"),
        ({"5": None, "7": np.zeros([2, 2])}, "lacks some of its variables"),
    ],
)
def test_a_damaged_state_changes_nothing(built, damage, what):
    optimizer, fresh = _optimizer(), _optimizer()
    if built:
        for one in (optimizer, fresh):
            one.build(_variables((2,)))
    store = _store(_trained((2,), rule=_retrained(), learning_rate=0.5)) | damage
    store = {key: value for key, value in store.items() if value is not None}
    with pytest.raises(ValueError, match=f"for the optimizer 'mine', a state that {what}"):
        optimizer.load_own_variables(store)
    _same(optimizer, fresh)


@pytest.mark.parametrize(
    ("position", "value", "what"),
    [
        (5, np.zeros([3, 2]), r"\(3, 2\) instead of \(2, 2\) for state_0_2"),
        (4, np.array(["a", "b"]), "<U1 for state_0_1"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(position, value, what):
    optimizer = _trained((2,))
    before = _everything(optimizer)
    weights = [one + 1 for one in before[:-1]]
    weights[position] = value
    with pytest.raises(ValueError, match=f"for the optimizer 'mine', {what}"):
        optimizer.set_weights(weights)
    for one, wanted in zip(_everything(optimizer), before, strict=True):
        np.testing.assert_array_equal(one, wanted)


def test_a_rule_without_weights_is_loaded_as_well():
    saved, optimizer = _trained((2,), rule=SGD(0.1, 0.9)), _optimizer(SGD(0.1, 0.9))
    optimizer.load_own_variables(_store(saved))
    optimizer.build(_variables((2,)))
    for one, wanted in zip(optimizer.variables, saved.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), wanted.numpy())
