import numpy as np
import pytest

from isogram.data.tokens import chunk_columns, frames, hashed_lines, patches, spectral_frames, strokes
from isogram.errors import DataError


def test_chunk_columns_keeps_order_and_pads_the_end():
    table = np.random.default_rng(0).normal(size=(3, 10))
    tokens = chunk_columns(table, 4)
    assert tokens.shape == (3, 4, 3) and tokens.dtype == np.float32
    for i in range(3):
        for column in range(12):
            expected = np.float32(table[i, column]) if column < 10 else 0
            assert tokens[i, column // 3, column % 3] == expected


def test_patches_hold_the_pixels_of_their_square():
    images = np.random.default_rng(0).normal(size=(2, 28, 28))
    tokens = patches(images, 7)
    assert tokens.shape == (2, 16, 49) and tokens.dtype == np.float32
    for i in range(2):
        for y in range(28):
            for x in range(28):
                assert tokens[i, y // 7 * 4 + x // 7, y % 7 * 7 + x % 7] == np.float32(images[i, y, x])


@pytest.mark.parametrize("length", [1, 3, 16, 17, 40])
def test_frames_are_the_means_over_equal_stretches(length):
    utterance = np.random.default_rng(length).normal(size=(length, 13))
    levelled = utterance.copy()
    levelled[:, 0] -= utterance[:, 0].mean()
    # Each source frame cut in 16 equal pieces makes length * 16 pieces: `length` of them to each of 16 frames.
    expected = np.repeat(levelled, 16, axis=0).reshape(16, length, 13).mean(1)
    tokens = frames(utterance, [length])
    assert tokens.shape == (1, 16, 13) and tokens.dtype == np.float32
    np.testing.assert_allclose(tokens[0], expected, atol=1e-5)


def test_frames_see_one_utterance_at_a_time():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(9, 13)), rng.normal(size=(30, 13))
    together = frames(np.vstack([first, second]), [9, 30])
    np.testing.assert_array_equal(together, np.vstack([frames(first, [9]), frames(second, [30])]))


def test_frames_ignore_loudness_but_not_the_vowel():
    utterance = np.random.default_rng(0).normal(size=(20, 13))
    louder, other_vowel = utterance.copy(), utterance.copy()
    louder[:, 0] += 50
    other_vowel[:, 1] += 50
    np.testing.assert_allclose(frames(louder, [20]), frames(utterance, [20]), atol=1e-5)
    assert np.abs(frames(other_vowel, [20]) - frames(utterance, [20])).max() > 49


def test_strokes_against_a_loop():
    points = np.random.default_rng(0).integers(0, 101, size=(4, 8, 2))
    points[0, 3] = points[0, 2]  # the pen rests
    tokens = strokes(points)
    assert tokens.shape == (4, 8, 15) and tokens.dtype == np.float32
    for i in range(4):
        for t in range(8):
            here = points[i, t] / 50 - 1
            step = here - (points[i, t - 1] / 50 - 1) if t else np.zeros(2)
            length = np.hypot(*step)
            near = [np.exp(-((here[0] - x) ** 2 + (here[1] - y) ** 2) / 0.98) for y in (-1, 0, 1) for x in (-1, 0, 1)]
            expected = [*here, *step, *(step / length if length else step), *near]
            np.testing.assert_allclose(tokens[i, t], expected, atol=1e-5)


def test_spectral_frames_against_a_loop():
    windows = np.random.default_rng(0).normal(size=(2, 80))
    tokens = spectral_frames(windows, n_frames=4, n_bands=16)  # frames of 32 samples, 16 bins above DC: one each
    assert tokens.shape == (2, 4, 16) and tokens.dtype == np.float32
    for i in range(2):
        for frame in range(4):
            piece = windows[i, 16 * frame : 16 * frame + 32] * np.hanning(32)
            for k in range(1, 17):
                wave = np.exp(-2j * np.pi * k * np.arange(32) / 32)
                assert tokens[i, frame, k - 1] == pytest.approx(np.log(abs(wave @ piece) ** 2 + 1e-12), abs=1e-3)


@pytest.mark.parametrize(("n_frames", "n_bands"), [(4, 48), (1, 1), (7, 5), (4, 409), (4, 400)])
def test_bands_partition_the_spectrum(n_frames, n_bands):
    # A unit impulse mid-frame has a flat spectrum: every mean over a band is the same, whatever bins the band holds.
    hop = 2048 // (n_frames + 1)
    window = np.zeros((1, 2048))
    window[0, hop] = 1
    first = spectral_frames(window, n_frames, n_bands)[0, 0]
    assert first.shape == (n_bands,)
    np.testing.assert_allclose(first, first[0], atol=1e-4)


def test_a_tone_moves_up_the_bands_with_its_frequency():
    time = np.arange(2048) / 2048
    frequencies = np.array([20, 60, 200, 500, 900])
    tones = np.sin(2 * np.pi * frequencies[:, None] * time)
    loudest = spectral_frames(tones, 4, 24).argmax(2)
    assert (np.diff(loudest, axis=0) > 0).all()
    assert (loudest == loudest[:, :1]).all()  # a steady tone is the same in every frame


def test_a_dead_channel_stays_finite():
    assert np.isfinite(spectral_frames(np.zeros((1, 256)), 3, 8)).all()


def test_hashed_lines_share_words_and_tell_their_order():
    a, b, c, empty = hashed_lines([["pump hot"], ["pump cold"], ["hot pump"], [""]], 4096)[:, 0]
    assert a @ a == pytest.approx(1) and not empty.any()
    assert a @ b == pytest.approx(1 / 3)  # of pump, hot, "pump hot" one is shared
    assert a @ c == pytest.approx(2 / 3)  # both words, but not the pair
    tokens = hashed_lines([["pump hot", "idle"], ["idle", "pump hot"]], 64)
    assert tokens.shape == (2, 2, 64) and tokens.dtype == np.float32
    np.testing.assert_array_equal(tokens[0], tokens[1, ::-1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: chunk_columns(np.zeros((2, 3)), 4),
        lambda: patches(np.zeros((2, 28, 27)), 7),
        lambda: frames(np.zeros((5, 13)), [2, 2]),
        lambda: frames(np.zeros((5, 13)), [5, 0]),
        lambda: strokes(np.zeros((2, 16))),
        lambda: spectral_frames(np.zeros((2, 100)), 4, 21),
        lambda: hashed_lines([["a"], ["a", "b"]], 16),
    ],
)
def test_wrong_shapes_are_refused(call):
    with pytest.raises(DataError):
        call()
