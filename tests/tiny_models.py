"""Models of every kind as `save_pretrained` writes them: random weights, width 32, two layers."""

import functools
import tempfile
from pathlib import Path

import torch

VOCABULARY = {
    "bert": ["the", "a", "pump", "hums", "quietly", "loud", "valve"],
    "letters": list("ACGTN"),
}


@functools.cache
def tiny(name):
    """Folder of one of them, made once a process: vit, resnet, bert, letters, wav2vec2, whisper."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # Kept as long as the process: a name's folder is asked for by several tests.
    folder = Path(tempfile.mkdtemp(prefix="isogram-tiny-")) / name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in {"vit": _vit, "resnet": _resnet, "wav2vec2": _wav2vec2, "whisper": _whisper}.get(
            name, lambda: _bert(VOCABULARY[name], letters=name == "letters")
        )():
            part.save_pretrained(folder)
    return folder


def _vit():
    from transformers import ViTConfig, ViTModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    shape = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    return ViTModel(shape), ViTImageProcessorPil(size={"height": 32, "width": 32})


def _resnet():
    from transformers import ResNetConfig, ResNetModel
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    shape = ResNetConfig(embedding_size=8, hidden_sizes=[8, 32], depths=[1, 1], layer_type="basic")
    return ResNetModel(shape), ViTImageProcessorPil(size={"height": 32, "width": 32})


def _bert(words, *, letters):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated") if letters else pre_tokenizers.Whitespace()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    shape = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=20,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=20,
    )
    return BertModel(shape), fast


def _wav2vec2():
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    shape = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=(16,) * 7,
        num_conv_pos_embedding_groups=4,
        num_conv_pos_embeddings=16,
    )
    return Wav2Vec2Model(shape), Wav2Vec2FeatureExtractor()


def _whisper():
    """One that hears two seconds at a time."""
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    shape = WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        vocab_size=30,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        max_source_positions=100,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperModel(shape), WhisperFeatureExtractor(chunk_length=2)
