"""The interface of rules, and the flat vector that holds a task's parameters."""

import abc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import tensorflow as tf


class StepInfo(NamedTuple):
    """Information about a step that a rule may use besides the gradient.

    A rule names the fields that it reads in `needs`. The others may be None.

    Attributes:
        step: int32 `[]`, the number of steps taken before this one.
        losses: the losses of all functions at the point where the gradient was taken: float `[R]`,
            where R is the product of the rule's batch axes, or 1 if it has none.
        parameters: that point, in the same form as the gradient.
        num_steps: the number of steps of the whole trajectory: int32 `[]`, or an integer.
        age: the number of steps since the rule's state was new, if that is not `step`: where a
            guard has made it anew. int32 `[]`, or one for each batch entry, `[...]`. It is told
            with `step`.
    """

    step: Any = None
    losses: Any = None
    parameters: Any = None
    num_steps: Any = None
    age: Any = None

    @property
    def known_age(self) -> Any:
        """The number of steps since the rule's state was new."""
        return self.step if self.age is None else self.age


NO_INFO = StepInfo()
"""Nothing about a step, for rules that need only gradients."""


class FlatLayout:
    """The position of each tensor in one flat vector of N coordinates.

    Args:
        shapes: the static shapes of the tensors, in order. Any rank and zero sizes are allowed.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]):
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.num_coordinates = sum(self.sizes)

    def flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the tensors, in order and each in row-major order, as one vector `[N]`."""
        return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors held in a vector `[N]`."""
        parts = tf.split(vector, self.sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


class BoundRule(abc.ABC):
    """A rule that knows which tensors it updates. The engine runs only bound rules.

    It takes gradients and returns deltas as one flat vector of the N coordinates of all tensors, in
    order (`FlatLayout`), or tensor by tensor (`update`).

    Attributes:
        layout: the positions of the tensors in the flat vector, including their batch axes.
        needs: the fields of `StepInfo` that it reads.
        is_replayed: whether a meta-gradient runs the rule again over stored gradients (`pullback`)
            instead of keeping the tape of an unroll.
        can_be_cut: whether `for_training` can return a rule that is replayed.
        needs_one_function: whether it compares the losses of successive steps, which must then be
            those of one function, not of minibatches.
    """

    is_coordinatewise = False  # It knows the position of each coordinate.
    layout: FlatLayout
    needs: frozenset[str] = frozenset()
    is_replayed: bool = False
    can_be_cut: bool = False
    needs_one_function: bool = False

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        # The age comes with the step.
        known = [name for name in StepInfo._fields if name != "age"]
        if unknown := sorted(cls.needs - set(known)):
            raise TypeError(
                f"needs must name what a step tells: {known}. "
                f"Received: {unknown} in {cls.__name__}. Correct the names."
            )

    @property
    def num_coordinates(self) -> int:
        """N."""
        return self.layout.num_coordinates

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundRule":
        """Returns the rule itself, which is already bound.

        Raises:
            ValueError: it is bound to tensors of other shapes.
        """
        shapes = batched_layout(variables, batch_shape).shapes
        if shapes != self.layout.shapes:
            raise ValueError(
                "A bound rule must be run on the tensors that it was bound to. "
                f"Received: tensors of shapes {shapes} for a rule bound to {self.layout.shapes}. "
                "Bind the rule itself to them."
            )
        return self

    @property
    @abc.abstractmethod
    def trainable_variables(self) -> list[Any]:
        """The weights of a learned rule. Empty for a hand-designed rule."""

    @abc.abstractmethod
    def initial_state(self) -> Any:
        """Returns the state before the first step: a nest of tensors."""

    @abc.abstractmethod
    def __call__(
        self, gradient: tf.Tensor, state: Any, info: StepInfo = NO_INFO
    ) -> tuple[tf.Tensor, Any]:
        """Returns the delta, float `[N]`, for a gradient, float `[N]`, and the next state."""

    def update(
        self, gradients: Sequence[tf.Tensor], state: Any, info: StepInfo = NO_INFO
    ) -> tuple[list[tf.Tensor], Any]:
        """Returns the deltas of the tensors for their gradients, and the next state.

        Args:
            gradients: one for each tensor, float, with its batch axes and shape.
            state: the state returned by `initial_state` or by the previous call.
            info: as in a call, but with `parameters` as a list like `gradients`.
        """
        if info.parameters is not None:
            info = info._replace(parameters=self.layout.flatten(info.parameters))
        delta, state = self(self.layout.flatten(gradients), state, info)
        return self.layout.unflatten(delta), state

    def for_steps(self) -> "BoundRule":
        """Returns the rule in the form that is fastest for forward steps (not for training)."""
        return self

    def for_training(self, num_steps: int, chunk_size: int | None = None) -> "BoundRule":
        """Returns the rule in the form that meta-training should run.

        Args:
            num_steps: the number of steps in an unroll.
            chunk_size: the number of coordinates to process at once in the backward pass. None
                chooses it; 0 keeps the tape of the whole unroll.

        Raises:
            ValueError: `chunk_size` is positive, and the rule can't be cut into chunks.
        """
        if chunk_size:
            raise ValueError(
                "chunk_size must be None or 0 for a rule that is not coordinatewise. "
                f"Received: chunk_size={chunk_size} with {self!r}. Leave it out."
            )
        return self

    def tape_bytes(self, num_steps: int) -> int:
        """Returns the approximate memory of an unroll's tape, or 0 if it is unknown."""
        return 0

    def pullback(
        self,
        state: Any,
        first_gradient: tf.Tensor,
        gradients: tf.Tensor,
        step_weights: tf.Tensor,
        backpropagation_steps: int | None = None,
    ) -> list[tf.Tensor]:
        """Returns the gradient of an unroll's loss with respect to the rule's weights.

        Only available for rules with `is_replayed`.
        The gradient is the sum over t of (du_t/dphi)^T G_t (`l2l_tf.training.meta_gradient`). The
        u_t are the rule's deltas for the stored gradients.

        Args:
            state: the state before the first step.
            first_gradient: float `[N]`, at the start of the unroll.
            gradients: float `[T, N]`, after each of its steps.
            step_weights: float `[T]`, the weight of the loss after each step.
            backpropagation_steps: the interval, in steps, at which the state is detached. None
                never detaches it.

        Returns:
            One tensor for each of the rule's trainable weights.

        Raises:
            TypeError: the rule is not replayed.
        """
        raise TypeError(
            "pullback must be called on a rule that is replayed (is_replayed). "
            f"Received: {self!r}. Differentiate the tape of its unroll, as meta_gradient does."
        )

    def restarted_state(self, state: Any) -> Any:
        """Returns the state from which a rule that has gone wrong starts anew.

        By default it is the initial one. A rule may keep what it could not measure again.

        Args:
            state: the state before, which need not be finite.
        """
        return self.initial_state()

    def whole_state(self, state: Any) -> Any:
        """Returns a state in a form independent of how the rule runs, for checkpoints."""
        return state

    def cut_state(self, state: Any) -> Any:
        """Converts a `whole_state` to the form in which this rule runs."""
        return state


@runtime_checkable
class Rule(Protocol):
    """Decides how far each parameter moves in a step. The delta is *added* to the parameters.

    Most rules are coordinatewise. They inherit `bind` from `l2l_tf.rules.CoordinatewiseRule` and
    implement two methods of their own. A rule that looks at whole tensors returns a subclass of
    `l2l_tf.rules.BoundToTensors`.

    Attributes:
        is_coordinatewise: whether each coordinate is updated by the same function of its own
            gradient and state, independent of its position.
    """

    is_coordinatewise: bool

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundRule:
        """Returns the rule bound to given tensors.

        Args:
            variables: descriptions of the tensors, each with a static `shape` and a `path` or
                `name`.
            batch_shape: leading axes for independent tasks and functions, not part of each tensor's
                own shape.
        """


def batched_layout(variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> FlatLayout:
    """Returns the layout of tensors with leading batch axes."""
    return FlatLayout([(*batch_shape, *variable.shape) for variable in variables])
