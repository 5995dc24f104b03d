"""Encoders in the format of the Hugging Face hub, on small models that are made here: nothing is downloaded."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from tiny_models import tiny

from isogram.config import ModalityConfig
from isogram.data.modalities.base import Item
from isogram.data.modalities.encode import encode
from isogram.data.modalities.encoders import encoder_of
from isogram.errors import ConfigError

RNG = np.random.default_rng(0)


def settings(kind, name, **more):
    return ModalityConfig(kind=kind, encoder=f"hf:{tiny(name)}", **more)


def cells(*texts):
    return [Item(f"notes.csv, line {row}", text=text) for row, text in enumerate(texts, 2)]


@pytest.fixture
def pictures(tmp_path):
    items = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        Image.fromarray(RNG.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
        items.append(Item(path.name, path=path))
    return items


@pytest.fixture
def sounds(tmp_path):
    items = []
    for number, seconds in enumerate((0.02, 0.5, 1.0, 4.5)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, RNG.normal(0, 0.1, int(seconds * 16000)), 16000)
        items.append(Item(path.name, path=path))
    return items


def items_of(name, pictures, sounds):
    return {
        "vit": ("image", pictures, (5, 32)),
        "resnet": ("image", pictures, (5, 32)),
        "bert": ("text", cells("the pump hums", "a pump", "the loud valve " * 20, "quietly, again"), (2, 32)),
        "letters": ("sequence", cells("ACGT", "acgtn" * 12, "GGG"), (2, 32)),
        "wav2vec2": ("audio", sounds, (16, 32)),
        "whisper": ("audio", sounds, (16, 32)),
    }[name]


@pytest.mark.parametrize("name", ["vit", "resnet", "bert", "letters", "wav2vec2", "whisper"])
def test_items_become_tokens_that_do_not_depend_on_others(name, pictures, sounds, tmp_path):
    kind, items, shape = items_of(name, pictures, sounds)
    config = settings(kind, name)
    together = encode(items, config, cache=tmp_path / "together")
    assert together.tokens.shape == (len(items), *shape) and not together.bad
    assert len(np.unique(together.tokens.reshape(len(items), -1), axis=0)) == len(items)
    for row in range(len(items)):
        alone = encode(items[row : row + 1], config, cache=tmp_path / "alone")
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])


def test_tokens_of_pictures_are_the_class_token_and_means_of_quarters(pictures, tmp_path):
    from transformers import AutoImageProcessor, ViTModel

    tokens = encode(pictures[:1], settings("image", "vit"), cache=tmp_path).tokens[0]
    model = ViTModel.from_pretrained(tiny("vit")).eval()
    pixels = AutoImageProcessor.from_pretrained(tiny("vit"), backend="pil")(
        images=Image.open(pictures[0].path), return_tensors="pt"
    )
    with torch.inference_mode():
        hidden = model(**pixels).last_hidden_state[0].numpy()
    np.testing.assert_allclose(tokens[0], hidden[0], atol=1e-6)
    grid = hidden[1:].reshape(4, 4, 32)
    np.testing.assert_allclose(tokens[2], grid[:2, 2:].mean((0, 1)), atol=1e-6)


def test_a_long_text_is_read_to_its_end(tmp_path):
    """Eighteen words fill the window of the small model; what stands behind them still counts."""
    texts = ["the pump hums " * 6 + end for end in ("", "loud", "valve")]
    tokens = encode(cells(*texts), settings("text", "bert"), cache=tmp_path).tokens
    assert np.abs(tokens[1] - tokens[2]).max() > 1e-3 < np.abs(tokens[0] - tokens[1]).max()


def test_long_sound_is_heard_to_its_end(sounds, tmp_path):
    """The small Whisper hears two seconds: of 4.5 s the last half is in the third window."""
    wave, rate = soundfile.read(sounds[3].path)
    wave[4 * rate :] *= 5
    soundfile.write(sounds[3].path.with_name("other.wav"), wave, rate)
    other = Item("other.wav", path=sounds[3].path.with_name("other.wav"))
    tokens = encode([sounds[3], other], settings("audio", "whisper"), cache=tmp_path).tokens.reshape(2, 2, 8, 32)
    difference = np.abs(tokens[0] - tokens[1]).max((0, 2))
    assert difference[7] > 1e-3 and (difference[:7] < 1e-6).all()


def test_sound_is_resampled_to_what_the_model_hears(sounds, tmp_path):
    assert encoder_of(settings("audio", "wav2vec2")).rate == 16000
    with pytest.raises(ConfigError, match=r"hears 16,000 samples a second, rate = 8,000; leave `rate` out"):
        encode(sounds, settings("audio", "wav2vec2", rate=8000), cache=tmp_path)


def test_other_weights_and_other_preprocessing_have_another_fingerprint(tmp_path):
    from transformers import BertModel, ViTModel

    first = encoder_of(settings("text", "bert")).fingerprint
    folder = tmp_path / "bert"
    model = BertModel.from_pretrained(tiny("bert"))
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[5, 7] += 1e-3  # one number, which no sample of 64 need have
    model.save_pretrained(folder)
    for path in tiny("bert").glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    changed = encoder_of(ModalityConfig(kind="text", encoder=f"hf:{folder}")).fingerprint
    assert changed != first

    folder = tmp_path / "vit"
    ViTModel.from_pretrained(tiny("vit")).save_pretrained(folder)
    about = json.loads((tiny("vit") / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(about | {"image_mean": [0.4, 0.5, 0.5]}))
    changed = encoder_of(ModalityConfig(kind="image", encoder=f"hf:{folder}")).fingerprint
    assert changed != encoder_of(settings("image", "vit")).fingerprint


def test_files_are_told_apart_by_content_not_by_place(tmp_path):
    for name in ("vit", "bert", "wav2vec2"):
        kind = {"vit": "image", "bert": "text", "wav2vec2": "audio"}[name]
        shutil.copytree(tiny(name), tmp_path / name)
        moved = encoder_of(ModalityConfig(kind=kind, encoder=f"hf:{tmp_path / name}"))
        assert moved.files == encoder_of(settings(kind, name)).files


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    for path in tiny("bert").iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ConfigError, match=r"cannot be loaded .*safetensors"):
        encoder_of(ModalityConfig(kind="text", encoder=f"hf:{tmp_path}"))


def test_code_of_a_model_is_not_run(tmp_path):
    for path in tiny("bert").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    about = json.loads((tmp_path / "config.json").read_text())
    about |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.OwnModel"}}
    (tmp_path / "config.json").write_text(json.dumps(about))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        encoder_of(ModalityConfig(kind="text", encoder=f"hf:{tmp_path}"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["table", "series"])
def test_kinds_without_encoders_of_the_hub_say_so(kind):
    with pytest.raises(ConfigError, match=f"kind '{kind}' has no encoders of the Hugging Face hub; give builtin"):
        encoder_of(ModalityConfig(kind=kind, encoder="hf:some/model"))


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere"])
def test_a_folder_that_is_not_there_is_named_and_the_hub_is_not_blamed(name):
    with pytest.raises(ConfigError, match=f"hf:{name} cannot be loaded: there is no folder {name}; correct") as caught:
        encoder_of(ModalityConfig(kind="text", encoder=f"hf:{name}"))
    assert "Hub" not in str(caught.value) and "hub" not in str(caught.value)
