"""The meta-gradient by its definition, as the derivative of an unroll written out step by step."""

import tensorflow as tf


def meta_gradient(
    rule, problem, seed, iterate, num_steps, step_weights=None, second_derivatives=False
):
    """Returns the meta-loss and its gradients, eagerly, keeping the graph of all steps.

    Unless second derivatives are asked for, `tf.stop_gradient` cuts the edges along which the
    optimizee's gradients depend on its parameters: the dashed ones of Andrychowicz et al. 2016,
    figure 2 (arXiv 1606.04474).
    """
    shapes = problem.parameter_shapes
    sizes = [tf.TensorShape(shape).num_elements() for shape in shapes]
    theta, gradient, state = iterate.parameters, iterate.gradient, iterate.rule_state
    meta_loss = tf.zeros([], theta.dtype)
    with tf.GradientTape() as tape:
        for index in range(num_steps):
            seen = gradient if second_derivatives else tf.stop_gradient(gradient)
            delta, state = rule(seen, state)
            theta = theta + delta
            batch = problem.batch(seed, iterate.step + index + 1)
            with tf.GradientTape() as inner:
                inner.watch(theta)
                parameters = [
                    tf.reshape(part, shape)
                    for part, shape in zip(tf.split(theta, sizes), shapes, strict=True)
                ]
                losses = problem.loss(parameters, batch)
                total = tf.reduce_sum(losses)
            gradient = inner.gradient(total, theta)
            weight = 1.0 if step_weights is None else step_weights[index]
            meta_loss += weight * tf.reduce_mean(losses)
    return meta_loss, tape.gradient(meta_loss, rule.trainable_variables)


def gradient_over(rule, state, gradients, step_weights, every=None):
    """Returns the meta-gradient over stored gradients `[T + 1, N]`, its terms added up one by one.

    That is the derivative of the sum over t of <u_t, sum of w_s g_s over the s after t>, where the
    u_t are the rule's answers to the gradients. The state before each step whose index is a
    multiple of `every` is a constant.
    """
    with tf.GradientTape() as tape:
        product = tf.zeros([], gradients.dtype)
        for step in range(len(step_weights)):
            if every and step % every == 0:
                state = tf.nest.map_structure(tf.stop_gradient, state)
            delta, state = rule(gradients[step], state)
            for later in range(step, len(step_weights)):
                product += tf.reduce_sum(step_weights[later] * gradients[later + 1] * delta)
    return tape.gradient(product, [weight.value for weight in rule.trainable_variables])
