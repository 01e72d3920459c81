"""Models that are not looked into are refused in one sentence that names the reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import layerlens as ll
from layerlens.model.tiny import tiny_config, tiny_model

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def test_what_is_no_model_of_transformers() -> None:
    with pytest.raises(ll.ModelError, match="Linear is not a transformers model"):
        ll.load(nn.Linear(2, 2))


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
