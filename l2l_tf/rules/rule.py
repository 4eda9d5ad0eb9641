"""The interface of a rule, and the flat vector in which the engine keeps a task's parameters."""

import abc
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import tensorflow as tf


class StepInfo(NamedTuple):
    """What a rule may know of a step beside the gradient.

    A rule names what it reads in `needs`; the rest may be None.

    Attributes:
        step: int32 `[]`, the number of steps taken before this one.
        losses: the losses at the point where the gradient was taken, one for each function: float
            `[R]`, where R is the product of the rule's batch axes, 1 without any.
        parameters: that point, in the form in which the rule is given the gradient.
    """

    step: Any = None
    losses: Any = None
    parameters: Any = None


NO_INFO = StepInfo()


class FlatLayout:
    """Where each tensor lies in one flat vector of N coordinates.

    Args:
        shapes: the static shapes of the tensors, in order; any rank, zero sizes allowed.
    """

    def __init__(self, shapes: Sequence[Sequence[int]]):
        self.shapes = [tuple(shape) for shape in shapes]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.num_coordinates = sum(self.sizes)

    def flatten(self, tensors: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the tensors, in order and in row-major order each, as one vector `[N]`."""
        return tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)

    def unflatten(self, vector: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors that a vector `[N]` holds."""
        parts = tf.split(vector, self.sizes)
        return [tf.reshape(part, shape) for part, shape in zip(parts, self.shapes, strict=True)]


class BoundRule(abc.ABC):
    """A rule that knows which tensors it updates: all that the engine ever runs.

    It sees gradients, and gives deltas, as one flat vector of the N coordinates of all tensors, one
    after the other (`FlatLayout`), or tensor by tensor (`update`).

    Attributes:
        layout: where the tensors lie in the flat vector, their batch axes included.
        needs: which of `StepInfo` it reads.
        is_replayed: whether a meta-gradient runs it again over stored gradients (`pullback`)
            instead of keeping the tape of an unroll.
        can_be_cut: whether `for_training` can make it one that is.
    """

    is_coordinatewise = False  # It knows where each coordinate stands.
    layout: FlatLayout
    needs: frozenset[str] = frozenset()
    is_replayed: bool = False
    can_be_cut: bool = False

    def __init_subclass__(cls, **arguments: Any):
        super().__init_subclass__(**arguments)
        if unknown := sorted(cls.needs - set(StepInfo._fields)):
            raise TypeError(
                f"needs must name what a step tells: {list(StepInfo._fields)}. "
                f"Received: {unknown} in {cls.__name__}. Correct the names."
            )

    @property
    def num_coordinates(self) -> int:
        """N."""
        return self.layout.num_coordinates

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> "BoundRule":
        """Returns the rule itself, which is bound already.

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
        """The weights of a learned rule; empty for a hand-designed one."""

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
            state: what `initial_state` or the previous call returned.
            info: with `parameters` as a list like `gradients`.
        """
        if info.parameters is not None:
            info = info._replace(parameters=self.layout.flatten(info.parameters))
        delta, state = self(self.layout.flatten(gradients), state, info)
        return self.layout.unflatten(delta), state

    def for_steps(self) -> "BoundRule":
        """Returns the same rule in the form that is fastest for steps without a meta-gradient."""
        return self

    def for_training(self, num_steps: int, chunk_size: int | None = None) -> "BoundRule":
        """Returns the same rule in the form in which meta-training should run it.

        Args:
            num_steps: the steps of an unroll.
            chunk_size: coordinates that are taken at once in the backward pass; None chooses, 0
                keeps the tape of the whole unroll.

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
        """Returns about how much memory the tape of an unroll takes; 0 where it isn't known."""
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

        Only for rules with `is_replayed`.
        That is the sum over t of (du_t/dphi)^T G_t (`l2l_tf.training.meta_gradient`), where the
        u_t are the deltas with which the rule answers the stored gradients.

        Args:
            state: the state before the first step.
            first_gradient: float `[N]`, where the unroll begins.
            gradients: float `[T, N]`, after each of its steps.
            step_weights: float `[T]`, what the loss after each step counts.
            backpropagation_steps: after how many steps the state is a constant; never if None.

        Returns:
            One tensor for each of the rule's trainable weights.
        """
        raise TypeError(
            "pullback must be called on a rule that is replayed (is_replayed). "
            f"Received: {self!r}. Differentiate the tape of its unroll, as meta_gradient does."
        )

    def whole_state(self, state: Any) -> Any:
        """Returns a state in a form that does not depend on how the rule runs, for checkpoints."""
        return state

    def cut_state(self, state: Any) -> Any:
        """Returns a state in the form in which this rule runs, given its `whole_state`."""
        return state


@runtime_checkable
class Rule(Protocol):
    """Decides how far each parameter moves in a step; the delta is *added* to the parameters.

    Most rules are coordinatewise: they inherit `bind` from `l2l_tf.rules.CoordinatewiseRule` and
    have methods of their own. One that looks at whole tensors returns a subclass of
    `l2l_tf.rules.BoundToTensors`.

    Attributes:
        is_coordinatewise: whether each coordinate is updated by the same function of its own
            gradient and state, wherever it stands.
    """

    is_coordinatewise: bool

    def bind(self, variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> BoundRule:
        """Returns the rule for given tensors.

        Args:
            variables: what each tensor is: its static `shape`, and its `path` or `name`.
            batch_shape: axes that stand before each tensor's own, of tasks and functions that have
                nothing to do with each other.
        """


def batched_layout(variables: Sequence[Any], batch_shape: Sequence[int] = ()) -> FlatLayout:
    """Returns the layout of tensors with batch axes before their own."""
    return FlatLayout([(*batch_shape, *variable.shape) for variable in variables])
