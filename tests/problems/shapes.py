"""Properties of a problem's parameters, whatever is stacked on or wrapped around the problem."""

from l2l_tf.problems import Problem, RandomlyScaled, StackedProblem, WithConvexTerm, task_seeds

WRAPPERS = {
    "plain": lambda problem: problem,
    "scaled": RandomlyScaled,
    "convex": WithConvexTerm,
    "both": lambda problem: WithConvexTerm(RandomlyScaled(problem)),
}


def assert_variables_are_parameters_without_batch_axes(problem: Problem) -> None:
    """Holds a problem to the shapes that it draws: batch axes first, then a tensor's own."""
    seeds = task_seeds(0, "train", 0, 3)
    for wrap in WRAPPERS.values():
        wrapped = wrap(problem)
        specs, stacked = wrapped.variables, StackedProblem(wrapped, 3)
        # What a tensor is does not depend on how many tasks run side by side.
        assert stacked.variables == specs
        assert stacked.batch_shape == (3, *wrapped.batch_shape)
        assert wrapped.batch_shape == problem.batch_shape
        assert wrapped.batch_shape in ((), (problem.num_functions,))
        assert len({spec.path for spec in specs}) == len(specs)
        for one, seed in ((wrapped, seeds[0]), (stacked, seeds)):
            drawn = [tuple(parameter.shape) for parameter in one.initial_parameters(seed)]
            assert [(*one.batch_shape, *spec.shape) for spec in specs] == drawn
            assert one.parameter_shapes == drawn
