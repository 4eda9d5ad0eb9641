import numpy as np
import pytest
from PIL import Image

from l2l_tf.data.photos import (
    bundled_photos,
    read_folder,
    read_image,
    split_photos,
    with_longer_side,
    with_shorter_side,
    write_image,
)

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)


def _saved(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


# Reading


def test_a_picture_is_read_pixel_by_pixel(tmp_path):
    np.testing.assert_array_equal(read_image(_saved(tmp_path / "a.png", COLOURS)), COLOURS)


def test_a_grey_picture_has_three_equal_channels(tmp_path):
    grey = COLOURS[..., 0]
    np.testing.assert_array_equal(
        read_image(_saved(tmp_path / "a.png", grey)), np.stack([grey] * 3, axis=-1)
    )


def test_sixteen_bits_of_grey_are_scaled_to_eight(tmp_path):
    deep = np.linspace(0, 65535, 40 * 50).reshape(40, 50).astype(np.uint16)
    picture = read_image(_saved(tmp_path / "a.png", deep))
    np.testing.assert_array_equal(picture[..., 1], np.rint(deep / 257))


# Of each of Pillow's modes of grey with more than 8 bits: the dtype, and what is white.
DEEP = {
    "float_to_1": (np.float32, 1.0),
    "float_to_255": (np.float32, 255.0),
    "float_to_65535": (np.float32, 65535.0),
    "16_bits": (np.uint16, 65535),
    "16_bits_big_endian": (">u2", 65535),
    "32_bits_to_255": (np.int32, 255),
    "32_bits_to_65535": (np.int32, 65535),
}


@pytest.mark.parametrize("kind", DEEP)
def test_grey_of_more_than_8_bits_is_scaled_by_what_is_white(tmp_path, kind):
    dtype, white = DEEP[kind]
    levels = np.linspace(0, white, 40 * 50).reshape(40, 50).astype(dtype)
    picture = read_image(_saved(tmp_path / "a.tif", levels))
    expected = np.rint(255 * (levels.astype(np.float64) / white))
    np.testing.assert_array_equal(picture, np.stack([expected] * 3, axis=-1))


def test_dark_grey_of_16_bits_stays_dark(tmp_path):
    levels = np.full((40, 50), 257, np.uint16)
    assert (read_image(_saved(tmp_path / "a.tif", levels)) == 1).all()


@pytest.mark.parametrize(
    ("levels", "shown"),
    [
        ([0.0, -0.5], "-0.5..0"),
        ([0.0, 1e6], "0..1e+06"),
        ([0.0, np.nan], "nan..nan"),
        ([0, 70_000], "0..7e+04"),
        ([0, -1], "-1..0"),
    ],
)
def test_grey_levels_of_no_known_white_are_refused(tmp_path, levels, shown):
    dtype = np.float32 if isinstance(levels[0], float) else np.int32
    path = _saved(tmp_path / "a.tif", np.resize(np.array(levels, dtype), (40, 50)))
    assert _message(read_image, path) == (
        "A grey picture's pixels must be within 0..1, 0..255 or 0..65535. Received: "
        f"{str(path)!r}, within {shown}. Save it anew, as one of 8 bits."
    )


def test_transparent_pixels_show_a_white_page(tmp_path):
    alpha = np.full((40, 50, 1), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 51
    picture = read_image(_saved(tmp_path / "a.png", np.concatenate([COLOURS, alpha], axis=2)))
    assert (picture[:10] == 255).all()
    expected = 0.2 * COLOURS[10:20] + 0.8 * 255
    np.testing.assert_allclose(picture[10:20], expected, atol=1)
    np.testing.assert_array_equal(picture[20:], COLOURS[20:])


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "1"])
def test_other_kinds_of_pictures_become_rgb(tmp_path, mode):
    suffix = "tif" if mode in ("CMYK", "YCbCr", "LAB") else "png"
    colour = np.array([200, 120, 40], np.uint8)
    flat = np.broadcast_to(colour if mode != "1" else np.uint8(255), (40, 50, 3))
    image = Image.fromarray(np.ascontiguousarray(flat))
    if mode == "LAB":
        from PIL import ImageCms

        profiles = [ImageCms.createProfile(name) for name in ("sRGB", "LAB")]
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
    else:
        converted = image.convert(mode)
    converted.save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as reopened:
        assert reopened.mode == mode
    picture = read_image(tmp_path / f"a.{suffix}")
    assert (picture.shape, picture.dtype) == ((40, 50, 3), np.uint8)
    expected = {"L": 135, "LA": 135, "1": 255}.get(mode, colour)
    # In the mean: a palette has few colours, which lie side by side for those between.
    np.testing.assert_allclose(picture.mean(axis=(0, 1)), np.broadcast_to(expected, 3), atol=4)


def test_a_picture_is_turned_as_its_camera_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # The top of the scene is at the right.
    picture = read_image(_saved(tmp_path / "a.png", COLOURS, exif=exif))
    np.testing.assert_array_equal(picture, np.rot90(COLOURS, -1))


def test_a_picture_is_written_as_it_is_in_a_folder_that_is_made(tmp_path):
    write_image(tmp_path / "new" / "a.png", COLOURS)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), COLOURS)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


# Wrong pictures


def _message(function, *arguments, kind=ValueError):
    with pytest.raises(kind) as error:
        function(*arguments)
    return str(error.value)


def test_what_is_no_picture_is_refused(tmp_path):
    missing, text, damaged = (tmp_path / name for name in ("no.png", "a.jpg", "half.png"))
    text.write_text("a photo")
    _saved(tmp_path / "a.png", COLOURS)
    damaged.write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    assert _message(read_image, missing, kind=FileNotFoundError) == (
        f"A picture must be an existing file. Received: {str(missing)!r}, which is no file. "
        "Check the path."
    )
    for path in (text, damaged):
        assert _message(read_image, path) == (
            "A picture must be an image file, such as a JPEG or PNG, of at most 4096 x 4096 "
            f"pixels. Received: {str(path)!r}, which can't be read as one. Save it anew, and "
            "smaller if it is large, by a program that shows it."
        )


@pytest.mark.parametrize(
    ("size", "advice"),
    [((31, 40), "Take a larger one."), ((40, 4097), "Shrink it before.")],
)
def test_a_picture_that_is_tiny_or_huge_is_refused(tmp_path, size, advice):
    path = _saved(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
    assert _message(read_image, path) == (
        f"A picture's sides must be of 32 to 4096 pixels. Received: {str(path)!r}, of "
        f"{size[0]} x {size[1]} pixels. {advice}"
    )


def test_pictures_of_32_and_of_4096_pixels_are_read(tmp_path):
    path = _saved(tmp_path / "a.png", np.zeros((32, 4096, 3), np.uint8))
    assert read_image(path).shape == (32, 4096, 3)


def test_a_file_of_no_format_is_not_written(tmp_path):
    path = tmp_path / "styled.txt"
    assert _message(write_image, path, COLOURS) == (
        "A picture's file must end in one of .bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp. "
        f"Received: {str(path)!r}. Choose .png, which keeps every pixel."
    )
    assert not path.exists()


# Folders


def test_pictures_are_found_in_a_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_image("~/new/a.png", COLOURS)
    np.testing.assert_array_equal(read_image("~/new/a.png"), COLOURS)
    assert len(read_folder("~/new", 45)) == 1
    assert (tmp_path / "new" / "a.png").exists()


def test_a_folders_pictures_are_read_by_name_and_large_ones_shrunk(tmp_path):
    _saved(tmp_path / "b.PNG", COLOURS)
    _saved(tmp_path / "a.png", np.full((90, 120, 3), 7, np.uint8))
    (tmp_path / "notes.md").write_text("photos")
    (tmp_path / "more").mkdir()
    first, second = read_folder(tmp_path, 45)
    assert first.shape == (45, 60, 3)
    np.testing.assert_array_equal(second, with_shorter_side(COLOURS, 45))
    assert (first == 7).all()


def test_a_folder_without_pictures_is_refused(tmp_path):
    assert _message(read_folder, tmp_path, 64) == (
        "A folder of pictures must hold files that end in one of .bmp, .jpeg, .jpg, .png, .tif, "
        f".tiff, .webp. Received: {str(tmp_path)!r}, which holds none. Check the path."
    )
    missing = tmp_path / "no"
    assert _message(read_folder, missing, 64, kind=FileNotFoundError) == (
        "A folder of pictures must be an existing folder. "
        f"Received: {str(missing)!r}, which is no folder. Check the path."
    )


def test_only_larger_pictures_are_shrunk():
    assert with_shorter_side(COLOURS, 32).shape == (32, 40, 3)
    assert with_shorter_side(COLOURS.swapaxes(0, 1), 32).shape == (40, 32, 3)
    assert with_shorter_side(COLOURS, 41) is COLOURS
    assert with_longer_side(COLOURS, 32).shape == (26, 32, 3)
    assert with_longer_side(COLOURS.swapaxes(0, 1), 32).shape == (32, 26, 3)
    assert with_longer_side(COLOURS, 50) is COLOURS
    # No pixel is left out: a fine pattern becomes grey.
    board = np.indices((64, 64)).sum(axis=0) % 2 * np.uint8(200)
    pattern = np.stack([board] * 3, axis=-1).astype(np.uint8)
    np.testing.assert_allclose(with_shorter_side(pattern, 32), 100, atol=12)


def test_the_photos_of_scikit_learn_give_tiles_that_share_no_pixel():
    from sklearn.datasets import load_sample_image

    tiles, style = bundled_photos()
    assert [tile.shape for tile in tiles] == [(213, 213, 3)] * 6
    rows = [np.concatenate(tiles[first : first + 3], axis=1) for first in (0, 3)]
    china = load_sample_image("china.jpg")
    np.testing.assert_array_equal(np.concatenate(rows), china[:426, :639])
    np.testing.assert_array_equal(style, load_sample_image("flower.jpg"))


# Parts


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(3, (1, 1, 1)), (6, (3, 1, 2)), (38, (23, 5, 10)), (1800, (1125, 225, 450))],
)
def test_parts_share_no_photo_and_leave_none_out(count, sizes):
    photos = [np.full((1, 1, 3), number, np.int32) for number in range(count)]
    parts = split_photos(photos)
    assert tuple(map(len, parts)) == sizes
    numbers = [int(photo[0, 0, 0]) for part in parts for photo in part]
    assert sorted(numbers) == list(range(count))
    again = split_photos(photos)
    assert all(one is other for one, other in zip(parts.test, again.test, strict=True))


def test_two_photos_are_too_few():
    assert _message(split_photos, [COLOURS, COLOURS]) == (
        "photos must be three or more, for one each to train, choose and test on. "
        "Received: 2 photos. Add some to the folder."
    )
