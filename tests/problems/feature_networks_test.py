import os
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from l2l_tf.problems import feature_networks
from l2l_tf.problems.feature_networks import (
    FEATURE_NETWORKS,
    feature_model,
    squeezenet,
    weights_digest,
)

PICTURE = np.random.default_rng(0).integers(0, 256, (1, 32, 40, 3)).astype(np.float32)
# What a file of real weights is named by, for the tests that need one.
VARIABLES = {"vgg19": "VGG19_WEIGHTS", "squeezenet": "SQUEEZENET_WEIGHTS"}


def _convolve(picture: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int) -> np.ndarray:
    """Returns a convolution and ReLU of all places where the kernel fits."""
    size = kernel.shape[0]
    height, width = ((side - size) // stride + 1 for side in picture.shape[:2])
    result = np.empty((height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            square = picture[top : top + size, left : left + size]
            result[row, column] = np.maximum(np.tensordot(square, kernel, axes=3) + bias, 0)
    return result


def _first_maps(picture: np.ndarray, model: keras.Model, stride: int) -> np.ndarray:
    """Returns the first layer's maps of an RGB picture, found by its weights alone."""
    blue_first = picture[..., ::-1].astype(np.float64) - [103.939, 116.779, 123.68]
    kernel, bias = (weight.numpy() for weight in model.weights[:2])
    return _convolve(blue_first, kernel, bias, stride)


def test_the_first_maps_are_those_of_a_centred_picture_with_blue_first():
    model = feature_model("squeezenet", ["conv1"], "random")
    maps = model(PICTURE)["conv1"]
    expected = _first_maps(PICTURE[0], model, stride=2)
    np.testing.assert_allclose(maps[0], expected, rtol=1e-4, atol=1e-3)


def test_squeezenet_has_the_weights_and_sizes_of_its_version():
    model = squeezenet()
    assert model.count_params() == 722_496
    names = [f"fire{index}" for index in range(2, 10)]
    outputs = [model.get_layer(name).output for name in names]
    picture = np.zeros((1, 227, 227, 3), np.float32)
    shapes = [tuple(maps.shape[1:]) for maps in keras.Model(model.input, outputs)(picture)]
    channels = [128, 128, 256, 256, 384, 384, 512, 512]
    sides = [56, 56, 27, 27, 13, 13, 13, 13]
    assert shapes == [(side, side, count) for side, count in zip(sides, channels, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(FEATURE_NETWORKS))
def test_a_network_gives_the_layers_asked_for_and_ends_with_the_last_of_them(network):
    chosen = FEATURE_NETWORKS[network]
    names = [chosen.style_layers[1], chosen.style_layers[0]]
    model = feature_model(network, names, "random")
    maps = model(PICTURE)
    assert set(maps) == set(names)
    assert (model.name, model.trainable_variables) == (network, [])
    whole = {"vgg19": 20_024_384, "squeezenet": 722_496}[network]
    assert 0 < model.count_params() < whole / 10
    assert all(np.isfinite(one).all() and np.max(one) > 0 for one in maps.values())


def test_defaults_are_the_layers_of_gatys_et_al():
    vgg19 = FEATURE_NETWORKS["vgg19"]
    assert vgg19.content_layers == ("block4_conv2",)
    assert vgg19.style_layers == tuple(f"block{index}_conv1" for index in (1, 2, 3, 4, 5))


@pytest.mark.slow
def test_the_smallest_pictures_reach_the_deepest_layers():
    for network, chosen in FEATURE_NETWORKS.items():
        maps = feature_model(network, chosen.style_layers, "random")(PICTURE[:, :, :32])
        assert all(min(one.shape) >= 1 for one in maps.values())


def test_random_weights_are_always_the_same_and_keep_maps_of_a_size():
    names = FEATURE_NETWORKS["squeezenet"].style_layers
    first, second = (feature_model("squeezenet", names, "random") for _ in range(2))
    assert weights_digest(first) == weights_digest(second)
    sizes = [float(tf.reduce_mean(tf.abs(maps))) for maps in first(PICTURE).values()]
    assert max(sizes) < 30 * min(sizes)


def test_weights_are_read_from_a_file(tmp_path):
    source = squeezenet()
    source.save_weights(tmp_path / "own.weights.h5")
    model = feature_model("squeezenet", ["fire9"], tmp_path / "own.weights.h5")
    assert weights_digest(model) == weights_digest(source)


def test_a_digest_tells_weights_apart():
    model = feature_model("squeezenet", ["conv1"], "random")
    before = weights_digest(model)
    model.weights[1].assign_add(1e-6 * np.eye(64, dtype=np.float32)[3])
    assert weights_digest(model) != before


# Wrong input


def _message(kind, *arguments):
    with pytest.raises(kind) as error:
        feature_model(*arguments)
    return str(error.value)


def test_an_unknown_network_or_layer_is_refused():
    with pytest.raises(ValueError, match=r"^network must"):
        feature_model("vgg16", ["conv1"], "random")
    message = _message(ValueError, "squeezenet", ["conv1", "conv2"], "random")
    assert message.startswith("layers must be among those of squeezenet: conv1, pool1, fire2_")
    assert message.endswith("Received: layers=['conv1', 'conv2']. Check the spelling.")


def test_weights_of_another_network_or_of_none_are_refused(tmp_path):
    other, text = tmp_path / "other.weights.h5", tmp_path / "text.h5"
    keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)]).save_weights(other)
    text.write_text("weights")
    for path in (other, text):
        assert _message(ValueError, "squeezenet", ["conv1"], path) == (
            "weights must be an HDF5 file (.h5) of the convolutions of squeezenet, in Keras's "
            f"order. Received: weights={str(path)!r}, which is of another network or none. Name "
            "another, or choose the network that it is of."
        )


def test_missing_weights_are_refused(tmp_path):
    path = tmp_path / "no.h5"
    assert _message(FileNotFoundError, "vgg19", ["block1_conv1"], path) == (
        "weights must be 'random', 'imagenet' or a file. "
        f"Received: weights={str(path)!r}, which is no file. Check the path."
    )
    assert _message(ValueError, "squeezenet", ["conv1"], "imagenet") == (
        "weights of squeezenet must be a file or 'random': there is nothing to download. "
        "Received: weights='imagenet'. Name a file."
    )


def test_a_download_that_fails_is_told_in_one_sentence(monkeypatch):
    def fail(weights):
        raise Exception("URL fetch failure on https://example.org: None\nat line 3")

    offline = FEATURE_NETWORKS["vgg19"]._replace(build=fail)
    monkeypatch.setitem(feature_networks.FEATURE_NETWORKS, "vgg19", offline)
    assert _message(OSError, "vgg19", ["block1_conv1"], "imagenet") == (
        "weights='imagenet' must find the weights of vgg19 in Keras's cache or on the network. "
        "Received: URL fetch failure on https://example.org: None. Connect, or name a file of them."
    )


# Real weights


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("network", sorted(FEATURE_NETWORKS))
def test_real_weights_tell_a_photo_from_noise(network):
    path = os.environ.get(VARIABLES[network], "")
    if not Path(path).is_file():
        pytest.skip(f"{VARIABLES[network]} names no file of weights")
    from sklearn.datasets import load_sample_image

    deepest = FEATURE_NETWORKS[network].style_layers[-1]
    model = feature_model(network, [deepest], path)
    photo = load_sample_image("china.jpg")[np.newaxis, 100:300, 200:400].astype(np.float32)
    shuffled = np.random.default_rng(0).permutation(photo.reshape(-1, 3)).reshape(photo.shape)
    # The same colours: a network that has learned nothing answers both alike.
    answers = [float(tf.reduce_max(model(one)[deepest])) for one in (photo, shuffled)]
    assert answers[0] > 1.3 * answers[1]
