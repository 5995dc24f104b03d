"""Time series: one CSV, TSV or NumPy archive per item; its columns are channels."""

import csv
import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import (
    MOST,
    BadItem,
    Builtin,
    Encoder,
    Item,
    bytes_of,
    numbers_content,
    refuse_large,
    resampling,
)
from isogram.data.sheets import few
from isogram.data.silos.tables import number
from isogram.data.tokens import spectral_frames, stretches

_FRAMES, _BANDS = 16, 8
_SHORTEST = (_FRAMES + 1) * _BANDS
"""Lines that 16 spectra of 8 bands need; shorter series are stretched to them."""

_RATE = "rate"
"""Entry of an archive that says how many samples a second it has."""


@dataclass(frozen=True)
class Series:
    """[samples, channels], channels in the order of the settings' `columns`. others: those the settings do not name.

    rate: samples a second, None if nobody says so; original: of the file, likewise.
    """

    values: NDArray[np.float64]
    others: tuple[str, ...]
    rate: int | None
    columns: tuple[str, ...] = ()
    original: int | None = None


class SeriesKind:
    """Channels sampled at the same times, which are evenly spaced."""

    name = "series"
    suffixes = frozenset({".csv", ".tsv", ".npz"})

    def columns(self, item: Item) -> tuple[str, ...]:
        """All channels of the file; see `Columned`."""
        names, values, _ = _load(item)
        _refuse_time(item, names, values)
        return names

    def read(self, item: Item, config: ModalityConfig) -> Series:
        """The channels; see `Kind.read`."""
        names, values, rate = _load(item)
        wanted = config.columns
        if not wanted:
            _refuse_time(item, names, values)
            wanted = names
        if missing := [name for name in wanted if name not in names]:
            raise BadItem(
                f"{item.where}: lacks the channels {few(missing)}, has {few(names)}; add them, or name others in "
                "`columns`"
            )
        values = values[:, [names.index(name) for name in wanted]]
        if not np.isfinite(values).all():
            line, channel = np.argwhere(~np.isfinite(values))[0]
            raise BadItem(
                f"{item.where}: sample {line + 1} of {wanted[channel]!r} is no finite number; impute it or leave the "
                "item out"
            )
        if rate is not None and config.rate is None:
            raise BadItem(
                f"{item.where}: has {rate:,} samples a second; set `rate` of the modality, to which all are resampled"
            )
        if rate is not None and config.rate is not None and config.rate != rate:
            refuse_large(item, 8 * values.size * config.rate / rate, "cut it into pieces or lower `rate`")
            values = _resampled(values, rate, config.rate)
        known = set(wanted)
        return Series(values, tuple(name for name in names if name not in known), config.rate, wanted, rate)

    def changes(self, read: Series) -> tuple[str, ...]:
        """Another rate."""
        return () if read.rate is None or read.original is None else resampling(read.original, read.rate)

    def content(self, read: Series) -> bytes:
        """The samples by their channels."""
        return numbers_content(read.columns, read.values)

    def describe(self, read: Series) -> str:
        """Samples, channels, and seconds if the rate is known."""
        samples, channels = read.values.shape
        seconds = "" if read.rate is None else f", {samples / read.rate:.1f} s at {read.rate:,} Hz"
        return f"{samples:,} samples of {channels} channel{'' if channels == 1 else 's'}{seconds}"

    def builtin(self, config: ModalityConfig) -> Encoder:
        """16 stretches of its own time; of each channel mean, log variance, and log power in 8 bands: [16, 10 C].

        Bands end at half the sampling rate, whatever that is: resample what was sampled at several rates.
        """
        return Builtin(self.name, "1", _tokens, batch=16)


def _load(item: Item) -> tuple[tuple[str, ...], NDArray[np.float64], int | None]:
    data = bytes_of(item)
    assert item.path is not None
    names, values, rate = _from_npz(item, data) if item.path.suffix.lower() == ".npz" else _from_text(item, data)
    if not values.size:
        raise BadItem(f"{item.where}: holds no samples; replace it or leave it out")
    return names, values, rate


def _from_npz(item: Item, data: bytes) -> tuple[tuple[str, ...], NDArray[np.float64], int | None]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            refuse_large(item, sum(one.file_size for one in packed.infolist()))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = dict(archive)
            if not all(isinstance(array, np.ndarray) for array in arrays.values()):
                raise ValueError("it holds other files")
    except BadItem:
        raise
    except Exception as error:  # a damaged archive may fail anywhere in zipfile, zlib or NumPy's header
        raise BadItem(f"{item.where}: cannot be read as a NumPy archive ({error}); save it by numpy.savez") from error
    stated = arrays.pop(_RATE, None)
    rate = None
    if stated is not None:
        if stated.size != 1 or stated.dtype.kind not in "iuf" or not _is_rate(stated.item()):
            raise BadItem(
                f"{item.where}: its {_RATE!r} is no whole number of samples a second up to {MOST:,}; correct it"
            )
        rate = int(stated.item())
    wrong = [name for name, array in arrays.items() if array.ndim != 1 or array.dtype.kind not in "biuf"]
    if wrong or len({len(array) for array in arrays.values()}) != 1:
        raise BadItem(
            f"{item.where}: {f'{few(wrong)} are' if wrong else 'its arrays are'} no channels; give one array of "
            "numbers per channel, by its name, all of one length"
        )
    refuse_large(item, 8 * sum(array.size for array in arrays.values()))
    return tuple(arrays), np.stack([array.astype(np.float64) for array in arrays.values()], axis=1), rate


def _from_text(item: Item, data: bytes) -> tuple[tuple[str, ...], NDArray[np.float64], None]:
    try:
        text = data.decode("utf-8-sig").rstrip() + "\n"
        first = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text), delimiter=max("\t;,", key=first.count), strict=True)
        lines = [(reader.line_num, line) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadItem(f"{item.where}: cannot be read as a CSV ({error}); save it as UTF-8") from error
    if not any(line for _, line in lines):
        raise BadItem(f"{item.where}: holds no samples; replace it or leave it out")
    names = tuple(name.strip() for name in lines[0][1])
    if not any(math.isnan(number(name)) for name in names):
        raise BadItem(f"{item.where}: its first line holds numbers; add a line with the names of the channels")
    if "" in names or len(set(names)) != len(names):
        raise BadItem(f"{item.where}: channels without a name or with the same one; give each its own")
    for at, line in lines[1:]:
        if len(line) != len(names):
            raise BadItem(f"{item.where}: line {at} has {len(line)} cells, the first {len(names)}; correct it")
    cells = np.array([line for _, line in lines[1:]]).reshape(-1, len(names))
    values = np.empty(cells.shape)
    for column in range(len(names)):
        # What is no number is wrong only if the channel is used, which is not known here.
        values[:, column] = [number(cell) for cell in cells[:, column].tolist()]
    return names, values, None


def _is_rate(value: float) -> bool:
    return bool(1 <= value <= MOST and value == int(value))


def _refuse_time(item: Item, names: Sequence[str], values: NDArray[np.float64]) -> None:
    """A channel that only says when: it rises by one step."""
    steps = np.diff(values, axis=0)
    if len(steps) < 3:
        return
    with np.errstate(invalid="ignore"):
        even = (steps > 0).all(0) & (np.ptp(steps, axis=0) <= 1e-6 * np.abs(steps).max(0))
    if even.any():
        time = [name for name, one in zip(names, even, strict=True) if one]
        raise BadItem(f"{item.where}: {few(time)} rises evenly, as time does; name the channels to use in `columns`")


def _resampled(values: NDArray[np.float64], rate: int, to: int) -> NDArray[np.float64]:
    from scipy.signal import resample_poly

    divisor = int(np.gcd(to, rate))
    # Beyond its ends a signal goes on along the line through them: a drift has no step there.
    return resample_poly(values, to // divisor, rate // divisor, axis=0, padtype="line")


def _tokens(series: Sequence[Series]) -> FloatArray:
    rows = []
    for one in series:
        values = one.values
        if len(values) < _SHORTEST:
            at = np.linspace(0, len(values) - 1, _SHORTEST)
            values = np.stack([np.interp(at, np.arange(len(values)), channel) for channel in values.T], axis=1)
        centred = values - values.mean(0)
        means = stretches(centred, _FRAMES)
        variances = np.maximum(stretches(centred**2, _FRAMES) - means**2, 0)
        bands = spectral_frames(centred.T, _FRAMES, _BANDS).swapaxes(0, 1).reshape(_FRAMES, -1)
        rows.append(np.hstack([means + values.mean(0), np.log(variances + 1e-12), bands]))
    return np.stack(rows).astype(np.float32)


SERIES = SeriesKind()
