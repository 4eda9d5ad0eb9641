import numpy as np

from experiments.general import data
from l2l_tf.data import datasets


def test_the_splits_of_images_share_none():
    digits = datasets.load("digits")
    validation = data.images("digits", "validation", None)
    test = data.images("digits", "test", None)
    np.testing.assert_array_equal(test.train.targets, digits.train.labels)
    np.testing.assert_array_equal(validation.train.targets, digits.validation.labels)
    num_test = len(digits.test.labels) // 2
    np.testing.assert_array_equal(test.test.targets, digits.test.labels[:num_test])
    np.testing.assert_array_equal(
        validation.test.targets, digits.test.labels[num_test : 2 * num_test]
    )
    assert test.train.inputs.dtype == np.float32
    assert (test.train.inputs.min(), test.train.inputs.max()) == (0, 1)


def test_pixels_are_their_own_targets_and_grey_is_the_mean_of_channels():
    colours = np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)
    arrays = data.Arrays(colours, np.zeros(2))
    flat = data.pixels(data.grey(data.Data(arrays, arrays)))
    np.testing.assert_array_equal(flat.train.inputs, [[1, 4, 7, 10], [13, 16, 19, 22]])
    assert flat.train.targets is flat.train.inputs


def test_an_arm_of_one_link_ends_on_a_circle():
    drawn = data.arm_positions(num_links=1, num_examples=4000)
    angles, positions = drawn.train.inputs[:, 0], drawn.train.targets
    assert len(drawn.test.inputs) == data.NUM_TEST_EXAMPLES
    for true, noisy in zip((np.cos(angles), np.sin(angles)), positions.T, strict=True):
        standardised = (true - true.mean()) / true.std()
        # The noise; its own standard error is about .05 / sqrt(2 * 4000).
        assert 0.048 < np.std(noisy - standardised) < 0.052


def test_friedman_takes_five_of_its_ten_inputs():
    drawn = data.friedman(4000).train
    design = np.concatenate([drawn.inputs, np.ones((len(drawn.inputs), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(design, drawn.targets[:, 0], rcond=None)
    # Its standard deviation is 4.9; on [-1, 1], x4 adds 5 and x5 adds 2.5 for each unit.
    np.testing.assert_allclose(weights[3:5] * 4.9, [5, 2.5], rtol=0.05)
    assert np.abs(weights[5:10]).max() < 0.05


def test_characters_are_followed_by_the_next_and_the_splits_have_other_texts():
    test, validation = data.characters("test", 48), data.characters("validation", 48)
    for split in (test, validation):
        for part in split:
            np.testing.assert_array_equal(part.inputs[:, 1:], part.targets[:, :-1])
            assert part.inputs.dtype == np.int32
            assert 0 <= part.inputs.min() <= part.inputs.max() < len(data.CHARACTERS)

    def texts(arrays):
        return {row.tobytes() for row in arrays.inputs}

    # Rows of spaces or asterisks are in many texts.
    shared = texts(test.train) & texts(validation.train)
    assert len(shared) < 0.01 * len(test.train.inputs)


def test_topics_are_told_by_windows_of_frequent_words():
    drawn = data.topics_of_words(length=6, num_examples=500)
    assert drawn.train.inputs.shape == (500, 6)
    assert set(drawn.train.targets) == set(range(data.NUM_TOPICS))
    assert 0 <= drawn.train.inputs.min() <= drawn.train.inputs.max() < data.NUM_WORDS
    # Most words are frequent ones.
    assert np.mean(drawn.train.inputs == 0) < 0.1
