"""Any encoder of the Hugging Face hub or a folder of one's own, frozen: safetensors only, no code of its own."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from isogram.config import is_folder
from isogram.data.base import FloatArray
from isogram.data.modalities.audio import Sound
from isogram.data.modalities.base import Encoder
from isogram.data.modalities.image import Picture
from isogram.data.tokens import mean_of_windows, stretches
from isogram.errors import ConfigError
from isogram.tensor_file import fingerprint

_CODE = "1"
"""Another one whenever what is below makes other tokens of a model's hidden states."""

_WINDOW, _SECONDS, _LEAST = 512, 30, 0.1
"""Word pieces and seconds of sound that a model sees at once at most; seconds that sound is filled up to by silence."""

_STRETCHES = 8


class Pretrained:
    """What all of them share: the model in evaluation mode, on the GPU if there is one, and its fingerprint.

    files: sha256 over weights and preprocessing, the same on every machine and in every version of the library.
    """

    _part: ClassVar = ""
    _auto: ClassVar = ""
    _options: ClassVar[dict[str, str]] = {}

    def __init__(self, name: str) -> None:
        """Load model and preprocessing.

        Raises:
            ConfigError: they cannot be.
        """
        import transformers
        from transformers.utils import logging

        name = str(Path(name).expanduser()) if is_folder(name) else name
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._before = self._preprocessing(getattr(transformers, self._auto), name)
            model = transformers.AutoModel.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"encoder hf:{name} cannot be loaded ({str(error).strip().splitlines()[0][:200]}); give a folder that "
                "save_pretrained wrote, with the model's preprocessing, or the name of a model on the Hugging Face "
                "hub that has safetensors"
            ) from error
        # Of a model of two modalities, the half that reads this one; of one that writes, the half that reads.
        model = getattr(model, self._part, model) if self._part else model
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        self._model = model.eval().requires_grad_(False).to(self._device)
        files = [type(model).__name__, self._about(), fingerprint(model.state_dict(), whole=True)]
        self.files = hashlib.sha256(json.dumps(files).encode()).hexdigest()
        about = [_CODE, transformers.__version__, self._device.type, self.files]
        self.fingerprint = f"hf {hashlib.sha256(json.dumps(about).encode()).hexdigest()}"
        # A CPU's threads each have their own item; a GPU takes one batch at a time.
        self._turn = threading.Semaphore(1 if self._device.type == "cuda" else 1 << 20)

    def _preprocessing(self, auto: Any, name: str) -> Any:
        return auto.from_pretrained(name, trust_remote_code=False, **self._options)

    def _about(self) -> str:
        return json.dumps(self._before.to_dict(), sort_keys=True, default=str)

    @torch.inference_mode()
    def _hidden(self, **inputs: Tensor) -> list[Tensor]:
        """Hidden states [n, length, c] of a middle layer and of the last."""
        with self._turn:
            found = self._model(
                **{name: value.to(self._device) for name, value in inputs.items()}, output_hidden_states=True
            )
        states = found.hidden_states
        return [states[len(states) // 2].float().cpu(), states[-1].float().cpu()]


class PretrainedImage(Pretrained):
    """Vision transformers and convolutional networks: of the last layer its first token and means of quarters."""

    _part, _auto = "vision_model", "AutoImageProcessor"
    # Torchvision scales pictures to other numbers, and not everybody has it.
    _options: ClassVar = {"backend": "pil"}
    batch = 8

    def __call__(self, read: Sequence[Picture]) -> FloatArray:
        """[n, 5, c]: what stands before the grid of patches, or else the mean; then the means of its four quarters."""
        pixels = [self._before(images=one.on_white(), return_tensors="pt")["pixel_values"] for one in read]
        if self._device.type == "cuda" and len({one.shape for one in pixels}) == 1:
            return self._tokens(torch.cat(pixels))
        # One by one, or last bits would depend on how many there are.
        return np.concatenate([self._tokens(one) for one in pixels])

    @torch.inference_mode()
    def _tokens(self, pixels: Tensor) -> FloatArray:
        with self._turn:
            last = self._model(pixel_values=pixels.to(self._device)).last_hidden_state.float().cpu()
        if last.ndim == 3:
            side = int(last.shape[1] ** 0.5)
            before = last.shape[1] - side**2
            grid = last[:, before:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
            first = last[:, 0] if before else grid.mean((2, 3))
        else:
            grid, first = last, last.mean((2, 3))
        quarters = F.adaptive_avg_pool2d(grid, 2).flatten(2).transpose(1, 2)
        return torch.cat([first[:, None], quarters], 1).numpy()


class PretrainedAudio(Pretrained):
    """Encoders of sound: means over eighths of its time, of a middle layer and of the last."""

    _part, _auto = "audio_model", "AutoFeatureExtractor"
    batch = 8

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.rate = int(self._before.sampling_rate)
        self._filled = getattr(self._before, "n_samples", 0)  # Whisper's fills every window up to 30 s
        if not self._filled and (hasattr(self._before, "max_length") or hasattr(self._before, "nb_max_samples")):
            raise ConfigError(
                f"encoder hf:{name}: {type(self._before).__name__} cuts sound to a length of its own; choose a model "
                "that hears waveforms, as Wav2Vec2, HuBERT and WavLM do, or a Whisper"
            )

    def __call__(self, read: Sequence[Sound]) -> FloatArray:
        """[n, 16, c]; sound longer than 30 s is heard one window after the other."""
        return np.stack([self._tokens(one.wave) for one in read])

    def _tokens(self, wave: FloatArray) -> FloatArray:
        size, least = self._filled or _SECONDS * self.rate, int(_LEAST * self.rate)
        parts = [wave[start : start + size] for start in range(0, len(wave), size)]
        heard = [self._heard(np.pad(part, (0, max(0, least - len(part))))) for part in parts]
        layers = [stretches(np.concatenate(layer), _STRETCHES) for layer in zip(*heard, strict=True)]
        return np.concatenate(layers).astype(np.float32)

    def _heard(self, wave: FloatArray) -> list[NDArray[np.float32]]:
        inputs = self._before(wave, sampling_rate=self.rate, return_tensors="pt")
        name = "input_values" if "input_values" in inputs else "input_features"
        layers = [layer[0].numpy() for layer in self._hidden(**{name: inputs[name]})]
        return [layer[: -(-len(layer) * len(wave) // (self._filled or len(wave)))] for layer in layers]


class PretrainedText(Pretrained):
    """Language models: means over word pieces, of a middle layer and of the last."""

    _part, _auto = "text_model", "AutoTokenizer"
    batch = 128

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._reading = threading.Lock()  # a tokenizer's truncation is a state of it
        bare, whole = (self._before("A", add_special_tokens=marks)["input_ids"] for marks in (False, True))
        start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)
        self._marks = (whole[:start], whole[start + len(bare) :])
        places = getattr(self._model.config, "max_position_embeddings", None) or _WINDOW
        self._window = min(_WINDOW, self._before.model_max_length, places) - sum(map(len, self._marks))

    def _about(self) -> str:
        vocabulary = json.dumps(self._before.get_vocab(), sort_keys=True)
        whole = getattr(self._before, "backend_tokenizer", None)
        return vocabulary + (whole.to_str() if whole is not None else "")

    def __call__(self, read: Sequence[str]) -> FloatArray:
        """[n, 2, c]; longer texts are read one window after the other."""
        with self._reading:
            pieces = [self._before(text, add_special_tokens=False)["input_ids"] for text in read]
        return mean_of_windows(pieces, self._means, self._window, 32)

    def _means(self, pieces: NDArray[np.int64]) -> FloatArray:
        before, after = (np.tile(np.array(marks, np.int64), (len(pieces), 1)) for marks in self._marks)
        hidden = self._hidden(input_ids=torch.from_numpy(np.hstack([before, pieces, after])))
        return torch.stack([one.mean(1) for one in hidden], 1).numpy()


PRETRAINED: dict[str, Callable[[str], Encoder]] = {
    "image": PretrainedImage,
    "audio": PretrainedAudio,
    "text": PretrainedText,
    "sequence": PretrainedText,
}
"""Kind -> what loads an encoder of it."""
