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
from l2l_tf.delivery.joint_update import Part, dense, update_jointly
from l2l_tf.delivery.optimizer_arguments import (
    check_backend,
    check_flag,
    check_numbers,
    check_variables,
    checked_rules,
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
from l2l_tf.rules.routing import Route, assign_routes
from l2l_tf.rules.rule import Rule

NAN_POLICIES = ("skip", "raise")
STATE_DTYPES = ("bfloat16", "float32")

_NOT_FINITE = "Gradients, deltas and the state of the rule must be finite."
_MEND = "Mend the data or lower the learning rate, or go on without such steps: nan_policy='skip'."


def load(
    name_or_path: str | Path, replay: bool = True, **optimizer_arguments: Any
) -> "LearnedOptimizer":
    """Returns a Keras optimizer around a saved rule.

        model.compile(optimizer=l2l_tf.load("mnist_rnnprop"), loss="mse")

    Where the model is none that the rule is for (`l2l_tf.list_rules`), as far as its variables
    tell, the optimizer warns in one line, once, before training begins.

    Args:
        name_or_path: the name of a rule that comes with the package (`l2l_tf.list_rules`), or the
            folder of a saved rule.
        replay: whether to check first that the rule repeats the golden trajectory of its card.
        **optimizer_arguments: those of `LearnedOptimizer`, but the rule.

    Raises:
        FileNotFoundError: there is no such rule.
        ValueError: the saved rule is damaged, or an argument is out of range.
        RuntimeError: Keras runs on another backend than TensorFlow.
    """
    check_backend()
    check_flag("replay", replay)
    path = find_rule(name_or_path)
    optimizer = LearnedOptimizer(load_rule(path, replay=replay), **optimizer_arguments)
    optimizer._hidden.use = path.name, use_of(path)
    return optimizer


@keras.saving.register_keras_serializable(package="l2l_tf")
class LearnedOptimizer(JointOptimizer):
    """A Keras optimizer that updates all variables of a model by a rule, in one call.

    It flattens the gradients of all variables into one vector, in the rule's precision, has the
    rule answer them, and adds `learning_rate` times the answer to the variables. Everything that
    Keras optimizers do around an update (clipping, decoupled weight decay, averages of weights,
    gradient accumulation, loss scaling, constraints, distribution) is Keras's own or equal to it.

    The rule's weights are copied: the optimizer never changes the rule that it was given. They are
    part of `get_config`, so that a configuration alone makes the same optimizer, wherever it is
    read, and a `.keras` file depends on no other file. They are also part of weights files and
    checkpoints, which hold no configuration, so that a state that is restored goes on with the rule
    that made it. They are not trainable, and never among the variables of the model or of the
    optimizer.

    A step with a finite gradient that is far beyond all before it, more than 100 times the largest
    of recent steps or a first one above 1,000, is left out as one with a NaN is, whatever the rule
    (`l2l_tf.delivery.gradient_history` says which, and how a lasting change is followed): what a
    rule keeps of one of 1e30 would count for thousands of steps, and momentum would carry the
    parameters away for good.

    A variable whose gradient is None stays as it is, and so does the state for it. Sparse gradients
    (`tf.IndexedSlices`) are made dense: a rule with a memory moves where gradients are zero too.

    Args:
        rule: what updates all variables for which there is no route. A rule with parts
            (`l2l_tf.rules.RoutedRule`) brings routes of its own, which come after those given here.
        routes: rules for some of the variables (`l2l_tf.rules.Route`); of several that match a
            variable the first counts.
        learning_rate: what deltas are multiplied by: a float, schedule or callable. A learned rule
            chooses its own step sizes: 1.0, the default, takes them as they are.
        nan_policy: what happens in a step in which a gradient, a delta or the rule's state is not
            finite, or a parameter would not be. Parameters and the rule's state are left as they
            were; with "skip", `num_skipped_steps` counts it and training goes on; with "raise", it
            ends with `tf.errors.InvalidArgumentError`: at once, or, under XLA, whose programs can't
            raise, at the end of `fit` (`finalize_variable_values`).
        state_dtype: "float32", or "bfloat16" to keep the rule's state for each coordinate in half
            the memory, rounded at random in a way that the number of steps taken seeds: a run that
            is resumed goes on bit for bit. The rule computes in its own dtype either way.
        chunk_size: coordinates that a learned rule takes at once on large models, which bounds the
            memory that a step needs beside the state; None chooses, 0 takes all at once.
        **keras_arguments: those of every Keras optimizer: `name`, `weight_decay`, `clipnorm`,
            `clipvalue`, `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`. Weight decay takes off
            `learning_rate * weight_decay` of each variable at a step, as in Keras: with a
            learning rate of 1.0, a thousand times as much as beside Adam's usual 0.001.

    Attributes:
        num_skipped_steps: int64 variable `[]`: the steps skipped so far because something was not
            finite or a gradient far beyond those before.
        num_outlier_steps: int64 variable `[]`: those of them that were skipped for the latter.

    Raises:
        TypeError: the rule is none, or the routes are no list of routes.
        ValueError: an argument is out of range.
        RuntimeError: Keras runs on another backend than TensorFlow.
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
        **keras_arguments: Any,
    ):
        check_backend()
        rule, routes = checked_rules(rule, routes)
        check_one_of("nan_policy", nan_policy, NAN_POLICIES)
        check_one_of("state_dtype", state_dtype, STATE_DTYPES)
        if chunk_size is not None:
            check_count("chunk_size", chunk_size, "Leave it out to have it chosen.", minimum=0)
        check_numbers(keras_arguments)
        # Keras says what it must be.
        if isinstance(learning_rate, int) and not isinstance(learning_rate, bool):
            learning_rate = float(learning_rate)
        super().__init__(learning_rate=learning_rate, **keras_arguments)
        self.nan_policy = nan_policy
        self.state_dtype = state_dtype
        self.chunk_size = chunk_size
        own_rule = copy_rule(rule)
        own_routes = [dataclasses.replace(one, rule=copy_rule(one.rule)) for one in routes]
        self._hidden = _Hidden(own_rule, own_routes)
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
            # The attributes that Keras sets here hold the model's variables: they are none of ours.
            super().build(variables)
            for index, group in enumerate(plan.groups):
                group.add_state(self.add_variable, f"state_{index}")
        except BaseException as error:
            # With half of its variables it would seem to go on.
            self.built = False
            hidden.failure, hidden.plan = error, None
            raise
        hidden.pending = None
        if is_new:
            self._warn_outside_use(variables)

    def _warn_outside_use(self, variables: Sequence[Any]) -> None:
        """Warns if variables that are yet to be trained are none that the loaded rule is for."""
        name, use = self._hidden.use
        is_on_one_of_several = (
            tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()
        )
        if use is None or is_on_one_of_several:
            return
        # Keras may build an optimizer while it traces a step; values are to be read outside.
        with tf.init_scope():
            if tf.executing_eagerly():
                values = [keras.ops.convert_to_numpy(variable) for variable in variables]
                if warning := use.warning(name, values):
                    # In one line: a line of this module would tell nobody anything.
                    warnings.warn_explicit(warning, UserWarning, "l2l_tf", 1)

    def add_variable(self, shape: Any, *arguments: Any, **named_arguments: Any) -> Any:
        """Returns a new variable of the optimizer; one of a pending state begins with its value."""
        if self._hidden.pending is not None:
            value = self._hidden.pending.saved.values[str(len(self.variables))]
            # Keras may build an optimizer where assignments are lost: not so initial values.
            named_arguments["initializer"] = lambda shape, dtype=None: tf.constant(value, dtype)
        return super().add_variable(shape, *arguments, **named_arguments)

    def _plan(self, variables: Sequence[Any]) -> Plan:
        """Returns what is to be made for the variables of a model."""
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
        """Returns names and shapes of the optimizer's variables that there are."""
        return [(variable.name, tuple(variable.shape)) for variable in self.variables]

    def rule_for(self, variable: Any) -> Rule:
        """Returns the rule that updates a variable of the model: the optimizer's own copy."""
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
        # Keras says what is wrong where there are not as many.
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

        states = [group.state for group in self._groups()]
        of_devices = strategy.experimental_local_results(variables[0])

        def update(anchor: tf.Variable, gradients: list[Any], learning_rate: Any) -> None:
            # Inside loops and branches TensorFlow no longer knows which device it updates.
            device = next(i for i, one in enumerate(of_devices) if one is anchor)
            own_variables, own_states, counts, history = tf.nest.map_structure(
                lambda variable: strategy.experimental_local_results(variable)[device],
                (
                    variables,
                    states,
                    (self.num_steps, self.num_skipped_steps.value),
                    self._gradient_history.values,
                ),
            )
            num_steps, num_skipped_steps = counts
            num_taken = tf.cast(num_steps - num_skipped_steps, tf.int32)
            given = zip(positions, own_variables, gradients, decays, strict=True)
            parts = {position: Part(*part) for position, *part in given}
            groups = list(zip(self._groups(), own_states, strict=True))
            limit = limit_after(history)
            outcome = update_jointly(groups, parts, learning_rate, limit, num_taken)
            note_step(history, outcome.size, outcome.is_taken, outcome.is_outlier)
            must_hold = []
            if self.nan_policy == "raise":
                # XLA leaves it out. Elsewhere a step that raises is not counted: it is reported.
                is_finite = outcome.is_taken | outcome.is_outlier
                must_hold.append(tf.debugging.Assert(is_finite, [_NOT_FINITE, _MEND]))
            # Eagerly, an assertion that holds gives None.
            with tf.control_dependencies([one for one in must_hold if one is not None]):
                num_skipped_steps.assign_add(tf.cast(~outcome.is_taken, tf.int64))

        strategy.extended.update(variables[0], update, args=(gradients, learning_rate), group=False)

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        super().finalize_variable_values(var_list)
        if self.nan_policy != "raise":
            return
        num_new = self._num_not_finite() - self._hidden.num_reported
        self._note_reported_steps()
        if num_new > 0:
            raise tf.errors.InvalidArgumentError(
                None, None, f"{_NOT_FINITE} Received: {num_new} steps with what is not. {_MEND}"
            )

    def _note_reported_steps(self) -> None:
        """Takes the steps skipped so far as known: only later ones are an error."""
        self._hidden.num_reported = self._num_not_finite()

    def _num_not_finite(self) -> int:
        """Returns for how many of the skipped steps something was not finite."""
        return int(self.num_skipped_steps.numpy()) - int(self.num_outlier_steps.numpy())

    @property
    def num_outlier_steps(self) -> Any:
        """Those of the skipped steps that had a finite gradient far beyond those before."""
        return self._gradient_history.num_outliers

    # Configuration and state

    def get_config(self) -> dict[str, Any]:
        config = super().get_config() | {
            "rule": rule_to_config(self._hidden.rule),
            "routes": [route_to_config(route) for route in self._hidden.routes],
            "nan_policy": self.nan_policy,
            "state_dtype": self.state_dtype,
            "chunk_size": self.chunk_size,
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
        # A scope takes the place of the one around it, in which Keras may have called.
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
        store[RULES] = rules_to_bytes(self._hidden.rules)
        plan = self._hidden.plan
        store[LAYOUT] = plan.layout if plan else np.zeros([0], np.int64)
        if plan:
            store[ASSIGNMENT] = plan.assignment.to_bytes(self._hidden.routes)

    def load_own_variables(self, store: Any) -> None:
        """Sets the state to a saved one, and the weights of the rules to those that made it.

        Before `build`, the variables that are still to be made will begin with the saved values,
        if it is for such variables as the state was saved for; else the optimizer begins anew, with
        a warning. An optimizer for another number of variables stays as it is, with a warning.

        Raises:
            ValueError: it is the state of another optimizer or for other variables. Nothing is
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
        history = saved.history
        pending = PendingState(saved, None, self._hidden.num_reported)
        if not saved.was_built:
            own = [variable is self.num_skipped_steps for variable in self.variables].index(True)
            saved.check_count(own + 1)
            # All that `build` has made is still as it would be.
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
        self._note_reported_steps()
        if saved.was_built and not self.built:
            self._hidden.pending = pending

    def _forget_pending(self) -> None:
        """Makes all that a state has changed before `build` what it was."""
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
        """Returns the groups of variables, once there are any."""
        return self._hidden.plan.groups if self._hidden.plan else []


class _Hidden:
    """What Keras and tf.train.Checkpoint are not to find when they look for variables to save.

    Attributes:
        rule: the optimizer's own copy of its rule.
        routes: with the optimizer's own copies of their rules.
        rules: the rule, then those of the routes.
        remembered: which of them each variable has, as was decided for an optimizer of which this
            one is a copy.
        plan: what there is for the model's variables, once they are known.
        pending: a state that was loaded before they were.
        failure: with what `build` has failed.
        use: of a rule that was loaded, its name and what it is for.
        num_reported: how many of the skipped steps are no news: `finalize_variable_values` has
            raised for them, or they were skipped before the state was loaded.
    """

    def __init__(self, rule: Rule, routes: list[Route]):
        self.rule = rule
        self.routes = routes
        self.rules = [rule, *(one.rule for one in routes)]
        self.remembered: Assignment | None = None
        self.plan: Plan | None = None
        self.pending: PendingState | None = None
        self.failure: BaseException | None = None
        self.use: tuple[str, RuleUse | None] = "", None
        self.num_reported = 0
