"""A slow NumPy twin of the neural-style loss, position by position."""

import numpy as np


def maps(picture: np.ndarray, kernels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the maps of layers one after the other, each of squares side by side and a ReLU.

    Args:
        picture: `[h, w, C]`.
        kernels: by layer, `[k, k, C, D]`: each k x k square becomes one position.
    """
    found, current = {}, picture
    for layer, kernel in kernels.items():
        size = kernel.shape[0]
        height, width = current.shape[0] // size, current.shape[1] // size
        result = np.zeros((height, width, kernel.shape[3]))
        for row in range(height):
            for column in range(width):
                square = current[row * size : (row + 1) * size, column * size : (column + 1) * size]
                result[row, column] = np.maximum(np.tensordot(square, kernel, axes=3), 0)
        found[layer] = current = result
    return found


def gram(one: np.ndarray) -> np.ndarray:
    """Returns the mean outer product of a position's channels with themselves."""
    total = np.zeros((one.shape[2], one.shape[2]))
    for row in one:
        for position in row:
            total += np.outer(position, position)
    return total / (one.shape[0] * one.shape[1])


def loss(picture, photo, painting, kernels, content_layers, style_layers, weights) -> float:
    """Returns f for one picture; all of them RGB in 0..255, `[h, w, 3]`.

    Args:
        picture: what is judged.
        photo: what it should show.
        painting: whose style it should have.
        kernels: as for `maps`.
        content_layers: weight by layer.
        style_layers: weight by layer.
        weights: alpha, beta, gamma.
    """
    of_picture, of_photo, of_painting = (maps(one, kernels) for one in (picture, photo, painting))
    content = sum(
        weight
        * np.mean((of_picture[layer] - of_photo[layer]) ** 2)
        / np.mean(of_painting[layer] ** 2)
        for layer, weight in content_layers.items()
    )
    style = sum(
        weight
        * np.mean((gram(of_picture[layer]) - gram(of_painting[layer])) ** 2)
        / np.mean(gram(of_painting[layer]) ** 2)
        for layer, weight in style_layers.items()
    )
    height, width, _ = picture.shape
    squares = [
        ((picture[row, column] - picture[other_row, other_column]) / 255) ** 2
        for row in range(height)
        for column in range(width)
        for other_row, other_column in ((row + 1, column), (row, column + 1))
        if other_row < height and other_column < width
    ]
    alpha, beta, gamma = weights
    terms = alpha * content + beta * style + gamma * np.mean(squares)
    return height * width / 64**2 * terms
