"""Training any Keras model on arrays, with minibatches and a loss."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_count, check_instance, check_non_negative, check_positive
from l2l_tf.keras_internals import is_seed_state, sublayers
from l2l_tf.parameter_spec import ParameterSpec
from l2l_tf.problems.problem import Problem
from l2l_tf.problems.seeds import fold_in, integers, normal


class SupervisedProblem(Problem):
    """Training a Keras model on examples; tasks differ in initial parameters and minibatches.

    The parameters are the model's trainable variables, in the model's order. By default they are
    drawn by the model's own initializers. With `initial_stddev` they are drawn from N(0, sigma^2).
    Either way the task's seed determines them, and the model's current values play no part. With
    `initial_stddev`, scales of normalisation layers are drawn around their layer's initial value, 1
    by default (`gamma_initializer`). Around 0, they would all but switch their layer off.

    A minibatch is drawn from all examples with replacement. The loss is the minibatch loss plus the
    model's regularisation losses. The model runs in training mode: batch normalisation uses the
    statistics of the minibatch. Moving averages are not parameters: the loss does not depend on
    them, and their updates are discarded. Layers with random numbers, such as Dropout, draw them
    from the task's seed and the step.

    The model itself is not changed. The examples are captured tensors, of which graphs hold no
    copy.

    Args:
        model: maps the inputs of a minibatch to outputs. It is built for them if necessary.
        inputs: an array `[n, ...]` of any dtype that the model accepts, or a nest of such arrays,
            one for each input of the model.
        targets: likewise, what the outputs are compared with.
        loss: a Keras loss, its name, or a function of targets and outputs. The function returns one
            loss for the minibatch, or one for each example, which are averaged.
        batch_size: B, the number of examples in a minibatch.
        initial_stddev: sigma, the standard deviation of the initial parameters. None uses the
            model's own initializers.
        loss_unit: a typical loss. Meta-training divides losses by it, so that problems of different
            scales count alike in a mixture. Losses that are reported are not divided.
        is_logarithmic: whether meta-training then takes their logarithm (`Problem.normalized`).
        name: the problem's name. The default is the model's name.

    Raises:
        TypeError: the model is not a Keras model, or the loss is not a loss.
        ValueError: there are no examples, the numbers of inputs and targets differ, the model
            rejects the inputs, the loss rejects the model's outputs or is not real, `batch_size` is
            not a positive integer, `initial_stddev` is negative or not finite, `loss_unit` is not
            positive and finite, or a variable's initializer is unknown.
    """

    def __init__(
        self,
        model: keras.Model,
        inputs: Any,
        targets: Any,
        loss: str | Callable[..., Any],
        batch_size: int = 128,
        initial_stddev: float | None = None,
        loss_unit: float = 1.0,
        is_logarithmic: bool = False,
        name: str | None = None,
    ):
        advice = "Wrap layers in keras.Sequential."
        check_instance("model", model, keras.Model, "a keras.Model", advice)
        check_count("batch_size", batch_size, "Give the number of examples in a minibatch.")
        if initial_stddev is not None:
            advice = "Give the standard deviation of the parameters at step 0."
            check_non_negative("initial_stddev", initial_stddev, advice)
        check_positive("loss_unit", loss_unit, "Give the size of a typical loss.")
        self.model = model
        self.batch_size = batch_size
        self.initial_stddev = initial_stddev
        self.loss_unit = loss_unit
        self.is_logarithmic = is_logarithmic
        self.name = name or model.name
        self._loss = _checked_loss(loss)
        self._inputs, self._targets = _tensors(inputs), _tensors(targets)
        self._num_examples = _checked_count(self._inputs, self._targets)
        self._check_outputs()
        # Only known once the model is built.
        self._seed_states = [one for one in model.non_trainable_variables if is_seed_state(one)]
        self._constants = [
            (one, tf.constant(one.numpy()))
            for one in model.non_trainable_variables
            if not is_seed_state(one)
        ]
        self._initial_scales = _initial_scales(model)
        self._initializers = None if initial_stddev is not None else _initializers(model)

    def initial_parameters(self, seed: tf.Tensor) -> list[tf.Tensor]:
        """Returns the initial values of the model's trainable variables."""
        seed = fold_in(seed, 0)
        parameters = []
        for index, variable in enumerate(self.model.trainable_variables):
            own_seed = fold_in(seed, index)
            if self._initializers is not None:
                value = self._initializers[index](own_seed)
            else:
                mean = self._initial_scales.get(variable.path, 0.0)
                value = mean + self.initial_stddev * normal(variable.shape, own_seed)
            parameters.append(tf.cast(value, variable.dtype))
        return parameters

    def batch(self, seed: tf.Tensor, step: tf.Tensor) -> Any:
        """Returns a step's inputs and targets, `[B, ...]`, and a seed for random layers.

        The seed is int32 `[2]`. It is omitted if the model draws no random numbers.
        """
        step_seed = fold_in(fold_in(seed, 1), step)
        indices = integers([self.batch_size], self._num_examples, step_seed)
        examples = tf.nest.map_structure(
            lambda tensor: tf.gather(tensor, indices), (self._inputs, self._targets)
        )
        if not self._seed_states:
            return examples
        return *examples, fold_in(fold_in(seed, 2), step)

    def loss(self, parameters: list[tf.Tensor], batch: Any) -> tf.Tensor:
        """Returns the loss of a minibatch plus penalties, `[1]`."""
        inputs, targets, *seeds = batch
        model = self.model
        values = [*zip(model.trainable_variables, parameters, strict=True), *self._constants]
        for index, state in enumerate(self._seed_states):
            values.append((state, tf.bitcast(fold_in(seeds[0], index), tf.uint32)))
        # Equivalent to `model.stateless_call`, which however calls `model.call` directly. If that
        # has no argument `training`, layers in the model would not receive it.
        with keras.StatelessScope(state_mapping=values, collect_losses=True):
            outputs = model(self._prepared(inputs), training=True)
            penalties = model.losses
        dtype = parameters[0].dtype
        losses = tf.cast(self._loss_of(targets, outputs, dtype), dtype)
        return tf.reshape(tf.reduce_mean(losses) + sum(penalties), [1])

    @property
    def variables(self) -> list[ParameterSpec]:
        """The paths and shapes of the model's trainable variables."""
        return [ParameterSpec(v.path, tuple(v.shape)) for v in self.model.trainable_variables]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with shapes and digest in place of the examples."""
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "examples": self._description_of_examples(),
            "loss": _loss_config(self._loss),
            "batch_size": self.batch_size,
            "initial_stddev": self.initial_stddev,
            "loss_unit": self.loss_unit,
            "is_logarithmic": self.is_logarithmic,
            "name": self.name,
        }

    def _prepared(self, inputs: Any) -> Any:
        """Returns the model's input for a minibatch's inputs."""
        return inputs

    def _loss_of(self, targets: Any, outputs: Any, dtype: tf.DType) -> tf.Tensor:
        """Returns the losses of a minibatch, of any shape."""
        return self._loss(targets, outputs)

    def _description_of_examples(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        tensors = tf.nest.flatten((self._inputs, self._targets))
        for tensor in tensors:
            digest.update(tensor.numpy())
        return {
            "shapes": [list(tensor.shape) for tensor in tensors],
            "dtypes": [tensor.dtype.name for tensor in tensors],
            "sha256": digest.hexdigest(),
        }

    def _check_outputs(self) -> None:
        """Builds the model if necessary, and checks that it fits the examples."""
        inputs, targets = tf.nest.map_structure(lambda one: one[:1], (self._inputs, self._targets))
        model = f"model={self.model.name!r}"
        try:
            outputs = self.model(self._prepared(inputs))
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"model must take the inputs of a minibatch. Received: {model}, which refuses "
                f"inputs of shapes {_shapes(inputs)}. Build it for these inputs, or give others."
            ) from error
        try:
            loss = self._loss_of(targets, outputs, tf.float32)
            is_real = tf.convert_to_tensor(loss).dtype.is_floating
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(
                f"loss must take targets and the model's outputs. Received: {model} with outputs "
                f"of shapes {_shapes(outputs)} and targets of shapes {_shapes(targets)}, which it "
                "refuses. Give another loss, or other targets."
            ) from error
        if not is_real:
            raise ValueError(
                "loss must return floating-point numbers. Received: a loss of dtype "
                f"{loss.dtype.name} from {model}. Give another loss."
            )


class _Initializer:
    """Draws a variable's initial value from a seed, with the layer's initializer.

    Args:
        initializer: the layer's initializer.
        variable: the variable.
    """

    def __init__(self, initializer: Any, variable: keras.Variable):
        config = initializer.get_config()
        self._generator = None
        if "seed" in config:
            # The initializer draws from this generator's state instead of a fixed seed.
            self._generator = keras.random.SeedGenerator(0)
            initializer = type(initializer).from_config(config | {"seed": 0})
            initializer.seed = self._generator
        self._initializer = initializer
        self._shape = tuple(variable.shape)
        self._dtype = variable.dtype

    def __call__(self, seed: tf.Tensor) -> tf.Tensor:
        state = []
        if self._generator is not None:
            state = [(self._generator.state, tf.bitcast(seed, tf.uint32))]
        with keras.StatelessScope(state_mapping=state):
            return tf.convert_to_tensor(self._initializer(self._shape, dtype=self._dtype))


def _initializers(model: keras.Model) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """Returns a function for each trainable variable that draws its initial value from a seed.

    Raises:
        ValueError: a variable's initializer is unknown.
    """
    known = {id(variable): initializer for variable, initializer in _known_initializers(model)}
    drawn: list[Callable[[tf.Tensor], tf.Tensor]] = []
    for variable in model.trainable_variables:
        value = variable.numpy()
        if (initializer := known.get(id(variable))) is not None:
            drawn.append(_Initializer(initializer, variable))
        elif value.ndim < 2 or (value == value.flat[:1]).all():
            # Biases and scales have initial values that don't depend on a seed.
            drawn.append(_constant(value))
        else:
            raise ValueError(
                "A model's variables must have initializers that their layers name, such as "
                f"kernel_initializer. Received: {variable.path!r} without one. Give initial_stddev."
            )
    return drawn


def _known_initializers(model: keras.Model) -> Iterator[tuple[keras.Variable, Any]]:
    for layer in sublayers(model):
        for name, value in vars(layer).items():
            # For `recurrent_kernel` it is called `recurrent_initializer`.
            names = name.strip("_"), name.strip("_").removesuffix("_kernel")
            found = (getattr(layer, f"{one}_initializer", None) for one in names)
            initializer = next(filter(callable, found), None)
            # An LSTM's bias starts at one for forget gates, which its initializer does not know.
            adds_forget_bias = name == "bias" and getattr(layer, "unit_forget_bias", False)
            if isinstance(value, keras.Variable) and initializer and not adds_forget_bias:
                yield value, initializer


def _constant(value: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda seed: tf.constant(value)


def _initial_scales(model: keras.Model) -> dict[str, Any]:
    """Returns the initial scales of normalisation layers, by variable path."""
    scales: dict[str, Any] = {}
    for layer in sublayers(model):
        initializer, gamma = (getattr(layer, one, None) for one in ("gamma_initializer", "gamma"))
        if isinstance(layer, keras.layers.RMSNormalization):
            scales[layer.scale.path] = 1.0
        elif initializer is not None and gamma is not None:
            scales[gamma.path] = initializer(gamma.shape, dtype=gamma.dtype)
    return scales


def _tensors(arrays: Any) -> Any:
    """Returns arrays, or a nest of them, as tensors."""
    # A list of numbers is taken for a nest of scalars by TensorFlow.
    scalars = [one for one in tf.nest.flatten(arrays) if np.ndim(one) == 0]
    if scalars:
        raise ValueError(
            "inputs and targets must be arrays with the examples along the first axis. "
            f"Received: {scalars[0]!r:.60} in place of an array. Convert lists with np.asarray."
        )
    return tf.nest.map_structure(lambda array: tf.constant(np.asarray(array)), arrays)


def _shapes(tensors: Any) -> Any:
    return tf.nest.map_structure(lambda tensor: tuple(tensor.shape), tensors)


def _checked_count(inputs: Any, targets: Any) -> int:
    tensors = tf.nest.flatten((inputs, targets))
    counts = {tensor.shape[0] if tensor.shape.rank else 0 for tensor in tensors}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "inputs and targets must have the same number of examples, at least one. Received: "
            f"inputs of shapes {_shapes(inputs)}, targets of shapes {_shapes(targets)}. Give a "
            "target for each input."
        )
    return counts.pop()


def _checked_loss(loss: Any) -> Callable[..., Any]:
    try:
        found = keras.losses.get(loss)
    except (ValueError, TypeError):
        found = None
    if not callable(found):
        raise TypeError(
            "loss must be a Keras loss, the name of one, or a function of targets and outputs. "
            f"Received: loss={loss!r}. Give, say, 'mean_squared_error'."
        )
    return found


def _loss_config(loss: Any) -> Any:
    """Returns a loss as plain values for JSON; a function is given by its name."""
    if isinstance(loss, keras.losses.Loss):
        return keras.saving.serialize_keras_object(loss)
    return getattr(loss, "__name__", type(loss).__name__)
