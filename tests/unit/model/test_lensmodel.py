"""Models that are not the common case: without a head, in double precision, in train mode."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

import layerlens as ll
from layerlens.model.tiny import tiny_model

CONFIG = LlamaConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=97,
    max_position_embeddings=16,
)


def test_a_model_without_a_head_can_be_recorded_but_not_unembedded() -> None:
    hf = LlamaModel(CONFIG).eval()
    model = ll.load(hf)
    assert "no language-model head" in model.proof.notes[0]
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = hf(ids, output_hidden_states=True).hidden_states[1]
    trace = ll.record(model, [1, 2, 3], "resid_post.0")
    assert torch.equal(trace["resid_post.0"], expected)
    assert trace.logits is None
    with pytest.raises(ll.ModelError, match="AutoModelForCausalLM"):
        ll.logit_lens(model, [1, 2, 3])


def test_double_precision_is_proven_as_far_as_the_float32_head_allows() -> None:
    assert ll.load(LlamaForCausalLM(CONFIG).double().eval()).proof.ok


def test_a_text_longer_than_the_context_is_refused() -> None:
    model = ll.load(LlamaForCausalLM(CONFIG).eval())
    with pytest.raises(ll.InputError, match="20 tokens, but the model takes at most 16"):
        ll.record(model, list(range(20)), "resid_post")


def test_printing() -> None:
    model = ll.load(LlamaForCausalLM(CONFIG).eval(), name="tiny")
    assert repr(model).startswith("LensModel('tiny': llama, 2 blocks, 4 heads, d = 32")
    assert "model.layers.0.self_attn (interface), 4 heads, 2 key-value heads" in str(model.anatomy)
    assert str(model.proof).startswith("Proof of tiny: holds")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_final_row_is_the_model_s_own_where_it_caps_its_logits(dtype: torch.dtype) -> None:
    hf = tiny_model("gemma2", final_logit_softcapping=5.0).to(dtype)
    model = ll.load(hf)
    assert model.proof.full
    ids = list(range(3, 43))
    with torch.inference_mode():
        own = hf(torch.tensor([ids])).logits[0]
        state = ll.record(model, ids, "resid_post.2")["resid_post.2"][0]
        assert torch.equal(model.unembed(state), own.float())
    lens = ll.logit_lens(model, ids)
    off = {check.name: check.error for check in lens.checks}["final row is the model's"]
    # The product of one row may add up in another order than that of many: one rounding of a
    # logit, which is below 4.
    assert off <= 4 * torch.finfo(dtype).eps
