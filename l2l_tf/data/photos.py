"""Photos and paintings in memory, read from files or bundled with scikit-learn."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from l2l_tf.files import expanded, written_whole
from l2l_tf.optional import missing

try:
    from PIL import Image, ImageOps, UnidentifiedImageError
except ModuleNotFoundError as error:
    raise missing("pillow", "pictures") from error

# Limits on a side, in pixels. Below the minimum, VGG19's deepest maps would have fewer than two
# rows. Above the maximum, a rule's state alone takes 16 GB.
MIN_SIDE, MAX_SIDE = 32, 4096
# The files that are read from a folder, in upper or lower case.
SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
# Two of every eight photos are for testing and one for validation.
_TEST_SHARE, _VALIDATION_SHARE = 1 / 4, 1 / 8
# Tiles of the photo of 427 x 640 pixels that scikit-learn bundles: two rows of three.
_TILE_SIDE = 213


class PhotoSplit(NamedTuple):
    """Photos in three parts that share none; each is uint8 `[h, w, 3]`, RGB in 0..255.

    Attributes:
        train: what rules are trained on.
        validation: what rules and learning rates are chosen on.
        test: what results are reported on.
    """

    train: list[np.ndarray]
    validation: list[np.ndarray]
    test: list[np.ndarray]


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Returns a picture from a file, uint8 `[h, w, 3]`, RGB in 0..255.

    The picture is rotated as its EXIF data say. A grey picture gets three equal channels. White is
    65535 in a grey picture of 16 bits. With more bits or floats, white is the smallest of 1 (floats
    only), 255 and 65535 that no pixel exceeds. A picture with transparency is shown on a white
    background. One with a palette or in CMYK is converted.

    Args:
        path: a file in any format that Pillow reads. If it has several frames, the first is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a picture, is damaged, has a side outside 32..4096 pixels, or has grey
            levels outside 0..65535.
    """
    path = expanded(path)
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"A picture must be an existing file. Received: {str(path)!r}, which is no file. "
            "Check the path."
        )
    try:
        with Image.open(path) as image:
            # Checked before any pixel is decoded: a small file may hold a picture that fills the
            # memory.
            _check_sides(path, *image.size)
            upright = ImageOps.exif_transpose(image)
            return _as_rgb(path, upright)
    except (Image.DecompressionBombError, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            "A picture must be an image file, such as a JPEG or PNG, of at most "
            f"{MAX_SIDE} x {MAX_SIDE} pixels. "
            f"Received: {str(path)!r}, which can't be read as one. Save it anew, and smaller if it "
            "is large, by a program that shows it."
        ) from error


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Writes a picture, uint8 `[h, w, 3]`, atomically, in the format given by the suffix.

    Raises:
        ValueError: the suffix is not one of `SUFFIXES`.
    """
    path = expanded(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"A picture's file must end in one of {', '.join(SUFFIXES)}. Received: {str(path)!r}. "
            "Choose .png, which keeps every pixel."
        )
    with written_whole(path) as partial:
        Image.fromarray(image).save(partial)


def with_shorter_side(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture shrunk so that its shorter side has at most `side` pixels.

    Args:
        image: uint8 `[h, w, 3]`.
        side: the length of the shorter side, in pixels. Smaller pictures are returned unchanged.
    """
    return _scaled(image, side / min(image.shape[:2]))


def with_longer_side(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture shrunk so that its longer side has at most `side` pixels.

    Args:
        image: uint8 `[h, w, 3]`.
        side: the length of the longer side, in pixels. Smaller pictures are returned unchanged.
    """
    return _scaled(image, side / max(image.shape[:2]))


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    if scale >= 1:
        return image
    height, width = (max(1, round(scale * length)) for length in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def read_folder(folder: str | os.PathLike[str], shorter_side: int) -> list[np.ndarray]:
    """Returns the pictures in a folder, sorted by name, each uint8 `[h, w, 3]`.

    Other files and subfolders are ignored.

    Args:
        folder: the folder.
        shorter_side: larger pictures are shrunk until their shorter side has this many pixels.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, or one that `read_image` rejects.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            "A folder of pictures must be an existing folder. "
            f"Received: {str(folder)!r}, which is no folder. Check the path."
        )
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(
            f"A folder of pictures must hold files that end in one of {', '.join(SUFFIXES)}. "
            f"Received: {str(folder)!r}, which holds none. Check the path."
        )
    return [with_shorter_side(read_image(path), shorter_side) for path in paths]


def bundled_photos() -> tuple[list[np.ndarray], np.ndarray]:
    """Returns content photos and a style picture bundled with scikit-learn, without a download.

    The content photos are six disjoint tiles of 213 x 213 pixels of "china.jpg". The style is
    "flower.jpg", 427 x 640. All are uint8 `[h, w, 3]`.
    """
    try:
        import sklearn.datasets
    except ModuleNotFoundError as error:
        raise missing("scikit-learn", "photos that come with it") from error

    china, flower = (
        sklearn.datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")
    )
    corners = [(top, left) for top in range(2) for left in range(3)]
    tiles = [
        china[
            top * _TILE_SIDE : (top + 1) * _TILE_SIDE, left * _TILE_SIDE : (left + 1) * _TILE_SIDE
        ]
        for top, left in corners
    ]
    return tiles, flower


def split_photos(photos: Sequence[np.ndarray]) -> PhotoSplit:
    """Returns photos split at random, but always alike, into three parts of at least one each.

    A quarter of them are for testing and an eighth for validation. The split is by photo, so that
    no crop of a photo used for testing or validation is ever trained on.

    Args:
        photos: three or more photos, each uint8 `[h, w, 3]`, of any size.

    Raises:
        ValueError: there are fewer than three.
    """
    if len(photos) < 3:
        raise ValueError(
            "photos must be three or more, for one each to train, choose and test on. "
            f"Received: {len(photos)} photos. Add some to the folder."
        )
    # RandomState, because NumPy guarantees that its numbers never change.
    order = np.random.RandomState(0).permutation(len(photos))
    num_test = max(1, round(_TEST_SHARE * len(photos)))
    num_held_out = num_test + max(1, round(_VALIDATION_SHARE * len(photos)))
    test, validation, train = np.split(order, [num_test, num_held_out])
    return PhotoSplit(*([photos[i] for i in part] for part in (train, validation, test)))


def _check_sides(path: str | os.PathLike[str], width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE:
        advice = "Take a larger one." if min(width, height) < MIN_SIDE else "Shrink it before."
        raise ValueError(
            f"A picture's sides must be of {MIN_SIDE} to {MAX_SIDE} pixels. "
            f"Received: {str(path)!r}, of {height} x {width} pixels. {advice}"
        )


def _as_rgb(path: Path, image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I", "F")):
        # Grey with 16 bits, 32 bits or floats. Pillow would clip these at 255 instead of scaling
        # them.
        grey = np.asarray(image, np.float64)
        # Written so that NaN is out of range.
        if not (grey.min() >= 0 and grey.max() <= 65535):
            raise ValueError(
                "A grey picture's pixels must be within 0..1, 0..255 or 0..65535. Received: "
                f"{str(path)!r}, within {grey.min():.4g}..{grey.max():.4g}. Save it anew, as one "
                "of 8 bits."
            )
        possible = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, (65535,))
        white = next(white for white in possible if grey.max() <= white)
        rounded = np.rint(np.clip(255 / white * grey, 0, 255)).astype(np.uint8)
        return np.repeat(rounded[..., np.newaxis], 3, axis=2)
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        page = Image.new("RGBA", layers.size, "white")
        image = Image.alpha_composite(page, layers)
    return np.asarray(image.convert("RGB"))
