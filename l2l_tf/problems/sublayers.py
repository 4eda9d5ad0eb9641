"""The layers of a Keras model, however deep they lie."""

from collections.abc import Iterator

import keras


def sublayers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yields each layer inside a model once: those of nested models and of composite layers too."""
    # What Keras itself collects the variables of a model with; it has no public name.
    return model._flatten_layers(include_self=False)
