"""A tiny masked language model, random in every parameter."""

from __future__ import annotations

import torch
from transformers import BertConfig, BertForMaskedLM

from layerlens.model.lensmodel import LensModel
from tests.unit.model.tokenizers_by_hand import word_piece

MASK = 1


def bert() -> LensModel:
    """Three blocks; its tokenizer calls token 1 the mask."""
    config = BertConfig(
        vocab_size=301,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    hf = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    tokenizer = word_piece()
    assert tokenizer.mask_token_id == MASK
    return LensModel.wrap(hf, tokenizer, name="tiny bert", prove=False)
