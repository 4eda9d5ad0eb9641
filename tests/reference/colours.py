"""Colours as people and printers see them."""

import numpy as np
from matplotlib.colors import to_rgb


def linear_rgb(colour: str) -> np.ndarray:
    """Returns linear RGB of a colour of sRGB (IEC 61966-2-1), in 0..1."""
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(linear: np.ndarray) -> np.ndarray:
    """Returns CIE L*, a*, b* of linear RGB, for the white of sRGB."""
    to_xyz = np.array(
        [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ]
    )
    xyz = to_xyz @ linear / to_xyz.sum(axis=1)
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / 3 * (29 / 6) ** 2 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def lightness(colour: str) -> float:
    """Returns a colour's CIE L*, in 0..100."""
    return float(lab(linear_rgb(colour))[0])


def luma(colour: str) -> float:
    """Returns a colour's luma (ITU-R BT.601), in 0..255, to which software turns it in grey."""
    return float(255 * np.array([0.299, 0.587, 0.114]) @ to_rgb(colour))
