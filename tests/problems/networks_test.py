import keras
import numpy as np
import pytest

from l2l_tf.problems.networks import ACTIVATIONS, conv_net, mlp
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


def test_the_papers_network_for_cifar10_is_the_default_conv_net():
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


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3)])
def test_the_conv_net_takes_the_images_of_every_data_set(shape):
    model = conv_net(shape, num_classes=4)
    assert model(np.zeros((2, *shape), np.float32)).shape == (2, 4)


@pytest.mark.parametrize("build", [mlp, conv_net])
def test_a_network_has_the_same_configuration_each_time(build):
    # Keras numbers layers that have no name; checkpoints are told apart by configurations.
    assert build().get_config() == build().get_config()


@pytest.mark.parametrize("build", [mlp, conv_net])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_all_of_a_network_is_of_the_dtype(build, dtype):
    model = build(dtype=dtype)
    assert {layer.compute_dtype for layer in model.layers} == {dtype}
    assert {variable.dtype for variable in model.variables} == {dtype}


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (
            mlp,
            {"activation": "softplus"},
            "activation must be one of ['elu', 'relu', 'sigmoid', 'tanh']. "
            "Received: activation='softplus'. Choose one of them.",
        ),
        (
            mlp,
            {"units": 0},
            "units must be an integer from 1 on. Received: units=0. Give a positive count.",
        ),
        (
            mlp,
            {"num_layers": 1.5},
            "num_layers must be an integer from 1 on. Received: num_layers=1.5. "
            "Give a positive count.",
        ),
        (
            conv_net,
            {"num_classes": -1},
            "num_classes must be an integer from 1 on. Received: num_classes=-1. "
            "Give a positive count.",
        ),
        (
            conv_net,
            {"image_shape": (28, 7, 1)},
            "image_shape must have a height and width of 8 or more, to be halved three times. "
            "Received: image_shape=(28, 7, 1). Take larger images, or an mlp.",
        ),
    ],
)
def test_an_argument_out_of_range_is_refused(build, arguments, message):
    with pytest.raises(ValueError) as raised:
        build(**arguments)
    assert str(raised.value) == message
