"""Spoken names: Ogg Vorbis or WAV -> 16 kHz voiced speech -> the log-mel spectrum that Whisper hears."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import resample_poly
from torch import Tensor

from isogram.data.base import FloatArray
from isogram.errors import DataError

RATE = 16000
"""Samples a second."""

_FLOOR_DB, _MELS = 35.0, 80
_FRAMES, _WINDOWS, _HOPS = 50, 40, 100
"""A second: of stretches that are loud or not, of spectra if they did not overlap, and of spectra as they do."""


def decode(path: Path) -> FloatArray:
    """[samples] one channel at 16 kHz.

    Raises:
        DataError: no sound file, or an empty one.
    """
    import soundfile

    try:
        sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: cannot be read as sound ({error})") from error
    if not len(sound):
        raise DataError(f"{path}: holds no sound")
    return resampled(sound.mean(1), rate, RATE)


def resampled(sound: FloatArray, rate: int, to: int) -> FloatArray:
    """[samples] at `rate` -> the same sound at `to` samples a second."""
    divisor = int(np.gcd(to, rate))
    return resample_poly(sound, to // divisor, rate // divisor).astype(np.float32)


def voiced(sound: FloatArray, rate: int = RATE) -> FloatArray:
    """From the first to the last 20 ms that are within 35 dB of the loudest: silence around says nothing of a name."""
    size = rate // _FRAMES
    frames = np.pad(sound, (0, -len(sound) % size)).reshape(-1, size)
    level = 10 * np.log10(np.square(frames).mean(1) + 1e-12)
    loud = np.flatnonzero(level > level.max() - _FLOOR_DB)
    return sound[loud[0] * size : (loud[-1] + 1) * size]


def at_speed(sound: FloatArray, percent: int) -> FloatArray:
    """The same played at `percent` of its speed, as on a tape: pitch and formants move along."""
    divisor = int(np.gcd(100, percent))
    return resample_poly(sound, 100 // divisor, percent // divisor).astype(np.float32)


def mel_filters(rate: int = RATE) -> NDArray[np.float64]:
    """[80, rate / 80 + 1] triangles on Slaney's mel scale up to half the rate, each of unit area.

    Slaney, Auditory Toolbox, 1998.
    """
    top = rate / 2
    mels = np.linspace(0, 15 + 27 * np.log(top / 1000) / np.log(6.4) if top > 1000 else top * 3 / 200, _MELS + 2)
    edges = np.where(mels < 15, 200 / 3 * mels, 1000 * np.exp(np.log(6.4) / 27 * (mels - 15)))
    ramps = edges[:, None] - np.fft.rfftfreq(rate // _WINDOWS, 1 / rate)
    width = np.diff(edges)[:, None]
    triangles = np.maximum(0, np.minimum(-ramps[:-2] / width[:-1], ramps[2:] / width[1:]))
    return triangles * (2 / (edges[2:] - edges[:-2]))[:, None]


def log_mel(sound: FloatArray, frames: int, rate: int = RATE) -> Tensor:
    """[80, frames] of the sound followed by silence: a frame is 10 ms (Radford et al. 2022, section 2.2)."""
    size, hop = rate // _WINDOWS, rate // _HOPS
    wave = torch.zeros(frames * hop)
    wave[: len(sound)] = torch.from_numpy(sound)[: len(wave)]
    spectrum = torch.stft(wave, size, hop, window=torch.hann_window(size), return_complex=True)[:, :-1]
    mel = torch.from_numpy(mel_filters(rate)).float() @ spectrum.abs().square()
    level = mel.clamp(min=1e-10).log10()
    return (torch.maximum(level, level.max() - 8) + 4) / 4
