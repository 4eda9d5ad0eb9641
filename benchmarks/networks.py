"""The networks that benchmarks optimise: sizes and initial parameters.

Their losses are in `contenders`, once for each framework.
"""

import dataclasses
import itertools

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class MLP:
    """A multilayer perceptron with sigmoid hidden layers and softmax cross-entropy.

    Its parameters are a kernel `[inputs, outputs]` and a bias `[outputs]` for each layer.

    Attributes:
        units: the numbers of inputs, of units in each hidden layer, and of classes.
    """

    units: Shape

    @property
    def input_shape(self) -> Shape:
        return self.units[:1]

    @property
    def num_classes(self) -> int:
        return self.units[-1]

    def initial_parameters(self, random: np.random.Generator) -> list[np.ndarray]:
        parameters = []
        for inputs, outputs in itertools.pairwise(self.units):
            parameters += [scaled_normal(random, (inputs, outputs)), _zeros(outputs)]
        return parameters

    def products(self, batch_size: int) -> list[Shape]:
        """Returns the matrix products of a forward pass, as (rows, inner, columns)."""
        return [(batch_size, *layer) for layer in itertools.pairwise(self.units)]


@dataclasses.dataclass(frozen=True)
class ConvNet:
    """A network like the paper's for CIFAR-10 (Andrychowicz et al. 2016, section 3.3, 1606.04474).

    It has three blocks of 5 x 5 convolution (same padding), batch normalisation, ReLU and 2 x 2 max
    pooling; a dense layer with batch normalisation and ReLU; and a dense layer to the classes.
    Layers with batch normalisation have no bias, because the normalisation would remove it.
    Statistics are those of the batch. `l2l_tf.problems.networks.conv_net` has biases in place of
    scales, and is as large.

    Its parameters are kernel `[5, 5, inputs, channels]`, scale and offset for each block; kernel,
    scale and offset; kernel and bias. By default those are 1,200 + 2 * 6,400 + 3 * 32, 8,192 + 64
    and 330 numbers: 22,682.

    Attributes:
        image_size: width and height of the images, which have 3 channels; a multiple of 8.
        num_channels: channels of each convolution.
        num_units: units of the hidden dense layer.
        num_classes: classes of the output.
    """

    image_size: int = 32
    num_channels: int = 16
    num_units: int = 32
    num_classes: int = 10

    num_blocks = 3
    kernel_size = 5
    # Added to a variance before its root is taken, as in Keras.
    epsilon = 1e-3

    @property
    def input_shape(self) -> Shape:
        return (self.image_size, self.image_size, 3)

    @property
    def num_features(self) -> int:
        """The number of features that the last block gives for one image."""
        return self.num_channels * (self.image_size // 2**self.num_blocks) ** 2

    def initial_parameters(self, random: np.random.Generator) -> list[np.ndarray]:
        window = (self.kernel_size, self.kernel_size)
        kernels: list[Shape] = [(*window, 3, self.num_channels)]
        kernels += [(*window, self.num_channels, self.num_channels)] * (self.num_blocks - 1)
        kernels += [(self.num_features, self.num_units)]
        parameters = []
        for kernel in kernels:
            ones = np.ones(kernel[-1], np.float32)
            parameters += [scaled_normal(random, kernel), ones, _zeros(kernel[-1])]
        output = scaled_normal(random, (self.num_units, self.num_classes))
        return [*parameters, output, _zeros(self.num_classes)]

    def products(self, batch_size: int) -> list[Shape]:
        """Returns the matrix products of a forward pass; a convolution is one over its patches."""
        products = []
        size, depth = self.image_size, 3
        for _ in range(self.num_blocks):
            patch = self.kernel_size**2 * depth
            products.append((batch_size * size**2, patch, self.num_channels))
            size, depth = size // 2, self.num_channels
        products.append((batch_size, self.num_features, self.num_units))
        return [*products, (batch_size, self.num_units, self.num_classes)]


Network = MLP | ConvNet


def scaled_normal(random: np.random.Generator, shape: Shape) -> np.ndarray:
    """Returns a float32 kernel of variance 1 / (inputs of one output)."""
    deviation = np.sqrt(1 / np.prod(shape[:-1])).astype(np.float32)
    return deviation * random.standard_normal(shape, np.float32)


def _zeros(size: int) -> np.ndarray:
    return np.zeros(size, np.float32)
