"""Models whose last blocks are known by construction, and texts to fit on."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from layerlens.model.lensmodel import LensModel

Texts = list[list[int]]
VOCABULARY = 61


def build(last: str) -> LensModel:
    """Three blocks of GPT-2; the last one is ``"affine"`` in the state, or adds a ``"constant"``,
    or ``"nothing"`` that the final norm lets through; all others are as random as any."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=32,
        activation_function="linear", bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        block = hf.transformer.h[-1]
        block.attn.c_proj.weight.zero_()
        block.attn.c_proj.bias.zero_()
        if last == "affine":
            block.ln_2 = torch.nn.Identity()
        else:
            block.mlp.c_proj.weight.zero_()
        if last == "nothing":
            block.mlp.c_proj.bias.fill_(0.1)
    return LensModel.wrap(hf, None, name=last, prove=False)


@pytest.fixture(scope="session")
def texts() -> Texts:
    """Twenty texts of 24 tokens."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (20, 24), generator=generator).tolist()


@pytest.fixture(scope="session")
def affine() -> LensModel:
    return build("affine")


@pytest.fixture(scope="session")
def constant() -> LensModel:
    return build("constant")


@pytest.fixture(scope="session")
def nothing() -> LensModel:
    return build("nothing")
