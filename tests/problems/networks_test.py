import keras
import numpy as np
import pytest

from l2l_tf.problems.networks import ACTIVATIONS, conv_net, mlp, resnet20
from tests.reference.mlp import ACTIVATIONS as REFERENCE_ACTIVATIONS


def _shapes(model: keras.Model) -> list[tuple[int, ...]]:
    return [tuple(variable.shape) for variable in model.trainable_variables]


def test_the_papers_base_network_is_the_default_mlp():
    model = mlp()
    assert model.input_shape == (None, 28, 28, 1)
    assert _shapes(model) == [(784, 20), (20,), (20, 10), (10,)]
    # As counted from the authors' code.
    assert model.count_params() == 15_910
    assert model.name == "mlp20_sigmoid"


def test_an_mlp_has_as_many_units_layers_and_classes_as_asked_for():
    model = mlp((8, 8, 3), units=5, num_layers=2, activation="relu", num_classes=4)
    assert _shapes(model) == [(192, 5), (5,), (5, 5), (5,), (5, 4), (4,)]
    assert model.name == "mlp5x2_relu"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_its_formula(activation):
    model = mlp((2, 3, 1), units=4, num_layers=2, activation=activation, dtype="float64")
    rng = np.random.default_rng(0)
    parameters = [rng.normal(size=shape) for shape in _shapes(model)]
    model.set_weights(parameters)
    # Images come in float32, whatever the dtype of the layers.
    images = rng.random((5, 2, 3, 1), dtype=np.float32)
    values = images.reshape(5, 6).astype(np.float64)
    for layer in (0, 2, 4):
        values = values @ parameters[layer] + parameters[layer + 1]
        if layer < 4:
            values = REFERENCE_ACTIVATIONS[activation][0](values)
    np.testing.assert_allclose(model(images), values, rtol=1e-12)


def test_the_default_conv_net_is_that_of_the_authors_code():
    model = conv_net()
    assert model.input_shape == (None, 32, 32, 3)
    assert _shapes(model) == [
        *((5, 5, 3, 16), (16,), (16,)),
        *((5, 5, 16, 16), (16,), (16,)),
        *((5, 5, 16, 16), (16,), (16,)),
        *((256, 32), (32,), (32,)),
        *((32, 10), (10,)),
    ]
    # As counted from the authors' code.
    assert sum(np.prod(shape) for shape in _shapes(model)) == 22_682


def test_each_layer_of_the_conv_net_is_normalized_before_its_relu():
    kinds = [type(layer).__name__ for layer in conv_net().layers]
    assert kinds == [
        *(["Conv2D", "BatchNormalization", "ReLU", "MaxPooling2D"] * 3),
        *("Flatten", "Dense", "BatchNormalization", "ReLU", "Dense"),
    ]


def test_batch_normalization_of_the_conv_net_scales_if_asked_to():
    model = conv_net(scale_mean=0.25)
    scales = [v for v in model.trainable_variables if v.name == "gamma"]
    assert [tuple(v.shape) for v in scales] == [(16,), (16,), (16,), (32,)]
    np.testing.assert_array_equal(np.concatenate([v.numpy() for v in scales]), 0.25)
    assert sum(np.prod(shape) for shape in _shapes(model)) == 22_682 + 3 * 16 + 32
    # Another network, for those who look up results by name.
    assert model.name == "conv_net_scaled_0.25" != conv_net().name


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_the_conv_net_takes_the_images_of_every_data_set(shape):
    model = conv_net(shape, num_classes=4)
    assert model(np.zeros((2, *shape), np.float32)).shape == (2, 4)


def test_a_residual_network_of_20_layers_has_the_channels_of_its_paper():
    model = resnet20()
    kernels = [shape for shape in _shapes(model) if len(shape) == 4 and shape[0] == 3]
    widths = [(3, 16), *[(16, 16)] * 6, (16, 32), *[(32, 32)] * 5, (32, 64), *[(64, 64)] * 5]
    assert kernels == [(3, 3, *width) for width in widths]
    assert _shapes(model)[-2:] == [(64, 10), (10,)]
    # Convolutions, scales and shifts of each, and the logits. He et al. count .27 million; with
    # their option B the two shortcuts have 16 * 32 + 32 * 64 numbers and four times 32 and 64.
    convolutions = sum(9 * one * other for one, other in widths) + 16 * 32 + 32 * 64
    scales = 2 * sum(other for _, other in widths) + 2 * 32 + 2 * 64
    assert sum(np.prod(shape) for shape in _shapes(model)) == convolutions + scales + 650 == 272_474
    assert model.get_layer("stage_2_block_2_relu").output.shape == (None, 8, 8, 64)


def test_a_residual_block_adds_to_what_it_is_given():
    model = resnet20((8, 8, 1), num_classes=2)
    # With scales of zero in its second normalisation, a block gives what it is given.
    for layer in model.layers:
        if layer.name.endswith("second_normalization"):
            layer.gamma.assign(np.zeros(layer.gamma.shape))
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    first = keras.Model(model.input, model.get_layer("convolution_relu").output)
    third = keras.Model(model.input, model.get_layer("stage_0_block_2_relu").output)
    np.testing.assert_array_equal(first(images), third(images))


@pytest.mark.parametrize("build", [mlp, conv_net, resnet20])
def test_a_network_has_the_same_configuration_each_time(build):
    # Keras numbers layers that have no name; checkpoints are told apart by configurations.
    assert build().get_config() == build().get_config()


@pytest.mark.parametrize("build", [mlp, conv_net, resnet20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_of_a_network_is_of_the_dtype(build, dtype):
    model = build(dtype=dtype)
    computing = [one for one in model.layers if not isinstance(one, keras.layers.InputLayer)]
    assert {layer.compute_dtype for layer in computing} == {dtype}
    assert {variable.dtype for variable in model.variables} == {dtype}


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (
            conv_net,
            {"image_shape": (28, 7, 1)},
            "image_shape must have a height and width of 8 or more, to be halved three times. "
            "Received: image_shape=(28, 7, 1). Take larger images, or an mlp.",
        ),
        (
            resnet20,
            {"image_shape": (3, 8, 1)},
            "image_shape must have a height and width of 4 or more, to be halved twice. "
            "Received: image_shape=(3, 8, 1). Take larger images, or an mlp.",
        ),
    ],
)
def test_images_too_small_to_be_halved_are_refused(build, arguments, message):
    with pytest.raises(ValueError) as raised:
        build(**arguments)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("build", "argument", "value"),
    [
        (mlp, "activation", "softplus"),
        (mlp, "units", 0),
        (mlp, "num_layers", 1.5),
        (mlp, "num_classes", 0),
        (conv_net, "num_classes", -1),
        (resnet20, "num_classes", 0),
    ],
)
def test_an_argument_out_of_range_is_refused(build, argument, value):
    with pytest.raises(ValueError, match=f"^{argument} must"):
        build(**{argument: value})
