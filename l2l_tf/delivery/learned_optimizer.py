"""A rule as an ordinary Keras optimizer."""

import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from l2l_tf.checks import check_count, check_one_of
from l2l_tf.delivery.assignment import Assignment, assign
from l2l_tf.delivery.gradient_history import GradientHistory, limit_after, note_step
from l2l_tf.delivery.group import Group
from l2l_tf.delivery.guarded_group import GuardedGroup, GuardVariables
from l2l_tf.delivery.horizon import Horizon
from l2l_tf.delivery.joint_update import Part, dense, update_jointly
from l2l_tf.delivery.optimizer_arguments import (
    check_backend,
    check_flag,
    check_numbers,
    check_variables,
    checked_rules,
    guard_settings,
)
from l2l_tf.delivery.plan import Options, Plan
from l2l_tf.delivery.pretrained import find_rule, load_rule, use_of
from l2l_tf.delivery.rule_config import (
    RuleLayers,
    copy_rule,
    route_to_config,
    rule_to_config,
    rules_from_config,
    rules_to_bytes,
)
from l2l_tf.delivery.saved_state import (
    ASSIGNMENT,
    HISTORY,
    LAYOUT,
    NUM_STEPS,
    RULES,
    PendingState,
    SavedState,
    check_weights,
    left_out,
    mismatch,
)
from l2l_tf.delivery.use import RuleUse
from l2l_tf.keras_internals import JointOptimizer
from l2l_tf.rules.execution.chunks import CHUNK_SIZE
from l2l_tf.rules.guards.guarded import Guarded, guarded
from l2l_tf.rules.routing import Route, assign_routes
from l2l_tf.rules.rule import Rule

NAN_POLICIES = ("skip", "raise")
STATE_DTYPES = ("bfloat16", "float32")

_NOT_FINITE = "Gradients, deltas and the state of the rule must be finite."
_MEND = "Mend the data or lower the learning rate, or go on without such steps: nan_policy='skip'."


def load(
    name_or_path: str | Path, replay: bool = True, guard: Any = None, **optimizer_arguments: Any
) -> "LearnedOptimizer":
    """Returns a Keras optimizer around a saved rule.

        model.compile(optimizer=l2l_tf.load("mnist_rnnprop"), loss="mse")

    The rule `general` must know how long training is: give `num_steps`, or pass
    `l2l_tf.NumStepsFromFit` to `fit`. Without either, the first step raises ValueError.

        optimizer = l2l_tf.load("general", num_steps=epochs * steps_per_epoch)

    If the model's variables show that the rule is not meant for it (`l2l_tf.list_rules`), the
    optimizer issues a one-line warning once, before training begins.

    Args:
        name_or_path: the name of a shipped rule (`l2l_tf.list_rules`), or the folder of a saved
            rule.
        replay: whether to check first that the rule reproduces the golden trajectory of its card.
        guard: keeps the rule near a hand-designed one (docs/guarantees.md): that rule, such as
            `l2l_tf.rules.Adam(0.001)`, or a dictionary of the arguments of `l2l_tf.rules.guarded`
            after the first. None leaves the rule alone.
        **optimizer_arguments: the arguments of `LearnedOptimizer` other than the rule.

    Raises:
        FileNotFoundError: there is no such rule.
        TypeError: the guard is no rule, or the saved rule has one already.
        ValueError: the saved rule is damaged, or an argument is out of range.
        RuntimeError: Keras's backend is not TensorFlow.
    """
    check_backend()
    check_flag("replay", replay)
    settings = None if guard is None else guard_settings(guard)
    path = find_rule(name_or_path)
    rule: Rule = load_rule(path, replay=replay)
    if settings is not None:
        rule = guarded(rule, **settings)
    optimizer = LearnedOptimizer(rule, **optimizer_arguments)
    optimizer._hidden.use = path.name, use_of(path)
    return optimizer


@keras.saving.register_keras_serializable(package="l2l_tf")
class LearnedOptimizer(JointOptimizer):
    """A Keras optimizer that updates all variables of a model by a rule, in one call.

    The rule computes the deltas of all variables from their gradients, in its own precision. The
    optimizer adds `learning_rate` times the deltas to the variables.
    Everything that Keras optimizers do around an update (clipping, decoupled weight decay, averages
    of weights, gradient accumulation, loss scaling, constraints, distribution) is Keras's own or
    equivalent to it.

    The rule's weights are copied: the optimizer never changes the rule that it is given. The
    weights are part of `get_config`. A configuration alone therefore recreates the same optimizer
    anywhere, and a `.keras` file depends on no other file. They are also part of weights files and
    checkpoints, which hold no configuration. A restored state thus continues with the rule that
    produced it. The weights are not trainable, and are never among the variables of the model or
    the optimizer.

    A step with a finite gradient far beyond all earlier ones is skipped, as is one with a NaN, for
    any rule. The limit is 100 times the largest of recent steps, or 100 for the first step
    (`l2l_tf.delivery.gradient_history` has the details, and how a lasting change is accepted).
    Otherwise the state after a gradient of 1e30 would affect thousands of steps, and momentum would
    carry the parameters away for good.

    A variable whose gradient is None does not change, nor does its state. Sparse gradients
    (`tf.IndexedSlices`) are made dense, since a rule with memory also moves where gradients are
    zero.

    Args:
        rule: the rule for all variables that match no route. If it has parts
            (`l2l_tf.rules.RoutedRule`), its own routes come after those given here.
        routes: rules for some of the variables (`l2l_tf.rules.Route`). If several match a variable,
            the first one wins.
        learning_rate: the factor for deltas: a float, schedule or callable. A learned rule chooses
            its own step sizes, so the default is 1.0.
        nan_policy: how to handle a step in which a gradient, a delta, the rule's next state or a
            new parameter is not finite. Parameters and the rule's state never change in such a
            step. With "skip", `num_skipped_steps` counts it and training continues. With "raise",
            training ends with `tf.errors.InvalidArgumentError`. It is raised at once, except under
            XLA, whose programs can't raise: there it is raised at the end of `fit`
            (`finalize_variable_values`).
        state_dtype: "float32", or "bfloat16" to store the state of coordinatewise rules in half the
            memory. Values are then rounded at random, seeded by the number of steps taken, so
            that a resumed run continues bit for bit as if it had not stopped. The rule always
            computes in its own dtype.
        chunk_size: the number of coordinates that a learned rule processes at once on large models.
            It bounds the memory that a step needs in addition to the state. None chooses it; 0
            processes all at once.
        num_steps: the number of steps of the whole training, epochs times steps per epoch, for
            rules that must know it, such as `l2l_tf.rules.GeneralRule`. Skipped steps don't count.
            It is part of the saved state. Other rules ignore it. None leaves it to
            `l2l_tf.NumStepsFromFit`, or to the attribute of the same name.
        **keras_arguments: the arguments of every Keras optimizer: `name`, `weight_decay`,
            `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`,
            `ema_overwrite_frequency`, `loss_scale_factor`, `gradient_accumulation_steps`. As in
            Keras, weight decay subtracts `learning_rate * weight_decay` of each variable at each
            step. With a learning rate of 1.0, this is a thousand times as much as with Adam's usual
            0.001.

    Attributes:
        num_steps: as given, or None if it is not known. It may be set at any time.
        num_taken_steps: the number of updates so far that were not skipped.
        num_skipped_steps: int64 variable `[]`: the number of steps skipped so far, either because
            something was not finite or because a gradient was far beyond earlier ones.
        num_outlier_steps: int64 variable `[]`: the number of those skipped for the latter reason.
        num_guarded_steps: the number of steps so far in which a guard has cut a delta
            (`l2l_tf.rules.Guarded`). Of several guarded rules, each counts its own.
        mean_cut_share: the share of the rule's difference from the fallback that the guard has cut,
            in the mean over all steps, and over guarded rules. Zero without a guard.

    Raises:
        TypeError: `rule` is not a rule, or `routes` is not a list of routes.
        ValueError: an argument is out of range.
        RuntimeError: Keras's backend is not TensorFlow.
    """

    built: bool

    def __init__(
        self,
        rule: Rule,
        routes: Sequence[Route] = (),
        learning_rate: Any = 1.0,
        nan_policy: str = "skip",
        state_dtype: str = "float32",
        chunk_size: int | None = None,
        num_steps: int | None = None,
        **keras_arguments: Any,
    ):
        check_backend()
        rule, routes = checked_rules(rule, routes)
        check_one_of("nan_policy", nan_policy, NAN_POLICIES)
        check_one_of("state_dtype", state_dtype, STATE_DTYPES)
        if chunk_size is not None:
            check_count("chunk_size", chunk_size, "Leave it out to have it chosen.", minimum=0)
        check_numbers(keras_arguments)
        # Keras itself checks other types.
        if isinstance(learning_rate, int) and not isinstance(learning_rate, bool):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, **keras_arguments)
        self.nan_policy = nan_policy
        self.state_dtype = state_dtype
        self.chunk_size = chunk_size
        own_rule = copy_rule(rule)
        own_routes = [dataclasses.replace(one, rule=copy_rule(one.rule)) for one in routes]
        self._hidden = _Hidden(own_rule, own_routes, Horizon(num_steps))
        # An attribute, so that tf.train.Checkpoint saves it.
        self._rule_layers = RuleLayers([own_rule, *(one.rule for one in own_routes)])
        self._gradient_history = GradientHistory()
        self.num_skipped_steps = self.add_variable(
            shape=(), dtype="int64", aggregation="only_first_replica", name="num_skipped_steps"
        )

    def build(self, variables: Sequence[Any]) -> None:
        if self.built:
            return
        hidden, variables = self._hidden, list(variables)
        if hidden.failure is not None:
            raise RuntimeError(
                "An optimizer whose build has failed can't be used. "
                f"Received: {self.name!r}, which failed with {hidden.failure!r:.200}. Make a new "
                "one with the same arguments."
            ) from hidden.failure
        check_variables(variables)
        is_new = hidden.pending is None
        plan = self._plan(variables)
        if hidden.pending is not None and not hidden.pending.saved.is_for(plan, self._own_shapes()):
            self._forget_pending()
            warnings.warn(left_out(self.name), stacklevel=2)
        hidden.plan = plan
        try:
            # The attributes that Keras sets here hold the model's variables, which are not the
            # optimizer's.
            super().build(variables)
            for index, group in enumerate(plan.groups):
                group.add_state(self.add_variable, f"state_{index}")
        except BaseException as error:
            # With only half of its variables, it would appear to work.
            self.built = False
            hidden.failure, hidden.plan = error, None
            raise
        hidden.pending = None
        if self._needs_num_steps:
            # An attribute, so that tf.train.Checkpoint saves it.
            self._num_steps_variable = hidden.horizon.variable
        if is_new:
            self._warn_outside_use(variables)

    def _warn_outside_use(self, variables: Sequence[Any]) -> None:
        """Warns if the loaded rule is not meant for variables that are yet to be trained."""
        name, use = self._hidden.use
        is_on_one_of_several = (
            tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        )
        if use is None or is_on_one_of_several:
            return
        # Keras may build an optimizer while it traces a step. Values must be read outside the
        # trace.
        with tf.init_scope():
            if tf.executing_eagerly():
                values = [keras.ops.convert_to_numpy(variable) for variable in variables]
                if warning := use.warning(name, values):
                    # Without a source line, since one of this module would tell users nothing.
                    warnings.warn_explicit(warning, UserWarning, "l2l_tf", 1)

    def add_variable(self, shape: Any, *arguments: Any, **named_arguments: Any) -> Any:
        """Creates a variable of the optimizer, initialised from a pending state if there is one."""
        if self._hidden.pending is not None:
            value = self._hidden.pending.saved.values[str(len(self.variables))]
            # Where Keras builds an optimizer, assignments may be lost, but initial values are not.
            named_arguments["initializer"] = lambda shape, dtype=None: tf.constant(value, dtype)
        return super().add_variable(shape, *arguments, **named_arguments)

    def _plan(self, variables: Sequence[Any]) -> Plan:
        """Returns the plan for a model's variables."""
        hidden = self._hidden
        updated = [
            position
            for position, variable in enumerate(variables)
            if not self.is_overwritten(variable)
        ]
        assignment = assign(
            hidden.routes,
            [variables[position] for position in updated],
            [hidden.pending.assignment if hidden.pending else None, hidden.remembered],
        )
        shapes = [tuple(variable.shape) for variable in variables]
        return Plan(hidden.rules, assignment, shapes, updated, self._options())

    def _options(self) -> Options:
        return Options(
            chunk_size=CHUNK_SIZE if self.chunk_size is None else self.chunk_size,
            state_dtype=None if self.state_dtype == "float32" else self.state_dtype,
            are_averaged=bool(self.use_ema),
            are_accumulated=bool(self.gradient_accumulation_steps),
        )

    def _own_shapes(self) -> list[tuple[str, tuple[int, ...]]]:
        """Returns the names and shapes of the optimizer's existing variables."""
        return [(variable.name, tuple(variable.shape)) for variable in self.variables]

    def rule_for(self, variable: Any) -> Rule:
        """Returns the rule that updates a variable of the model, as the optimizer's own copy."""
        if self._hidden.plan and self.is_built_with(variable):
            route = self._hidden.plan.route_of.get(self.index_of(variable))
        else:
            (route,) = assign_routes(self._hidden.routes, [variable])
        return self._hidden.rules[0 if route is None else route + 1]

    # One step

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        if trainable_variables is not None:
            trainable_variables = list(trainable_variables)
        variables = trainable_variables or self.built_variables
        if not self.built:
            check_variables(variables)
        # If the numbers differ, Keras raises an error.
        if len(grads) == len(variables):
            grads = [
                dense(gradient, variable)
                for gradient, variable in zip(grads, variables, strict=True)
            ]
        super().apply(grads, trainable_variables)

    def update_on_devices(
        self,
        strategy: tf.distribute.Strategy,
        gradients: list[Any],
        variables: list[Any],
        learning_rate: Any,
    ) -> None:
        positions = [self.index_of(variable) for variable in variables]
        decays = [
            self.weight_decay if self.is_decayed(variable) else None for variable in variables
        ]

        horizon = self._hidden.horizon
        if self._needs_num_steps:
            horizon.check()
        num_accumulated = self.gradient_accumulation_steps or 1
        states = [group.state for group in self._groups()]
        of_devices = strategy.experimental_local_results(variables[0])

        def update(anchor: tf.Variable, gradients: list[Any], learning_rate: Any) -> None:
            # Inside loops and branches, TensorFlow no longer knows which device it is updating.
            device = next(i for i, one in enumerate(of_devices) if one is anchor)
            own_variables, own_states, counts, history = tf.nest.map_structure(
                lambda variable: strategy.experimental_local_results(variable)[device],
                (
                    variables,
                    states,
                    (self.step_count, self.num_skipped_steps.value, horizon.variable.value),
                    self._gradient_history.values,
                ),
            )
            step_count, num_skipped_steps, num_steps = counts
            num_taken = tf.cast(step_count // num_accumulated - num_skipped_steps, tf.int32)
            num_steps = tf.cast(num_steps, tf.int32)
            if self._needs_num_steps and device == 0:
                horizon.tell_at_the_end(num_taken, num_steps)
            given = zip(positions, own_variables, gradients, decays, strict=True)
            parts = {position: Part(*part) for position, *part in given}
            groups = list(zip(self._groups(), own_states, strict=True))
            limit = limit_after(history)
            outcome = update_jointly(groups, parts, learning_rate, limit, num_taken, num_steps)
            note_step(history, outcome.size, outcome.is_taken, outcome.is_outlier)
            must_hold = []
            if self.nan_policy == "raise":
                # XLA omits the assertion. Elsewhere, a step that raises is not counted, as it is
                # reported.
                is_finite = outcome.is_taken | outcome.is_outlier
                must_hold.append(tf.debugging.Assert(is_finite, [_NOT_FINITE, _MEND]))
            # In eager mode, an assertion that holds returns None.
            with tf.control_dependencies([one for one in must_hold if one is not None]):
                num_skipped_steps.assign_add(tf.cast(~outcome.is_taken, tf.int64))

        strategy.extended.update(variables[0], update, args=(gradients, learning_rate), group=False)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        super().finalize_variable_values(var_list)
        if self._needs_num_steps:
            self._hidden.horizon.warn_after(self.num_taken_steps)
        if self.nan_policy != "raise":
            return
        num_new = self._num_not_finite() - self._hidden.num_reported
        self._note_reported_steps()
        if num_new > 0:
            raise tf.errors.InvalidArgumentError(
                None, None, f"{_NOT_FINITE} Received: {num_new} steps with what is not. {_MEND}"
            )

    def _note_reported_steps(self) -> None:
        """Marks the steps skipped so far as reported, so that only later ones raise an error."""
        self._hidden.num_reported = self._num_not_finite()

    def _num_not_finite(self) -> int:
        """Returns the number of steps skipped because something was not finite."""
        return int(self.num_skipped_steps.numpy()) - int(self.num_outlier_steps.numpy())

    @property
    def num_outlier_steps(self) -> Any:
        """The number of steps skipped because of a finite gradient far beyond earlier ones."""
        return self._gradient_history.num_outliers

    @property
    def num_steps(self) -> int | None:
        """The number of steps of the whole training, or None if it is not known."""
        return self._hidden.horizon.num_steps

    @num_steps.setter
    def num_steps(self, num_steps: int | None) -> None:
        self._hidden.horizon.num_steps = num_steps

    @property
    def num_taken_steps(self) -> int:
        """The number of updates so far that were not skipped."""
        return int(self.iterations.numpy()) - int(self.num_skipped_steps.numpy())

    @property
    def num_guarded_steps(self) -> int:
        """The number of steps in which a guard has cut a delta."""
        return sum(int(guard.num_guarded.numpy()) for guard in self._guards())

    @property
    def mean_cut_share(self) -> float:
        """The share of the rule's difference from the fallback that the guard has cut."""
        shares = [float(guard.mean_share.numpy()) for guard in self._guards()]
        return sum(shares) / max(1, len(shares))

    @property
    def is_guarded(self) -> bool:
        """Whether any of the rules is inside a guard."""
        return any(isinstance(rule, Guarded) for rule in self._hidden.rules)

    def hand_over(self, num_steps: int) -> None:
        """Has the fallbacks of guarded rules alone take the next steps, all from a new state.

        Args:
            num_steps: the number of steps.

        Raises:
            ValueError: no rule is inside a guard, the optimizer is not built, or the number is no
                positive integer.
        """
        check_count("num_steps", num_steps, "Give the number of steps for the fallback.")
        if not self.is_guarded:
            raise ValueError(
                "An optimizer must have a guard to hand over to its fallback. "
                f"Received: {self.name!r} without one. Load its rule with guard=."
            )
        if not self.built:
            raise ValueError(
                "An optimizer must be built to hand over to its fallback. "
                f"Received: {self.name!r} before its first step. Build it for the variables first."
            )
        for group in self._groups():
            if isinstance(group, GuardedGroup):
                group.hand_over(self.num_taken_steps, num_steps)

    def _guards(self) -> list[GuardVariables]:
        """Returns the variables of each guard, or an empty list before `build`."""
        groups = [group for group in self._groups() if isinstance(group, GuardedGroup)]
        return [group.guard for group in groups if group.guard is not None]

    @property
    def _needs_num_steps(self) -> bool:
        return any(group.needs_num_steps for group in self._groups())

    # Configuration and state

    def get_config(self) -> dict[str, Any]:
        config = super().get_config() | {
            "rule": rule_to_config(self._hidden.rule),
            "routes": [route_to_config(route) for route in self._hidden.routes],
            "nan_policy": self.nan_policy,
            "state_dtype": self.state_dtype,
            "chunk_size": self.chunk_size,
            "num_steps": self.num_steps,
        }
        plan = self._hidden.plan
        assignment = plan.assignment if plan else self._hidden.remembered
        if self._hidden.routes and assignment is not None:
            config["assignment"] = assignment.to_config()
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "LearnedOptimizer":
        # A new scope would replace an outer one, within which Keras may have called this.
        scope = (
            keras.saving.custom_object_scope(custom_objects) if custom_objects else nullcontext()
        )
        with scope:
            rebuilt = rules_from_config(config)
        assignment = config.get("assignment")
        arguments = {key: value for key, value in config.items() if key != "assignment"}
        optimizer = super().from_config(arguments | rebuilt, custom_objects)
        if assignment is not None:
            num_routes = len(optimizer._hidden.routes)
            optimizer._hidden.remembered = Assignment.from_config(assignment, num_routes)
        return optimizer

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for name, weight in self._rule_layers.named_weights().items():
            store[name] = weight.numpy()
        store[HISTORY] = self._gradient_history.numbers()
        if self.num_steps is not None:
            store[NUM_STEPS] = np.array(self.num_steps)
        store[RULES] = rules_to_bytes(self._hidden.rules)
        plan = self._hidden.plan
        store[LAYOUT] = plan.layout if plan else np.zeros([0], np.int64)
        if plan:
            store[ASSIGNMENT] = plan.assignment.to_bytes(self._hidden.routes)

    def load_own_variables(self, store: Any) -> None:
        """Restores a saved state, including the weights of the rules that produced it.

        Before `build`, the saved values become the initial values of variables that are yet to be
        created. If `build` then gets other variables than those that the state was saved for, the
        state is dropped with a warning. An optimizer that is already built for another number of
        variables ignores the state, with a warning.

        Raises:
            ValueError: the state is that of another optimizer or for other variables. Nothing is
                changed.
        """
        saved = SavedState(store, self.name)
        if not saved.values:
            warnings.warn(
                f"The file holds no state of the optimizer {self.name!r}, which stays as it is.",
                stacklevel=2,
            )
            return
        weights = self._rule_layers.named_weights()
        saved.check_rules(rules_to_bytes(self._hidden.rules), weights)
        history, num_steps = saved.history, saved.num_steps
        pending = PendingState(saved, None, self._hidden.num_reported)
        if not saved.was_built:
            own = [variable is self.num_skipped_steps for variable in self.variables].index(True)
            saved.check_count(own + 1)
            # If no step was taken, everything that `build` has created still has its initial value.
            if self.built and int(self.iterations.numpy()):
                what = "was saved before it was built, for one that has taken steps"
                raise mismatch(self.name, what)
        elif self._hidden.plan:
            if len(saved.grouped) != len(self._hidden.plan.grouped):
                warnings.warn(left_out(self.name), stacklevel=2)
                return
            saved.check_shapes(self._own_shapes())
            if saved.grouped != self._hidden.plan.grouped:
                raise mismatch(self.name, "is for variables of other shapes, or in another order")
        else:
            assignment, was_asked = saved.assignment(self._hidden.routes)
            if assignment is not None:
                plan = saved.plan(self._hidden.rules, assignment, self._options())
                saved.check_shapes(plan.shapes_beside(self._own_shapes()))
            pending.assignment = assignment if was_asked else None
        self._forget_pending()
        pending.num_reported = self._hidden.num_reported
        for index, variable in enumerate(self.variables):
            if str(index) in saved.values:
                pending.replace(variable, saved.values[str(index)])
        for name, weight in weights.items():
            pending.replace(weight, saved.values[name])
        for variable, number in zip(self._gradient_history.keras_variables, history, strict=True):
            pending.replace(variable, number)
        if num_steps is not None:
            pending.replace(self._hidden.horizon.variable, num_steps)
        self._note_reported_steps()
        if saved.was_built and not self.built:
            self._hidden.pending = pending

    def _forget_pending(self) -> None:
        """Undoes all changes that a state loaded before `build` has made."""
        pending, self._hidden.pending = self._hidden.pending, None
        if pending is not None:
            pending.put_back(self.strategy)
            self._hidden.num_reported = pending.num_reported

    def set_weights(self, weights: Sequence[Any]) -> None:
        weights = [keras.ops.convert_to_numpy(weight) for weight in weights]
        if self.built:
            check_weights(self.name, weights, self.variables)
        super().set_weights(weights)
        self._note_reported_steps()

    def _groups(self) -> list[Group]:
        """Returns the groups of variables, or an empty list before `build`."""
        return self._hidden.plan.groups if self._hidden.plan else []


class _Hidden:
    """Attributes hidden from Keras's and TensorFlow's variable tracking.

    Attributes:
        rule: the optimizer's own copy of its rule.
        routes: the routes, with the optimizer's own copies of their rules.
        rules: the rule, followed by those of the routes.
        horizon: the number of steps of the whole training.
        remembered: the assignment of variables to routes taken over from the optimizer of which
            this one is a copy.
        plan: the plan for the model's variables, once they are known.
        pending: a state that was loaded before they were known.
        failure: the error with which `build` has failed.
        use: the name and the use of a loaded rule.
        num_reported: the number of skipped steps that need no further report. Either
            `finalize_variable_values` has raised for them, or they were skipped before the state
            was loaded.
    """

    def __init__(self, rule: Rule, routes: list[Route], horizon: Horizon):
        self.rule = rule
        self.horizon = horizon
        self.routes = routes
        self.rules = [rule, *(one.rule for one in routes)]
        self.remembered: Assignment | None = None
        self.plan: Plan | None = None
        self.pending: PendingState | None = None
        self.failure: BaseException | None = None
        self.use: tuple[str, RuleUse | None] = "", None
        self.num_reported = 0
