"""Sound: WAV, FLAC and Ogg files. They need soundfile, of the extra `silos`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import dct

from isogram.config import ModalityConfig
from isogram.data.base import FloatArray
from isogram.data.modalities.base import MOST, BadItem, Builtin, Encoder, Item, path_of, refuse_large, resampling
from isogram.data.tokens import frames
from isogram.errors import ConfigError

RATE = 16000
"""Samples a second to which sound is resampled, unless the settings or the encoder say otherwise."""

_LONGEST = 600
"""Seconds; what is longer would fill the memory, and is rarely one thing."""

_UNKNOWN = 1 << 60
"""Samples that libsndfile says of a file which does not say how many."""

_SLOWEST = 1000
"""Samples a second that the built-in tokenizer takes at least."""

_CEPSTRA, _FRAMES, _A_SECOND = 20, 16, 100
_FEWEST = 3
"""Spectra that are taken at least: one is centred in more samples than it is apart from the next."""


@dataclass(frozen=True)
class Sound:
    """One channel, [samples] at `rate` a second. original, channels: rate and channels of the file."""

    wave: FloatArray
    rate: int
    original: int
    channels: int


class AudioKind:
    """A recording: channels averaged, at the rate of the settings."""

    name = "audio"
    suffixes = frozenset({".wav", ".flac", ".ogg", ".oga"})

    def read(self, item: Item, config: ModalityConfig) -> Sound:
        """The sound; see `Kind.read`."""
        path = path_of(item)
        if not path.stat().st_size:
            raise BadItem(f"{item.where}: is an empty file; copy it again or leave it out")
        try:
            import soundfile
        except (ImportError, OSError) as error:
            raise ConfigError(f"sound needs more: pip install -e '.[silos]' in the clone ({error})") from error
        from isogram.data.pictures.sound import resampled

        try:
            about = soundfile.info(path)
            if about.samplerate > MOST:
                raise BadItem(f"{item.where}: {about.samplerate:,} samples a second; at most {MOST:,} are read")
            if about.frames > _UNKNOWN:
                raise BadItem(f"{item.where}: does not say how long it is, as if streamed; save it as a whole file")
            if about.duration > _LONGEST:
                raise BadItem(
                    f"{item.where}: lasts {about.duration:,.0f} s; cut it into pieces of at most {_LONGEST} s"
                )
            refuse_large(item, 4 * about.frames * about.channels, "save it with fewer channels or cut it into pieces")
            sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise BadItem(
                f"{item.where}: cannot be read as sound ({error.error_string}); save it as WAV, FLAC or Ogg"
            ) from error
        if not len(sound):
            raise BadItem(f"{item.where}: holds no sound; replace it or leave it out")
        if len(sound) < about.frames or _is_cut_short(path):
            raise BadItem(f"{item.where}: is cut short after {len(sound) / rate:.1f} s; copy it again or leave it out")
        if not np.isfinite(sound).all():
            raise BadItem(f"{item.where}: holds samples that are no finite numbers; replace it or leave it out")
        mean = sound.mean(1)
        if not mean.any():
            why = "all its samples are 0" if not sound.any() else "its channels cancel each other"
            raise BadItem(f"{item.where}: is silent ({why}); replace it or leave it out")
        to = config.rate or RATE
        return Sound(resampled(mean, rate, to), to, rate, sound.shape[1])

    def describe(self, read: Sound) -> str:
        """How long it is, and what was made of channels and rate."""
        seconds = len(read.wave) / read.rate
        averaged = "" if read.channels == 1 else f", {read.channels} channels averaged"
        made = "" if read.original == read.rate else f", resampled to {read.rate:,}"
        return f"{seconds:.1f} s{averaged}, {read.original:,} Hz{made}"

    def changes(self, read: Sound) -> tuple[str, ...]:
        """Another rate, and several channels."""
        averaged = (f"with {read.channels} channels, averaged to one",) if read.channels > 1 else ()
        return (*resampling(read.original, read.rate), *averaged)

    def content(self, read: Sound) -> bytes:
        """Its samples, and how fast they come."""
        return f"{read.rate}\n".encode() + np.ascontiguousarray(read.wave, "<f4").tobytes()

    def builtin(self, config: ModalityConfig) -> Encoder:
        """20 cepstral coefficients of 16 stretches of its own time, from first to last sound: [16, 20]."""
        if (config.rate or RATE) < _SLOWEST:
            raise ConfigError(
                f"rate = {config.rate}: the built-in tokenizer of audio takes {_SLOWEST:,} samples a second at least; "
                'read slower signals as kind = "series"'
            )
        return Builtin(self.name, "1", _tokens)


def _is_cut_short(path: Path) -> bool:
    """Whether a WAV has fewer bytes than its header says, which libsndfile reads without a word."""
    with path.open("rb") as file:
        start = file.read(8)
    size = int.from_bytes(start[4:], "little")
    # A program that writes to a pipe cannot know the size, and says 0 or the most there is.
    return start[:4] == b"RIFF" and 0 < size < 2**32 - 64 and size + 8 > path.stat().st_size + 1


def _tokens(sounds: Sequence[Sound]) -> FloatArray:
    from isogram.data.pictures.sound import log_mel, voiced

    cepstra = []
    for one in sounds:
        wave = voiced(one.wave, one.rate)
        length = -(-len(wave) * _A_SECOND // one.rate)
        mel = log_mel(wave, max(length, _FEWEST), one.rate).numpy()[:, :length]
        cepstra.append(dct(mel, axis=0, norm="ortho")[:_CEPSTRA].T)
    return frames(np.concatenate(cepstra), [len(one) for one in cepstra], _FRAMES)


AUDIO = AudioKind()
