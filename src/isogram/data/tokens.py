"""Frozen, public tokenizers: pure functions from raw rows to float32 tokens [N, T, c].

They hold no learnt parameter and see one row at a time, so every party applies the same ones and nothing about
the rows of one node reaches another through them. Scaling is left to the alignment, which takes it from the anchors.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.feature_extraction.text import HashingVectorizer

from isogram.data.base import FloatArray
from isogram.errors import DataError


def chunk_columns(table: ArrayLike, n_tokens: int) -> FloatArray:
    """[N, F] columns in order -> [N, n_tokens, ceil(F / n_tokens)]; zeros fill the last chunks."""
    table = np.asarray(table, np.float32)
    if table.ndim != 2 or not 1 <= n_tokens <= table.shape[1]:
        raise DataError(f"cannot cut a table of shape {table.shape} into {n_tokens} chunks of columns")
    width = -(-table.shape[1] // n_tokens)
    padded = np.pad(table, ((0, 0), (0, n_tokens * width - table.shape[1])))
    return padded.reshape(len(table), n_tokens, width)


def patches(images: ArrayLike, size: int = 7) -> FloatArray:
    """[N, H, W] -> [N, H/size * W/size, size**2]: square patches, row by row, each flattened row by row."""
    images = np.asarray(images, np.float32)
    if images.ndim != 3 or images.shape[1] % size or images.shape[2] % size:
        raise DataError(f"images of shape {images.shape} do not divide into {size} x {size} patches")
    n, height, width = images.shape
    grid = images.reshape(n, height // size, size, width // size, size).swapaxes(2, 3)
    return grid.reshape(n, -1, size**2)


def frames(cepstra: ArrayLike, lengths: ArrayLike, n_frames: int = 16) -> FloatArray:
    """Concatenated utterances [sum(lengths), c] -> [N, n_frames, c], each over its own time from 0 to 1.

    The utterance's mean is taken off coefficient 0 alone, the log energy: how loud a recording is says nothing about
    the word. Full cepstral mean normalisation (Atal 1974) is for long speech; over one word it removes the vowel.
    Frames are `stretches`.
    """
    cepstra, lengths = np.asarray(cepstra, np.float64), np.asarray(lengths, np.int64)
    if cepstra.ndim != 2 or lengths.ndim != 1 or (lengths < 1).any() or lengths.sum() != len(cepstra):
        raise DataError(f"lengths must be positive and sum to the number of frames, got {lengths} for {cepstra.shape}")
    out = np.empty((len(lengths), n_frames, cepstra.shape[1]), np.float32)
    stops = np.cumsum(lengths)
    for row, (start, stop) in enumerate(zip(stops - lengths, stops, strict=True)):
        utterance = cepstra[start:stop].copy()
        utterance[:, 0] -= utterance[:, 0].mean()
        out[row] = stretches(utterance, n_frames)
    return out


def stretches(frames: ArrayLike, n: int) -> NDArray[np.float64]:
    """[length, c] -> [n, c]: the signal's means over n equal stretches of its time.

    A source frame is constant over its duration; this one rule shortens long utterances and stretches short ones.
    """
    signal = np.asarray(frames, np.float64)
    # The integral of a piecewise constant signal is piecewise linear, hence exact under interpolation.
    integral = np.vstack([np.zeros(signal.shape[1]), np.cumsum(signal, axis=0)])
    edges = np.linspace(0, len(signal), n + 1)
    left = np.minimum(edges.astype(int), len(signal) - 1)
    at_edges = integral[left] + (edges - left)[:, None] * (integral[left + 1] - integral[left])
    return np.diff(at_edges, axis=0) * (n / len(signal))


def strokes(points: ArrayLike) -> FloatArray:
    """Pen positions [N, T, 2] in [0, 100] -> [N, T, 15].

    Per point: position in [-1, 1] (2), step from the last point (2), its direction (2), nearness to a 3 x 3 grid (9).
    The first step is zero. Direction is a unit vector, as an angle would jump by a turn, and zero where the pen rests.
    Nearness is a Gaussian bump per place of the grid: it lets a linear kernel compare where, not only how far along.
    """
    points = np.asarray(points, np.float32)
    if points.ndim != 3 or points.shape[2] != 2:
        raise DataError(f"strokes must be [rows, points, 2], got {points.shape}")
    position = points / 50 - 1
    step = np.diff(position, axis=1, prepend=position[:, :1])
    length = np.linalg.norm(step, axis=2, keepdims=True)
    direction = np.divide(step, length, out=np.zeros_like(step), where=length > 0)
    # Bumps of width .7 on a grid of pitch 1 overlap enough to leave no gap.
    grid = np.array([(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)], np.float32)
    square = ((position[:, :, None] - grid) ** 2).sum(3)
    return np.concatenate([position, step, direction, np.exp(-square / (2 * 0.7**2))], axis=2)


def spectral_frames(windows: ArrayLike, n_frames: int, n_bands: int) -> FloatArray:
    """[N, S] signals -> [N, n_frames, n_bands]: log mean power per band of n_frames half-overlapping Hann frames.

    Band edges rise geometrically from the first bin above DC to Nyquist, at least one bin each: rotating machines
    put shaft harmonics in the lowest hertz and structural resonances over kilohertz.
    """
    windows = np.asarray(windows, np.float64)
    if windows.ndim != 2 or n_frames < 1:
        raise DataError(f"windows must be [rows, samples] and n_frames positive, got {windows.shape} and {n_frames}")
    hop = windows.shape[1] // (n_frames + 1)
    if not 1 <= n_bands <= hop:
        raise DataError(f"a frame of {2 * hop} samples has {hop} bins above DC, too few for {n_bands} bands")
    framed = np.lib.stride_tricks.sliding_window_view(windows, 2 * hop, axis=1)[:, : n_frames * hop : hop]
    power = np.abs(np.fft.rfft(framed * np.hanning(2 * hop), axis=2)[..., 1:]) ** 2
    edges = _band_edges(hop, n_bands)
    band = np.add.reduceat(power, edges[:-1], axis=2) / np.diff(edges)
    # The floor is far under any sensor's noise: it only keeps a dead channel finite.
    return np.log(band + 1e-12).astype(np.float32)


def _band_edges(n_bins: int, n_bands: int) -> NDArray[np.int64]:
    """n_bands + 1 strictly ascending edges from 0 to n_bins, geometric from where a band is wider than one bin."""
    edges = np.geomspace(1, n_bins + 1, n_bands + 1).round().astype(np.int64) - 1
    one_bin_each = np.arange(n_bands + 1)
    # The geometric edges are convex, so lifting the crowded first ones never reaches past the last.
    return np.maximum.accumulate(edges - one_bin_each) + one_bin_each


def hashed_lines(logs: Sequence[Sequence[str]], width: int) -> FloatArray:
    """N logs of T lines -> [N, T, width]: hashed words and word pairs, one token of unit length per line.

    Hashing needs no vocabulary, which would be learnt from somebody's private lines (Weinberger et al. 2009).
    """
    n_lines = {len(log) for log in logs}
    if len(n_lines) != 1:
        raise DataError(f"all logs must have the same number of lines, got {sorted(n_lines)}; pad with empty lines")
    vectorizer = HashingVectorizer(n_features=width, ngram_range=(1, 2), dtype=np.float32)
    hashed: FloatArray = vectorizer.transform(line for log in logs for line in log).toarray()
    return hashed.reshape(len(logs), -1, width)


def mean_of_windows(
    texts: Sequence[Sequence[int]],
    encode: Callable[[NDArray[np.int64]], FloatArray],
    longest: int,
    batch: int,
    whole: bool = True,
    fewest: int = 4,
) -> FloatArray:
    """N texts as word pieces -> [N, T, c]: means over windows, which weigh as many pieces as they have.

    Windows are encoded beside others of their own length: padding beside a longer one would change the last bits.

    Args:
        texts: word pieces, any number of each.
        encode: [n, length] pieces -> [n, T, c].
        longest: pieces of a window.
        batch: windows at a time.
        whole: without it only the first window is read.
        fewest: windows at a time at least, filled up by repetition: products of small matrices have other last bits.
    """
    by_length = defaultdict(list)
    for row, pieces in enumerate(texts):
        for start in range(0, max(1, len(pieces)) if whole else 1, longest):
            window = list(pieces[start : start + longest])
            by_length[len(window)].append((row, window))
    found: list[list[tuple[int, FloatArray]]] = [[] for _ in texts]
    for length, windows in by_length.items():
        for start in range(0, len(windows), batch):
            some = windows[start : start + batch]
            filled = np.array([window for _, window in some], np.int64).reshape(len(some), length)
            means = encode(np.pad(filled, ((0, max(0, fewest - len(some))), (0, 0)), mode="edge"))[: len(some)]
            for (row, _), mean in zip(some, means, strict=True):
                found[row].append((length, mean))
    return np.stack([_weighted(parts) for parts in found])


def _weighted(parts: Sequence[tuple[int, FloatArray]]) -> FloatArray:
    if len(parts) == 1:
        return parts[0][1]
    weights = np.array([length for length, _ in parts], np.float32)
    mean: FloatArray = np.einsum("w,wtc->tc", weights / weights.sum(), np.stack([one for _, one in parts]))
    return mean
