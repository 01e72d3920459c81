"""Models that are not looked into are refused in one sentence that names the reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn
from transformers import AutoModelForCausalLM

import layerlens as ll
from layerlens.model.tiny import tiny_config, tiny_model

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def vit() -> nn.Module:
    config = tf.ViTConfig(**SMALL, num_attention_heads=4, image_size=32, patch_size=8)
    return tf.ViTForImageClassification(config)


def wav2vec() -> nn.Module:
    config = tf.Wav2Vec2Config(
        **SMALL, num_attention_heads=4, conv_dim=(8,), conv_stride=(4,), conv_kernel=(8,),
        vocab_size=20, num_conv_pos_embedding_groups=4, num_conv_pos_embeddings=8,
    )  # fmt: skip
    return tf.Wav2Vec2ForCTC(config)


def t5() -> nn.Module:
    config = tf.T5Config(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=100)
    return tf.T5ForConditionalGeneration(config)


def whisper() -> nn.Module:
    layers = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    heads = {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = tf.WhisperConfig(d_model=32, vocab_size=100, **layers, **heads, **ends)
    return tf.WhisperForConditionalGeneration(config)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (vit, "ViTForImageClassification takes pixel_values, not the token ids of a text"),
        (wav2vec, "Wav2Vec2ForCTC takes input_values, not the token ids of a text"),
        (t5, "T5ForConditionalGeneration is an encoder with a decoder"),
        (whisper, "WhisperForConditionalGeneration is an encoder with a decoder"),
        (lambda: nn.Linear(2, 2), "Linear is not a transformers model"),
    ],
)
def test_what_reads_no_text_or_is_no_decoder(build: Any, said: str) -> None:
    with pytest.raises(ll.ModelError, match=said):
        ll.load(build())


def test_a_model_without_numbers() -> None:
    with torch.device("meta"):
        hf = AutoModelForCausalLM.from_config(tiny_config("llama"))
    with pytest.raises(ll.ModelError, match=r"embed_tokens.weight has no numbers .*'meta'"):
        ll.load(hf)


@pytest.mark.parametrize("prove", [True, False])
def test_an_error_of_the_model_itself_is_told_with_the_step(prove: bool) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("out of luck\nand more")

    hf = tiny_model("llama")
    hf.model.layers[1].mlp.act_fn = Broken()
    with pytest.raises(ll.ModelError, match=r"looked for it raised RuntimeError: out of luck\.$"):
        ll.load(hf, prove=prove)


def test_an_overflow_is_called_one_where_it_begins() -> None:
    hf = tiny_model("llama")
    with torch.no_grad():
        hf.model.layers[1].mlp.down_proj.weight.mul_(20_000)
    said = r"layers\.1\.mlp\.down_proj gives NaN or infinite values, an overflow of float16"
    with pytest.raises(ll.ModelError, match=said):
        ll.load(hf.half())
