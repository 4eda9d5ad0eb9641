"""LearnedOptimizer by itself: what it updates, what it keeps and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import l2l_tf
from l2l_tf.delivery.learned_optimizer import LearnedOptimizer, load
from l2l_tf.delivery.pretrained import load_rule
from l2l_tf.rules import (
    NO_INFO,
    SGD,
    Adam,
    BoundToTensors,
    CoordinatewiseLSTM,
    CoordinatewiseRule,
    RMSprop,
    Route,
    RoutedRule,
    TensorState,
)
from tests.delivery.linear_rule import LinearRule


def _lstm(**arguments) -> CoordinatewiseLSTM:
    """Returns a rule that moves, and whose moves depend on all that it has seen."""
    return CoordinatewiseLSTM(**{"units": (4, 3), "output_stddev": 0.5, "seed": 0} | arguments)


def _normal(shape, seed=0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).standard_normal(shape), tf.float32)


def _variables(*shapes, dtype="float32") -> list[keras.Variable]:
    return [
        keras.Variable(_normal(shape, 100 + index).numpy(), dtype=dtype)
        for index, shape in enumerate(shapes)
    ]


def _state(optimizer) -> dict[str, np.ndarray]:
    """Returns the variables of the rule's state by name."""
    return {
        variable.name: variable.numpy()
        for variable in optimizer.variables
        if variable.name.startswith("state_")
    }


def _values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


def _follow(rule, gradients) -> np.ndarray:
    """Returns the sum of the deltas with which a rule answers gradients `[T, N]`."""
    state, total = rule.initial_state(gradients.shape[1]), 0.0
    for gradient in tf.unstack(gradients):
        delta, state = rule(gradient, state)
        total += delta
    return total.numpy()


class MeanRule(LinearRule):
    """A rule that isn't coordinatewise: every delta is the negative mean of all gradients."""

    is_coordinatewise = False

    def bind(self, variables, batch_shape=()):
        return BoundMean(self, variables, batch_shape)


class BoundMean(BoundToTensors):
    def initial_state(self):
        return TensorState((tf.zeros([]), tf.zeros([3])), [()] * len(self.shapes))

    def update(self, gradients, state, info=NO_INFO):
        mean = tf.reduce_mean(self.layout.flatten(gradients))
        total, counts = state.shared
        deltas = [tf.fill(gradient.shape, -mean) for gradient in gradients]
        return deltas, state._replace(shared=(total + mean, counts + 1.0))


# What is updated


# Rank 0 to 5, and sizes of zero and one.
SHAPES = [(), (3,), (2, 3), (2, 1, 2), (2, 2, 1, 2), (1, 2, 1, 2, 1), (0,), (2, 0)]


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_variables_of_any_rank_are_updated_as_one_vector(chunk_size):
    variables = _variables(*SHAPES)
    before = np.concatenate([value.ravel() for value in _values(variables)])
    gradients = [
        [_normal(shape, 10 * step + i) for i, shape in enumerate(SHAPES)] for step in (1, 2)
    ]
    optimizer = LearnedOptimizer(_lstm(), chunk_size=chunk_size)
    for one in gradients:
        optimizer.apply(one, variables)
    flat = tf.stack([tf.concat([tf.reshape(part, [-1]) for part in one], 0) for one in gradients])
    after = np.concatenate([value.ravel() for value in _values(variables)])
    # The rule on the same vector, in the same order of operations but for chunks.
    np.testing.assert_allclose(after, before + _follow(_lstm(), flat), rtol=1e-5, atol=1e-6)


def test_variables_without_any_number_are_no_trouble():
    optimizer, variables = LearnedOptimizer(_lstm()), _variables((0,), (2, 0))
    optimizer.apply([tf.zeros([0]), tf.zeros([2, 0])], variables)
    assert (int(optimizer.iterations), int(optimizer.num_skipped_steps)) == (1, 0)
    assert _state(optimizer) == {}


def test_a_rule_that_is_not_coordinatewise_sees_all_coordinates_at_once():
    variables = _variables((2,), (3,))
    before = _values(variables)
    optimizer = LearnedOptimizer(MeanRule(), chunk_size=1)
    optimizer.apply([tf.constant([1.0, 2.0]), tf.constant([3.0, 4.0, 5.0])], variables)
    for one, other in zip(variables, before, strict=True):
        np.testing.assert_allclose(one.numpy(), other - 3.0, rtol=1e-6)
    np.testing.assert_array_equal(_state(optimizer)["state_0_1"], np.ones(3))


def test_variables_of_mixed_precisions_are_updated_each_in_its_own():
    dtypes = ["float16", "bfloat16", "float32", "float64"]
    variables = [keras.Variable([1.0, 2.0], dtype=dtype) for dtype in dtypes]
    gradients = [tf.constant([0.25, 0.5], dtype) for dtype in dtypes]
    LearnedOptimizer(LinearRule()).apply(gradients, variables)
    for variable, dtype in zip(variables, dtypes, strict=True):
        assert variable.dtype == dtype
        np.testing.assert_array_equal(variable.numpy().astype(np.float64), [0.75, 1.5])


def test_a_rule_of_double_precision_computes_in_it():
    variable = keras.Variable([1.0], dtype="float64")
    rule = CoordinatewiseLSTM((3,), output_stddev=0.5, seed=0, dtype="float64")
    optimizer = LearnedOptimizer(rule)
    gradient = tf.constant([1 / 3], tf.float64)
    optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(
        variable.numpy(), 1.0 + rule(gradient, rule.initial_state(1))[0], rtol=1e-15
    )
    assert _state(optimizer)["state_0_0"].dtype == np.float64


def test_sparse_gradients_move_rows_without_one_as_zeros_do():
    sparse, dense = _variables((5, 2)), _variables((5, 2))
    optimizers = LearnedOptimizer(_lstm()), LearnedOptimizer(_lstm())
    for rows in ([0, 3], [3, 3]):
        slices = tf.IndexedSlices(_normal([2, 2]), tf.constant(rows), tf.constant([5, 2]))
        optimizers[0].apply([slices], sparse)
        optimizers[1].apply([tf.convert_to_tensor(slices)], dense)
    np.testing.assert_array_equal(sparse[0].numpy(), dense[0].numpy())


@pytest.mark.parametrize("values", [np.ones([2, 2], np.float64), [[1, 1], [1, 1]], tf.ones([2, 2])])
@pytest.mark.parametrize(
    ("indices", "wanted"),
    [
        ((0, 3), [-1, 0, 0, -1, 0]),
        ([3, 3], [0, 0, 0, -2, 0]),
        (np.array([0, 3]), [-1, 0, 0, -1, 0]),
        (tf.constant([0, 3], tf.int64), [-1, 0, 0, -1, 0]),
        (tf.constant([0, 3], tf.uint8), [-1, 0, 0, -1, 0]),
    ],
)
def test_a_sparse_gradient_may_have_any_form_that_keras_takes(indices, values, wanted):
    (variable,) = _variables((5, 2))
    before = variable.numpy()
    LearnedOptimizer(LinearRule()).apply([tf.IndexedSlices(values, indices)], [variable])
    moved = np.tile(np.array(wanted)[:, np.newaxis], [1, 2])
    np.testing.assert_allclose(variable.numpy() - before, moved, atol=1e-6)


@pytest.mark.parametrize("indices", [[], (), tf.zeros([0], tf.int32)])
def test_a_sparse_gradient_without_rows_is_zero(indices):
    (variable,) = _variables((5, 2))
    before, optimizer = variable.numpy(), LearnedOptimizer(LinearRule())
    optimizer.apply([tf.IndexedSlices(tf.zeros([0, 2]), indices)], [variable])
    np.testing.assert_array_equal(variable.numpy(), before)
    assert int(optimizer.iterations) == 1


def test_the_index_of_a_sparse_gradient_may_be_one_number():
    (variable,) = _variables((5, 2))
    before = variable.numpy()
    gradient = tf.IndexedSlices(tf.ones([2]), tf.constant(3))
    LearnedOptimizer(LinearRule()).apply([gradient], [variable])
    moved = np.tile([[0], [0], [0], [-1], [0]], [1, 2])
    np.testing.assert_allclose(variable.numpy() - before, moved, atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "values", "indices", "received"),
    [
        ((), tf.ones([1]), [0], "indices (1,) and values (1,) for 'mine' of shape ()"),
        ((5, 2), tf.ones([2, 3]), [0, 1], "indices (2,) and values (2, 3) for 'mine' of"),
        ((5, 2), tf.ones([3, 2]), [0, 1], "indices (2,) and values (3, 2) for 'mine' of"),
    ],
)
def test_a_sparse_gradient_of_other_rows_is_refused(shape, values, indices, received):
    optimizer, variable = (
        LearnedOptimizer(LinearRule()),
        keras.Variable(np.ones(shape), name="mine"),
    )
    with pytest.raises(ValueError) as raised:
        optimizer.apply([tf.IndexedSlices(values, indices)], [variable])
    assert str(raised.value).startswith(
        "A sparse gradient must hold rows of its variable, one for each index. Received: "
        f"{received}"
    )
    assert (int(optimizer.iterations), optimizer.built) == (0, False)


def test_indices_that_are_no_integers_are_refused():
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0.5]))
    with pytest.raises(TypeError) as raised:
        LearnedOptimizer(LinearRule()).apply(
            [gradient], [keras.Variable(np.ones([5, 2]), name="v")]
        )
    assert str(raised.value) == (
        "Indices of a sparse gradient must be integers. Received: indices of float32 for 'v'. Give "
        "the numbers of rows."
    )


def test_an_embedding_is_trained_with_its_sparse_gradients():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Embedding(7, 4), keras.layers.Dense(1)]
    )
    model.compile(LearnedOptimizer(SGD(0.1), global_clipnorm=1.0), loss="mse", jit_compile=True)
    before = model.get_weights()
    model.fit(np.array([[1, 2, 2]] * 4), np.ones([4, 3, 1]), epochs=2, verbose=0)
    moved = np.abs(model.get_weights()[0] - before[0]).max(axis=1) > 0
    np.testing.assert_array_equal(moved, [False, True, True, False, False, False, False])


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_variable_without_a_gradient_keeps_its_value_and_its_state(chunk_size):
    variables = _variables((2,), (3,), (2,))
    optimizer = LearnedOptimizer(_lstm(), weight_decay=0.1, chunk_size=chunk_size)
    steps = [_normal([7], seed) for seed in range(3)]
    split = [tf.split(step, [2, 3, 2]) for step in steps]
    optimizer.apply(split[0], variables)
    kept = variables[1].numpy()
    optimizer.apply([split[1][0], None, split[1][2]], variables)
    np.testing.assert_array_equal(variables[1].numpy(), kept)
    optimizer.apply(split[2], variables)
    # As if the second step had never been for the variable in the middle.
    without_decay = LearnedOptimizer(_lstm(), weight_decay=0.1)
    twin = _variables((2,), (3,), (2,))[1]
    for index in (0, 2):
        without_decay.apply([split[index][1]], [twin])
    np.testing.assert_allclose(variables[1].numpy(), twin.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
def test_a_missing_gradient_is_zero_to_a_rule_that_is_not_coordinatewise():
    variables = _variables((2,), (2,))
    before = _values(variables)
    LearnedOptimizer(MeanRule()).apply([tf.constant([4.0, 8.0]), None], variables)
    np.testing.assert_allclose(variables[0].numpy(), before[0] - 3.0, rtol=1e-6)
    np.testing.assert_array_equal(variables[1].numpy(), before[1])


# Rules for groups of variables


def _conv_net() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(2, 3, name="convolution"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, name="output"),
        ]
    )


def test_each_variable_is_updated_by_the_first_rule_that_has_a_route_to_it():
    model = _conv_net()
    before = model.get_weights()
    routes = [
        Route(SGD(0.1), kind="conv"),
        Route(SGD(0.2), name="output/bias"),
        Route(SGD(0.3), predicate=lambda variable: "bias" in variable.path),
    ]
    optimizer = LearnedOptimizer(SGD(0.4), routes)
    optimizer.apply([tf.ones(one.shape) for one in before], model.trainable_variables)
    # Kernel and bias of the convolution, kernel and bias of the output.
    for after, old, rate in zip(model.get_weights(), before, (0.1, 0.3, 0.4, 0.2), strict=True):
        np.testing.assert_allclose(after, old - rate, rtol=1e-5, atol=1e-6)


def test_a_rule_with_parts_brings_its_routes_which_come_after_those_given():
    first, second, other = _lstm(), _lstm(seed=1), _lstm(seed=2)
    rule = RoutedRule(other, [Route(first, kind="vector"), Route(second, kind="dense")])
    variables = _variables((3,), (2, 2), (1, 1, 2, 2))
    before = _values(variables)
    optimizer = LearnedOptimizer(rule, routes=[Route(SGD(0.5), kind="dense")])
    gradients = [_normal([2, *variable.shape], 7) for variable in variables]
    for step in range(2):
        optimizer.apply([gradient[step] for gradient in gradients], variables)
    rules = (first, SGD(0.5), other)
    for variable, start, gradient, used in zip(variables, before, gradients, rules, strict=True):
        moved = _follow(used, tf.reshape(gradient, [2, -1]))
        np.testing.assert_allclose(
            variable.numpy() - start, moved.reshape(start.shape), rtol=1e-4, atol=1e-6
        )
    again = LearnedOptimizer.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()


def test_a_rule_with_parts_is_no_rule_of_a_route():
    rule = RoutedRule(_lstm(), [Route(_lstm(), kind="conv")], name="inner")
    with pytest.raises(ValueError) as raised:
        LearnedOptimizer(_lstm(), routes=[Route(rule, kind="dense")])
    assert str(raised.value) == (
        "The rule of a route must have no routes of its own. "
        f"Received: {rule!r}. Give the routes of its parts one by one."
    )


def test_a_route_to_no_variable_costs_nothing():
    optimizer, variables = (
        LearnedOptimizer(LinearRule(), [Route(_lstm(), kind="conv")]),
        _variables((3,)),
    )
    optimizer.apply([tf.ones([3])], variables)
    assert set(_state(optimizer)) == {"state_0_0", "state_0_1", "state_0_2"}


# State


def test_a_rule_of_two_layers_of_20_keeps_80_floats_for_each_coordinate():
    for chunk_size, shapes in ((None, [(17, 3), (9,)]), (7, [(17, 3), (9,)])):
        optimizer = LearnedOptimizer(load_rule("quadratic_lstm"), chunk_size=chunk_size)
        optimizer.build(_variables(*shapes))
        state = _state(optimizer).values()
        assert sum(one.size for one in state) == 80 * 60
        assert {one.dtype.name for one in state} == {"float32"}


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_with_bfloat16_it_keeps_half_the_bytes(chunk_size):
    rule = load_rule("quadratic_lstm")
    optimizer = LearnedOptimizer(rule, state_dtype="bfloat16", chunk_size=chunk_size)
    optimizer.build(_variables((17, 3), (9,)))
    assert sum(one.nbytes for one in _state(optimizer).values()) == 80 * 60 * 2


def test_counts_and_running_sums_keep_their_precision_beside_a_state_in_bfloat16():
    optimizer = LearnedOptimizer(LinearRule(), state_dtype="bfloat16")
    optimizer.build(_variables((4,)))
    dtypes = {name: one.dtype.name for name, one in _state(optimizer).items()}
    assert dtypes == {"state_0_0": "int32", "state_0_1": "float32", "state_0_2": "bfloat16"}


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_a_state_in_bfloat16_hardly_changes_the_trajectory(chunk_size):
    half, full = _variables((23,)), _variables((23,))
    start = full[0].numpy()
    optimizers = (
        LearnedOptimizer(_lstm(), state_dtype="bfloat16", chunk_size=chunk_size),
        LearnedOptimizer(_lstm()),
    )
    for step in range(20):
        for optimizer, variables in zip(optimizers, (half, full), strict=True):
            optimizer.apply([_normal([23], step)], variables)
    moved = np.abs(full[0].numpy() - start).max()
    # 8 bits are off by up to 1 in 256; errors of 20 steps partly cancel.
    np.testing.assert_allclose(half[0].numpy(), full[0].numpy(), atol=moved / 64)
    assert np.abs(half[0].numpy() - full[0].numpy()).max() > 0


# Two times 5, and a rest of 5 to 9; one chunk and a rest; no chunks below two.
@pytest.mark.parametrize(
    ("num_coordinates", "rest", "chunks"), [(9, 9, None), (10, 5, 1), (14, 9, 1), (19, 9, 2)]
)
def test_large_groups_are_cut_into_chunks_and_a_rest(num_coordinates, rest, chunks):
    optimizer, variables = (
        LearnedOptimizer(LinearRule(), chunk_size=5),
        _variables((num_coordinates,)),
    )
    gradients = [_normal([num_coordinates], seed) for seed in range(3)]
    before = variables[0].numpy()
    for gradient in gradients:
        optimizer.apply([gradient], variables)
    np.testing.assert_allclose(variables[0].numpy(), before - sum(gradients), rtol=1e-5, atol=1e-6)
    state = _state(optimizer)
    assert int(state["state_0_0"]) == 3
    np.testing.assert_array_equal(state["state_0_2"], np.stack(gradients[:0:-1], 1)[-rest:])
    if chunks is None:
        assert "state_0_1_chunks" not in state
    else:
        sums = np.concatenate([state["state_0_1_chunks"].ravel(), state["state_0_1"]])
        assert state["state_0_2_chunks"].shape == (chunks, 10)
        np.testing.assert_allclose(sums, sum(gradients), rtol=1e-5, atol=1e-6)


def test_hand_designed_rules_are_never_cut():
    optimizer = LearnedOptimizer(SGD(tf.linspace(0.1, 1.0, 20), 0.9), chunk_size=5)
    optimizer.build(_variables((20,)))
    assert {name: one.shape for name, one in _state(optimizer).items()} == {"state_0_0": (20,)}


# Loading a state


def _saved(optimizer) -> dict[str, np.ndarray]:
    store: dict[str, np.ndarray] = {}
    optimizer.save_own_variables(store)
    return store


def _built(*shapes, **arguments) -> LearnedOptimizer:
    optimizer = LearnedOptimizer(LinearRule(), name="mine", **arguments)
    optimizer.build(_variables(*shapes))
    return optimizer


@pytest.mark.parametrize(
    ("other", "what"),
    [
        (lambda: _built((2, 3), (3,)), "has (9,) instead of (8,) for state_0_1"),
        (lambda: _built((3, 2), (2,)), "is for variables of other shapes, or in another order"),
        (lambda: _built((2,), (2, 3)), "is for variables of other shapes, or in another order"),
        (lambda: _built((2, 3), (2,), use_ema=True), "has 8 variables instead of 6"),
        (lambda: _built((2, 3), (2,), chunk_size=2), "has 8 variables instead of 6"),
    ],
    ids=["size", "transposed", "order", "option", "chunks"],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(other, what):
    optimizer = _built((2, 3), (2,))
    with pytest.raises(ValueError) as raised:
        optimizer.load_own_variables(_saved(other()))
    assert str(raised.value) == (
        "An optimizer's state must be of the same rules, options and model variables. Received: "
        f"for the optimizer 'mine', a state that {what}. Make model and optimizer as they were "
        "when it was saved; to go on without the state, load the model with compile=False, or "
        "weights before the model is compiled."
    )
    assert not any(np.any(one) for one in _state(optimizer).values())


@pytest.mark.parametrize("built", [False, True])
def test_a_state_saved_before_build_is_that_of_an_optimizer_that_took_no_step(built):
    optimizer, variables = LearnedOptimizer(_lstm(), use_ema=True), _variables((2, 3))
    if built:
        optimizer.build(variables)
    optimizer.load_own_variables(_saved(LearnedOptimizer(_lstm(), learning_rate=0.5)))
    assert float(optimizer.learning_rate) == 0.5
    optimizer.apply([tf.ones([2, 3])], variables)
    assert int(optimizer.iterations) == 1


def test_a_state_saved_before_build_is_refused_by_an_optimizer_that_has_taken_steps():
    optimizer = LearnedOptimizer(LinearRule())
    optimizer.apply([tf.ones([2])], _variables((2,)))
    with pytest.raises(ValueError, match="a state that was saved before it was built"):
        optimizer.load_own_variables(_saved(LearnedOptimizer(LinearRule())))
    assert int(optimizer.iterations) == 1


@pytest.mark.parametrize("built", [False, True])
def test_a_state_saved_before_build_with_a_schedule_is_refused_by_one_without(built):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.2, 1, 0.7)
    optimizer = LearnedOptimizer(LinearRule())
    if built:
        optimizer.build(_variables((2,)))
    with pytest.raises(ValueError, match="has 2 variables instead of 3"):
        optimizer.load_own_variables(_saved(LearnedOptimizer(LinearRule(), learning_rate=schedule)))


def test_the_state_of_another_kind_of_optimizer_is_refused():
    optimizer, adam = _built((2,)), keras.optimizers.Adam()
    adam.build(_variables((2,)))
    with pytest.raises(ValueError, match="a state that is that of another kind of optimizer"):
        optimizer.load_own_variables(_saved(adam))


def test_a_model_file_with_a_state_that_does_not_fit_is_refused(tmp_path):
    models = [_conv_net() for _ in range(2)]
    for model, arguments in zip(models, ({}, {"use_ema": True}), strict=True):
        model.compile(LearnedOptimizer(_lstm(), **arguments), loss="mse", jit_compile=False)
        model.optimizer.build(model.trainable_variables)
    models[0].save_weights(tmp_path / "of.weights.h5")
    with pytest.raises(ValueError, match="An optimizer's state must be of the same rules"):
        models[1].load_weights(tmp_path / "of.weights.h5")


def test_weights_without_any_state_are_loaded_with_a_warning(tmp_path):
    model, other = _conv_net(), _conv_net()
    model.save_weights(tmp_path / "of.weights.h5")
    other.compile(LearnedOptimizer(_lstm(), name="mine"), loss="mse", jit_compile=False)
    with pytest.warns(UserWarning, match="The file holds no state of the optimizer 'mine'"):
        other.load_weights(tmp_path / "of.weights.h5")
    for one, wanted in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, wanted)


@pytest.mark.parametrize("built", [False, True])
def test_the_state_of_a_rule_without_the_others_routes_is_refused(built):
    optimizer = _built((2, 3), (2,)) if built else LearnedOptimizer(LinearRule())
    other = _built((2, 3), (2,), routes=[Route(SGD(1.0), kind="vector")])
    with pytest.raises(ValueError, match="a state that is that of other rules"):
        optimizer.load_own_variables(_saved(other))


# States and weights of all but the first have the same shapes.
@pytest.mark.parametrize(
    ("own", "others"),
    [
        (_lstm(), _lstm(units=(5,))),
        (_lstm(), _lstm(output_scale=3.0)),
        (_lstm(preprocessing="log_and_sign"), _lstm(preprocessing="log_and_sign", p=3.0)),
        (SGD(0.1, 0.9), RMSprop(0.1)),
        (SGD(0.1, 0.9), SGD(0.1, 0.9, nesterov=True)),
    ],
    ids=["units", "output_scale", "p", "class", "nesterov"],
)
@pytest.mark.parametrize("built", [False, True])
def test_the_state_of_other_rules_is_refused(own, others, built):
    optimizer, other = LearnedOptimizer(own), LearnedOptimizer(others)
    other.build(_variables((2,)))
    if built:
        optimizer.build(_variables((2,)))
    with pytest.raises(ValueError, match="a state that is that of other rules"):
        optimizer.load_own_variables(_saved(other))


def test_weights_of_another_number_are_refused():
    optimizer = _built((2,))
    with pytest.raises(ValueError) as raised:
        optimizer.set_weights([np.zeros([])])
    assert str(raised.value) == (
        "weights must hold an array of numbers for each of the optimizer's variables, of its "
        "shape. Received: for the optimizer 'mine', 1 of them for 6 variables. Give those of one "
        "of the same rules, options and model variables."
    )


# Configuration


def test_a_rule_that_cannot_be_saved_trains_and_is_refused_when_it_is_saved():
    class Plain(CoordinatewiseRule):
        def initial_state(self, num_coordinates):
            return ()

        def __call__(self, gradient, state):
            return -gradient, state

        def __repr__(self):
            return "Plain()"

    optimizer, variable = LearnedOptimizer(Plain()), keras.Variable([1.0])
    optimizer.apply([tf.constant([0.25])], [variable])
    assert float(variable.numpy()[0]) == 0.75
    with pytest.raises(TypeError) as raised:
        optimizer.get_config()
    assert str(raised.value) == (
        "rule must have a method get_config to be saved, and be registered with Keras "
        "(keras.saving.register_keras_serializable). Received: rule=Plain(). Add both."
    )


def test_a_configuration_that_was_read_is_not_changed():
    config = LearnedOptimizer(_lstm(), [Route(SGD(0.1), kind="conv")]).get_config()
    keys = set(config)
    LearnedOptimizer.from_config(config)
    assert set(config) == keys
    assert isinstance(config["rule"], dict)


@pytest.mark.parametrize("rule", [Adam(0.1), SGD(0.1, 0.9, True), LinearRule(-2.0)])
def test_any_rule_of_ours_can_be_saved(rule):
    rebuilt = LearnedOptimizer.from_config(LearnedOptimizer(rule).get_config())
    gradients = _normal([4, 5])
    np.testing.assert_array_equal(
        _follow(rebuilt.rule_for(keras.Variable(0.0)), gradients), _follow(rule, gradients)
    )


# What is refused


@pytest.mark.parametrize(
    "make", [lambda: LearnedOptimizer(SGD(0.1)), lambda: load("mnist_rnnprop")]
)
def test_another_backend_of_keras_is_refused(monkeypatch, make):
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    with pytest.raises(RuntimeError) as raised:
        make()
    assert str(raised.value) == (
        "Keras must run on TensorFlow for LearnedOptimizer. Received: backend='jax'. "
        "Set KERAS_BACKEND=tensorflow in the environment."
    )


@pytest.mark.parametrize("rule", ["mnist", SGD, CoordinatewiseLSTM])
@pytest.mark.parametrize("of_route", [False, True])
def test_what_is_no_rule_is_refused(of_route, rule):
    arguments = (SGD(0.1), [Route(rule, kind="conv")]) if of_route else (rule,)
    with pytest.raises(TypeError) as raised:
        LearnedOptimizer(*arguments)
    assert str(raised.value) == (
        f"{'rule of each route' if of_route else 'rule'} must be a rule (l2l_tf.rules.Rule). "
        f"Received: {rule!r}. Load one with l2l_tf.load_rule, or give a name to l2l_tf.load."
    )


@pytest.mark.parametrize("routes", ["conv", ["conv"], None, Route(SGD(0.1), kind="conv")])
def test_what_is_no_list_of_routes_is_refused(routes):
    with pytest.raises(TypeError) as raised:
        LearnedOptimizer(SGD(0.1), routes)
    assert str(raised.value) == (
        "routes must be a list of routes (l2l_tf.rules.Route). "
        f"Received: routes={routes!r}. Make a Route for each rule, and a list of them."
    )


def test_routes_may_be_generated():
    routes = [Route(SGD(0.1), kind="conv"), Route(SGD(0.2), kind="dense")]
    optimizer = LearnedOptimizer(SGD(0.3), (route for route in routes))
    assert optimizer.rule_for(keras.Variable(np.ones([2, 2]))).learning_rate == 0.2


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("nan_policy", "ignore"),
        ("nan_policy", None),
        ("state_dtype", "float16"),
        ("state_dtype", tf.bfloat16),
    ],
)
def test_an_unknown_choice_is_refused(argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        LearnedOptimizer(SGD(0.1), **{argument: value})


@pytest.mark.parametrize("chunk_size", [-1, 2.5, True])
def test_a_chunk_size_that_is_no_count_is_refused(chunk_size):
    with pytest.raises(ValueError, match=r"^chunk_size must"):
        LearnedOptimizer(SGD(0.1), chunk_size=chunk_size)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r"A rule must be one of \[.*'quadratic_lstm'"):
        load("quadratic")


def test_what_users_need_is_at_the_top_of_the_package():
    assert l2l_tf.load is load
    assert l2l_tf.LearnedOptimizer is LearnedOptimizer
    assert "quadratic_lstm" in l2l_tf.list_rules()


def _unknown(shape) -> tf.Variable:
    return tf.Variable(np.ones(3, np.float32), shape=tf.TensorShape(shape), name="mine")


@pytest.mark.parametrize(
    ("variable", "error", "message"),
    [
        (
            lambda: tf.Variable(tf.complex(1.0, 2.0), name="mine"),
            TypeError,
            "Variables must be real to be updated by a rule. Received: 'mine:0' of complex64. Keep "
            "real and imaginary parts in variables of their own.",
        ),
        (
            lambda: _unknown([None]),
            ValueError,
            "Variables must have a known shape to be updated by a rule. Received: 'mine:0' of "
            "shape (None,). Make it with all of its dimensions.",
        ),
        (
            lambda: _unknown(None),
            ValueError,
            "Variables must have a known shape to be updated by a rule. Received: 'mine:0' of "
            "shape <unknown>. Make it with all of its dimensions.",
        ),
    ],
    ids=["complex", "dimension", "rank"],
)
def test_a_variable_that_no_rule_can_update_is_refused_by_name(variable, error, message):
    optimizer, one, (other,) = LearnedOptimizer(LinearRule()), variable(), _variables((2,))
    before = other.numpy()
    for attempt in (
        lambda: optimizer.build([other, one]),
        lambda: optimizer.apply([tf.ones([2]), tf.ones_like(one)], [other, one]),
        lambda: optimizer.apply(
            [tf.ones([2]), tf.IndexedSlices(tf.ones([1]), tf.constant([0]))], [other, one]
        ),
    ):
        with pytest.raises(error) as raised:
            attempt()
        assert str(raised.value) == message
    np.testing.assert_array_equal(other.numpy(), before)
    assert (int(optimizer.iterations), optimizer.built) == (0, False)


# They have no gradient: Keras's own optimizers train beside them, and so does ours.
@pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning")
@pytest.mark.parametrize("value", [3, True, "a"], ids=["integer", "bool", "string"])
def test_a_variable_that_is_not_of_floating_point_is_refused_with_a_gradient_alone(value):
    optimizer, other = LearnedOptimizer(LinearRule()), keras.Variable([1.0, 2.0])
    one = tf.Variable(value, name="mine")
    optimizer.apply([tf.ones([2]), None], [other, one])
    with pytest.raises(TypeError) as raised:
        optimizer.apply([tf.ones([2]), one.value()], [other, one])
    assert str(raised.value) == (
        "Variables must be of floating point to be updated by a rule. Received: a gradient for "
        f"'mine:0' of {one.dtype.name}. Give None for it, or leave it out of what is trained "
        "(trainable=False)."
    )
    np.testing.assert_array_equal(other.numpy(), [0.0, 1.0])
    assert int(optimizer.iterations) == 1


@pytest.mark.parametrize("learning_rate", [True, False, "0.1", None, [0.1]])
def test_a_learning_rate_that_keras_refuses_is_refused(learning_rate):
    with pytest.raises(ValueError, match="Argument `learning_rate` should be float"):
        LearnedOptimizer(SGD(0.1), learning_rate=learning_rate)


@pytest.mark.parametrize(
    "argument", ["weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"]
)
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (True, TypeError),
        ("0.1", TypeError),
        ([0.1], TypeError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ],
)
def test_an_argument_that_is_no_finite_number_is_refused(argument, value, error):
    with pytest.raises(error) as raised:
        LearnedOptimizer(SGD(0.1), **{argument: value})
    assert str(raised.value) == (
        f"{argument} must be None or a finite number. Received: {argument}={value!r}. Give a "
        "float, or leave it out."
    )


@pytest.mark.parametrize("value", [None, False, 0, np.float32(0.5)])
def test_numbers_of_any_kind_and_none_are_taken(value):
    assert LearnedOptimizer(SGD(0.1), weight_decay=value).weight_decay == value


def test_whether_to_replay_is_yes_or_no():
    with pytest.raises(TypeError) as raised:
        load("quadratic_lstm", replay="no")
    assert str(raised.value) == (
        "replay must be True or False. Received: replay='no'. Give one of them."
    )
