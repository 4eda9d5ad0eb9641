import json
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from l2l_tf.evaluation.evaluation import evaluate
from l2l_tf.evaluation.unroll import start
from l2l_tf.problems.augmented import RandomlyScaled
from l2l_tf.problems.problem import ParameterSpec, StackedProblem
from l2l_tf.problems.seeds import task_seeds
from l2l_tf.problems.style_transfer import StyleTransferProblem
from l2l_tf.rules.coordinatewise_lstm import CoordinatewiseLSTM
from l2l_tf.rules.hand_designed import BASELINES
from l2l_tf.rules.routed import RoutedRule
from l2l_tf.rules.routing import Route
from l2l_tf.training.meta_gradient import meta_gradient
from tests.problems.shapes import assert_variables_are_parameters_without_batch_axes
from tests.reference import style as reference

RNG = np.random.default_rng(0)
KERNELS = {
    "pixel": RNG.normal(size=(1, 1, 3, 4)) / 100,
    "square": RNG.normal(size=(2, 2, 4, 5)),
    "block": RNG.normal(size=(2, 2, 5, 3)),
}
CONTENT_LAYERS = {"block": 2.0}
STYLE_LAYERS = {"pixel": 0.25, "square": 0.75}
PHOTOS = [RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((12, 16), (8, 8), (30, 9))]
PAINTING = RNG.integers(0, 256, (12, 20, 3), dtype=np.uint8)
SEED = tf.constant([11, 4])
SEEDS = task_seeds(0, "test", 0, 12)


def _features(dtype: str = "float32", **kernels: np.ndarray) -> keras.Model:
    """Returns convolutions without overlap, whose maps NumPy finds in a few lines."""
    pictures = layers.Input((None, None, 3), dtype=dtype)
    maps, current = {}, pictures
    for name, kernel in (kernels or KERNELS).items():
        size = kernel.shape[0]
        convolution = layers.Conv2D(
            kernel.shape[3], size, size, activation="relu", use_bias=False, dtype=dtype, name=name
        )
        maps[name] = current = convolution(current)
        convolution.set_weights([kernel])
    model = keras.Model(pictures, maps, name="squares")
    model.dtype_policy = keras.DTypePolicy(dtype)
    model.trainable = False
    return model


def _problem(**changes) -> StyleTransferProblem:
    arguments = {
        "features": _features(),
        "photos": PHOTOS,
        "style": PAINTING,
        "image_size": (8, 8),
        "content_layers": CONTENT_LAYERS,
        "style_layers": STYLE_LAYERS,
        "variation_weight": 30.0,
    }
    return StyleTransferProblem(**arguments | changes)


def _loss_and_gradient(problem, parameters, batch):
    with tf.GradientTape() as tape:
        tape.watch(parameters)
        losses = problem.loss([parameters], batch)
    return losses, tape.gradient(losses, parameters)


# The loss


def test_the_loss_of_each_picture_is_that_of_numpy():
    # float64, so that agreement to 10 digits leaves no room for another formula.
    problem = _problem(features=_features("float64"), num_images=3, content_weight=500.0)
    (crops,) = problem.initial_parameters(SEED)
    assert crops.dtype == tf.float64
    pictures = crops + RNG.normal(size=crops.shape)
    losses = problem.loss([pictures], problem.batch(SEED, tf.constant(0)))
    expected = [
        reference.loss(
            8 * picture,
            8 * crop,
            PAINTING.astype(float),
            KERNELS,
            CONTENT_LAYERS,
            STYLE_LAYERS,
            (500.0, 1000.0, 30.0),
        )
        for picture, crop in zip(pictures.numpy(), crops.numpy(), strict=True)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-10)


def test_the_gradient_is_that_of_finite_differences():
    problem = _problem(features=_features("float64"))
    (parameters,) = problem.initial_parameters(SEED)
    parameters += 0.01 * RNG.normal(size=parameters.shape)
    batch = problem.batch(SEED, tf.constant(0))
    _, gradient = _loss_and_gradient(problem, parameters, batch)
    for _ in range(5):
        direction = RNG.normal(size=parameters.shape)
        up, down = (
            problem.loss([parameters + shift * direction], batch)[0] for shift in (1e-6, -1e-6)
        )
        slope = tf.reduce_sum(gradient * direction)
        # Truncation and rounding of a central difference leave about 1e-8 of it.
        np.testing.assert_allclose((up - down) / 2e-6, slope, rtol=1e-5)


def test_a_photo_has_no_content_loss_and_the_painting_no_style_loss():
    batch_of = {"seed": SEED, "step": tf.constant(0)}
    content = _problem(style_weight=0.0, variation_weight=0.0)
    assert float(content.loss(content.initial_parameters(SEED), content.batch(**batch_of))[0]) == 0
    style = _problem(
        photos=[PAINTING], image_size=(12, 20), content_weight=0.0, variation_weight=0.0
    )
    losses = style.loss(style.initial_parameters(SEED), style.batch(**batch_of))
    assert float(losses[0]) == pytest.approx(0, abs=1e-9)


def test_at_twice_the_size_a_pixel_has_the_gradient_that_it_has_in_the_small_picture():
    # A picture laid four times beside itself: with squares that do not overlap, all is four times.
    photo, picture = PHOTOS[1], PHOTOS[0][:8, :8]
    results = []
    for times in (1, 2):
        tiles = (times, times, 1)
        problem = _problem(
            photos=[np.tile(photo, tiles)], image_size=(8 * times, 8 * times), variation_weight=0.0
        )
        parameters = tf.constant(np.tile(picture, tiles)[np.newaxis] / 8, tf.float32)
        batch = problem.batch(SEED, tf.constant(0))
        results.append(_loss_and_gradient(problem, parameters, batch))
    (small_loss, small), (large_loss, large) = results
    np.testing.assert_allclose(large_loss, 4 * small_loss, rtol=1e-5)
    largest = np.abs(small).max()
    np.testing.assert_allclose(large[0, 8:, :8], small[0], atol=1e-5 * largest)


def test_pictures_of_one_task_do_not_touch_each_other():
    together, alone = _problem(num_images=2), _problem()
    (crops,) = together.initial_parameters(SEED)
    batch = together.batch(SEED, tf.constant(0))
    losses, gradient = _loss_and_gradient(together, crops + 1, batch)
    for index in range(2):
        own = {layer: maps[index : index + 1] for layer, maps in batch.items()}
        loss, own_gradient = _loss_and_gradient(alone, crops[index : index + 1] + 1, own)
        np.testing.assert_allclose(losses[index], loss[0], rtol=1e-5)
        np.testing.assert_allclose(gradient[index], own_gradient[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_tuned_rule_brings_the_style_nearer():
    problem = _problem(content_weight=0.0, variation_weight=0.0)
    curve = evaluate(BASELINES["adam"](0.3), problem, SEEDS[:3], 60).curve
    assert curve[-1] < 0.2 * curve[0]


# Tasks


def test_a_crop_is_a_part_of_a_photo():
    problem = _problem(num_images=2)
    windows = {
        photo[top : top + 8, left : left + 8].tobytes()
        for photo in PHOTOS
        for top in range(photo.shape[0] - 7)
        for left in range(photo.shape[1] - 7)
    }
    for seed in SEEDS:
        (crops,) = problem.initial_parameters(seed)
        assert all(crop.tobytes() in windows for crop in problem.pictures(crops))


def test_every_photo_and_every_corner_is_drawn():
    # Photos that say at each pixel which photo, row and column it is.
    numbered = [
        np.stack(np.meshgrid([number], range(h), range(w), indexing="ij")[:3], -1)[0]
        for number, (h, w) in enumerate([(4, 3), (2, 2), (3, 5)])
    ]
    photos = [one.astype(np.uint8) for one in numbered]
    kernel = np.ones((1, 1, 3, 2))
    problem = _problem(
        features=_features(pixel=kernel),
        photos=photos,
        image_size=(2, 2),
        num_images=400,
        content_layers={"pixel": 1.0},
        style_layers={"pixel": 1.0},
    )
    crops = problem.pictures(problem.initial_parameters(SEED)[0])
    corners, counts = np.unique(crops[:, 0, 0], axis=0, return_counts=True)
    expected = {
        (number, row, column)
        for number, (h, w) in enumerate([(4, 3), (2, 2), (3, 5)])
        for row in range(h - 1)
        for column in range(w - 1)
    }
    assert {tuple(corner) for corner in corners} == expected
    # Photos are as likely as each other, whatever their size: 133 each, within 4 deviations of 9.4.
    of_photos = [counts[corners[:, 0] == number].sum() for number in range(3)]
    np.testing.assert_allclose(of_photos, 400 / 3, atol=38)


@pytest.mark.slow
@pytest.mark.parametrize("num_tasks", [2, 9])
def test_tasks_side_by_side_are_the_tasks_run_apart(num_tasks):
    problem = _problem(num_images=2)

    @tf.function(autograph=False)
    def run(problem, seed):
        parameters = problem.initial_parameters(seed)[0] + 1
        return _loss_and_gradient(problem, parameters, problem.batch(seed, tf.constant(0)))

    losses, gradients = run(StackedProblem(problem, num_tasks), SEEDS[:num_tasks])
    for index, seed in enumerate(SEEDS[:num_tasks]):
        own_losses, own_gradient = run(problem, seed)
        np.testing.assert_allclose(losses[2 * index : 2 * index + 2], own_losses, rtol=1e-4)
        np.testing.assert_allclose(gradients[index], own_gradient, rtol=1e-2, atol=1e-3)


def test_a_task_is_the_same_at_each_step_eagerly_and_compiled():
    problem = _problem()
    eager = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    compiled = tf.function(
        lambda seed, step: (problem.initial_parameters(seed), problem.batch(seed, step)),
        autograph=False,
    )(SEED, tf.constant(7))
    np.testing.assert_array_equal(compiled[0][0], eager[0][0])
    np.testing.assert_allclose(compiled[1]["block"], eager[1]["block"], rtol=1e-5)
    assert not problem.is_stochastic


def test_pictures_for_the_eye_are_clipped_and_rounded():
    problem = _problem(image_size=(1, 2), photos=PHOTOS)
    vector = [-1.0, 0.06, 0.07, 31.875, 32.0, 1e9]
    np.testing.assert_array_equal(problem.pictures(vector), [[[[0, 0, 1], [255, 255, 255]]]])


def test_photos_and_weights_are_no_part_of_a_graph():
    photos = [np.zeros((256, 256, 3), np.uint8)] * 4
    problem = _problem(photos=photos)
    step = tf.function(
        lambda seed: problem.loss(problem.initial_parameters(seed), problem.batch(seed, 0)),
        autograph=False,
    )
    graph = step.get_concrete_function(tf.TensorSpec([2], tf.int32)).graph.as_graph_def()
    assert graph.ByteSize() < 100_000


def test_no_tape_watches_the_networks_weights_and_later_values_play_no_part():
    features = _features()
    problem = _problem(features=features)
    (crops,), batch = problem.initial_parameters(SEED), problem.batch(SEED, tf.constant(0))
    with tf.GradientTape() as tape:
        before = problem.loss([crops + 1], batch)
    assert tape.watched_variables() == ()
    for weight in features.weights:
        weight.assign(0 * weight.value)
    np.testing.assert_array_equal(problem.loss([crops + 1], batch), before)


def test_a_meta_gradient_is_that_of_the_rules_weights_alone():
    problem = _problem()
    rule = CoordinatewiseLSTM((3,), "log_and_sign", output_stddev=0.1, seed=0)
    result = meta_gradient(rule, problem, SEED, start(rule, problem, SEED), 3)
    assert len(result.gradients) == len(rule.trainable_variables)
    assert all(np.abs(gradient).max() > 0 for gradient in result.gradients)


# Parameters


@pytest.mark.parametrize("num_images", [1, 2])
def test_its_pictures_are_batch_axes_of_one_tensor_of_pixels(num_images):
    problem = _problem(num_images=num_images)
    assert problem.batch_shape == (num_images,)
    assert problem.variables == [ParameterSpec("pixels", (8, 8, 3))]
    assert_variables_are_parameters_without_batch_axes(problem)


def test_pixels_are_no_kernels_of_convolutions_however_many_tasks_there_are():
    rule = RoutedRule(CoordinatewiseLSTM((2,)), [Route(CoordinatewiseLSTM((2,)), kind="conv")])
    problem = _problem(num_images=2)
    for one in (problem, StackedProblem(problem, 2), RandomlyScaled(problem)):
        assert list(rule.bind(one.variables, one.batch_shape).parts) == ["other"]


def test_scaled_tasks_side_by_side_share_one_call_of_the_network_too(monkeypatch):
    problem = _problem()
    scaled = RandomlyScaled(problem)
    assert scaled.min_tasks_side_by_side == problem.min_tasks_side_by_side > 1
    stacked, seeds = StackedProblem(scaled, 3), SEEDS[:3]
    parameters, batch = stacked.initial_parameters(seeds), stacked.batch(seeds, tf.constant(0))
    calls = []

    def count(name):
        original = getattr(problem, name)

        def counted(*arguments):
            calls.append(name)
            return original(*arguments)

        monkeypatch.setattr(problem, name, counted)

    count("losses_of_tasks")
    count("_maps")
    losses = stacked.loss(parameters, batch)
    assert calls == ["losses_of_tasks", "_maps"]
    for index, seed in enumerate(seeds):
        own = scaled.loss(scaled.initial_parameters(seed), scaled.batch(seed, tf.constant(0)))
        np.testing.assert_allclose(losses[index], own[0], rtol=1e-4)


# Configurations


def test_a_config_is_plain_and_tells_problems_apart():
    changes = [
        {},
        {"photos": PHOTOS[:2]},
        {"photos": [PHOTOS[0].reshape(16, 12, 3), *PHOTOS[1:]]},
        {"style": PAINTING[::-1]},
        {"features": _features(**{**KERNELS, "block": KERNELS["block"] + 1e-3})},
        {"image_size": (8, 4)},
        {"num_images": 2},
        {"content_layers": {"square": 1.0}},
        {"style_layers": {"square": 1.0}},
        {"content_weight": 2.0},
        {"style_weight": 2.0},
        {"variation_weight": 2.0},
        {"brightness_unit": 2.0},
        {"name": "other"},
    ]
    configs = [json.dumps(_problem(**change).get_config()) for change in changes]
    assert len(set(configs)) == len(changes)
    assert json.dumps(_problem().get_config()) == configs[0]


# Wrong input

REFUSED = {
    "size_zero": (
        {"image_size": (0, 8)},
        ValueError,
        "image_size must be two positive integers, and num_images one. Received: "
        "image_size=(0, 8), num_images=1. Give, say, (64, 64) and 1.",
    ),
    "no_layers": (
        {"style_layers": {}},
        ValueError,
        "content_layers and style_layers must name one layer at least. Received: "
        "content_layers={'block': 2.0}, style_layers={}. Give each layer's weight by its name.",
    ),
    "painting_of_floats": (
        {"style": PAINTING / 255},
        TypeError,
        "style must be a uint8 array, brightness in 0..255. Received: style of float64. "
        "Scale and round it.",
    ),
    "grey_photo": (
        {"photos": [PHOTOS[0], PHOTOS[1][..., 0]]},
        ValueError,
        "photos[1] must be of shape [h, w, 3], RGB. Received: photos[1].shape=(8, 8). "
        "Convert it, as read_image does.",
    ),
    "no_photos": (
        {"photos": []},
        ValueError,
        "photos must hold one photo at least. Received: photos=[]. Read some.",
    ),
    "photo_too_small": (
        {"image_size": (8, 10)},
        ValueError,
        "photos must be as large as image_size, at least. Received: a photo of 8 x 8 pixels with "
        "image_size=(8, 10). Give larger photos, or a smaller size.",
    ),
    "unknown_layer": (
        {"content_layers": {"circle": 1.0}},
        ValueError,
        "content_layers and style_layers must be among ['block', 'pixel', 'square'], the outputs "
        "of features. Received: ['circle']. Make features that have them.",
    ),
    "blind_layer": (
        {"style": np.zeros_like(PAINTING)},
        ValueError,
        "features must see something of the painting in each layer. Received: ['block', 'pixel', "
        "'square'], where all is zero or not finite. Take other layers, or another painting.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_input_is_refused_with_one_sentence(case):
    changes, kind, message = REFUSED[case]
    with pytest.raises(kind) as error:
        _problem(**changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "kind", "name"),
    [
        ({"features": "vgg19"}, TypeError, "features"),
        ({"style_layers": {"pixel": -1.0}}, ValueError, "style_layers['pixel']"),
        ({"variation_weight": float("nan")}, ValueError, "variation_weight"),
        ({"brightness_unit": 0.0}, ValueError, "brightness_unit"),
    ],
)
def test_an_argument_out_of_range_is_refused(changes, kind, name):
    with pytest.raises(kind, match=f"^{re.escape(name)} must"):
        _problem(**changes)
