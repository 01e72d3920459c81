"""Relevance as lxt and captum find it in the same small models (see the script)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import layerlens as ll

STORED = json.loads(Path(__file__).with_name("relevance.json").read_text())


def small_model(family: str) -> Any:
    """The model of the script."""
    if family == "gpt2":
        sizes = {"n_layer": 3, "n_embd": 16, "n_head": 2, "vocab_size": 40, "n_positions": 16}
        model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=None))
    else:
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes = {"num_hidden_layers": 3, "hidden_size": 16, "intermediate_size": 24}
        model = LlamaForCausalLM(LlamaConfig(**sizes, **heads, vocab_size=40))
    random = np.random.default_rng(0)
    for _, array in sorted(model.named_parameters()):
        array.data = torch.tensor(random.normal(0, 0.3, tuple(array.shape)), dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def family(request: pytest.FixtureRequest) -> tuple[str, ll.LensModel]:
    return request.param, ll.load(small_model(request.param), name=request.param)


@pytest.mark.parametrize("rule", ["attnlrp", "cp"])
def test_by_depth_as_lxt_has_it(family: tuple[str, ll.LensModel], rule: str) -> None:
    name, model = family
    found = ll.relevance(model, STORED["ids"], answer=STORED["answer"], rule=rule)
    ours = found.data.relevance.values[: model.n_layers]
    np.testing.assert_allclose(ours, STORED[name][rule], rtol=1e-3, atol=2e-5)


def test_integrated_gradients_as_captum_has_them(family: tuple[str, ll.LensModel]) -> None:
    name, model = family
    asked = {"answer": STORED["answer"], "baseline": STORED["other"], "at": "embed"}
    found = ll.relevance(model, STORED["ids"], rule="integrated", **asked)
    ours = found.data.relevance.values[0]
    np.testing.assert_allclose(ours, STORED[name]["integrated"], rtol=0.02, atol=2e-3)
