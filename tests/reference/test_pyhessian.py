"""Second derivatives by block as PyHessian finds them in the same small models (see the script)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import layerlens as ll

STORED = json.loads(Path(__file__).with_name("pyhessian.json").read_text())


def small_model(family: str) -> Any:
    """The model of the script."""
    if family == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 40, "n_positions": 16}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, vocab_size=40))
    random = np.random.default_rng(0)
    for _, array in sorted(model.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    return model.eval()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_largest_eigenvalue_and_the_trace_of_each_block(family: str) -> None:
    model, stored = ll.load(small_model(family)), STORED[family]
    options = {"control": False, "seed": 1}
    top = ll.hessian(model, STORED["ids"], what="top", steps=200, **options)
    assert top.checks.ok
    np.testing.assert_allclose(top.data.top, stored["top"], rtol=0.02)
    data = ll.hessian(model, STORED["ids"], draws=200, **options).data
    for found, error, wanted, theirs in zip(
        data.trace.values,
        data.trace_error.values,
        stored["trace"],
        stored["trace_error"],
        strict=True,
    ):
        assert abs(found - wanted) < 3 * (error**2 + theirs**2) ** 0.5
        assert error < 0.3 * float(np.abs(stored["top"]).max())  # enough draws to say something
