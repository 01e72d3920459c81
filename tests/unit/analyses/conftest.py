"""Tiny models, random in every parameter, of three families."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from layerlens.model.lensmodel import LensModel
from tests.unit.analyses.copies import copy_of

torch.set_num_threads(1)

VOCABULARY = 301
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _gpt2() -> PreTrainedModel:
    config = GPT2Config(
        n_layer=3, n_head=2, n_embd=24, vocab_size=VOCABULARY, n_positions=64, **_SPECIAL
    )
    return GPT2LMHeadModel(config)


def _llama() -> PreTrainedModel:
    config = LlamaConfig(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        **_SPECIAL,
    )
    return LlamaForCausalLM(config)


def _gemma2() -> PreTrainedModel:
    config = Gemma2Config(
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        final_logit_softcapping=3.0,
        query_pre_attn_scalar=8,
        **_SPECIAL,
    )
    return Gemma2ForCausalLM(config)


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "gemma2": _gemma2,
}


@cache
def _built(family: str) -> LensModel:
    torch.manual_seed(0)
    hf = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return LensModel.wrap(hf, None, name=f"tiny {family}", prove=False)


def build(family: str) -> LensModel:
    """A tiny random model whose every parameter, norms and biases too, is perturbed."""
    torch.manual_seed(0)  # for what a test draws next
    return copy_of(_built(family))


@pytest.fixture(scope="session", params=list(FAMILIES))
def model(request: pytest.FixtureRequest) -> LensModel:
    """Each family in turn; not to be changed."""
    return build(request.param)


@pytest.fixture
def gpt2() -> LensModel:
    """A fresh model that a test may change."""
    return build("gpt2")
