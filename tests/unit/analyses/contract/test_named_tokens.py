"""Options that name tokens, as an analysis is given them and as its result says."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import layerlens as ll
from tests.unit.model import tokenizers_by_hand as by_hand


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    tokenizer = by_hand.llama2()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=32,
    )
    return ll.load(LlamaForCausalLM(config).eval(), tokenizer, prove=False)


def probability(model: ll.LensModel, prompt: str, token: str) -> float:
    index = model.tokenizer.convert_tokens_to_ids(token)
    ids = torch.tensor([model.tokenizer.encode(prompt)])
    with torch.no_grad():
        return float(model.hf(ids).logits[0, -1].softmax(-1)[index])


def test_a_tracked_letter_has_the_probability_that_the_model_gives_it(model: Any) -> None:
    lens = ll.logit_lens(model, "answer is:", tracked="A")
    expected = probability(model, "answer is:", "A")
    assert float(lens.data.tracked_probability[-1, -1, 0]) == pytest.approx(expected, rel=1e-4)
    assert lens.data.tracked_token.item() == "A"
    assert any("without a space" in note for note in json.loads(lens.data.attrs["notes"]))
    run = ll.run(model, "answer is:")
    assert run.probability("A") == pytest.approx(expected, rel=1e-4)


def test_each_text_has_its_answer(model: Any) -> None:
    texts = ["answer is:", "B:"]
    found = ll.ablate_sweep(model, texts, metric="probability", answer=["A", " A"])
    ids = model.tokenizer.convert_tokens_to_ids(["A", "▁A"])
    assert json.loads(str(found.data.attrs["answer"])) == ids
    assert "answer=['A', ' A']" in found.code
    one = ll.ablate_sweep(model, texts, metric="probability", answer="A")
    assert json.loads(str(one.data.attrs["answer"])) == [ids[0]] * 2
    with pytest.raises(ll.InputError, match="answer has 2 entries for 1 text:"):
        ll.ablate_sweep(model, texts[0], answer=["A", "B"])
    with pytest.raises(ll.InputError, match="not one token but"):
        ll.ablate_sweep(model, texts, answer="Paris")


def test_an_answer_follows_the_text_that_is_steered_or_written_into(model: Any) -> None:
    """Behind a space of its own the piece without one follows; ids have no text to follow."""
    found = ll.back_patch(model, "answer is:", into="B:", answer="A", layers=[0, 1])
    assert int(found.data.answer_id) == model.tokenizer.convert_tokens_to_ids("A")
