"""Bidirectional models are told from causal ones by what they do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from tests.unit.model.tokenizers_by_hand import word_piece


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "mixtral", "mamba", "bloom"])
def test_decoders_do_not(family: str) -> None:
    assert not LensModel.wrap(tiny_model(family), None, prove=False).bidirectional


@pytest.fixture(scope="module")
def bert() -> LensModel:
    tokenizer = word_piece()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
    )
    hf = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return ll.load(hf, tokenizer)


def test_a_lens_on_a_masked_model_has_targets_at_masks_only(bert: LensModel) -> None:
    assert bert.bidirectional
    lens = ll.logit_lens(bert, "the capital is [MASK] the rome")
    own = bert.hf(torch.tensor([bert.tokenizer.encode("the capital is [MASK] the rome")]))
    answer = int(own.logits[0, 3].argmax())
    assert lens.data.target_id.values.tolist() == [-1, -1, -1, answer, -1, -1]
    assert lens.data["rank"].isel(point=-1).values.tolist() == [-1, -1, -1, 1, -1, -1]
    assert (lens.data["rank"].values[:, 3] >= 1).all()
    assert np.isnan(lens.data.cross_entropy).all()
    assert "reads in both directions" in " ".join(json.loads(lens.data.attrs["notes"]))
    assert all(check.ok for check in lens.checks)
    none = ll.logit_lens(bert, "the capital is rome")
    assert (none.data.target_id == -1).all() and all(check.ok for check in none.checks)


def test_patching_everything_gives_the_other_run_of_a_masked_model(bert: LensModel) -> None:
    clean, corrupt = "the capital is [MASK] the rome", "the capital is [MASK] the paris"
    grid = ll.patch_sweep(bert, clean, corrupt, answer="rome", wrong="paris")
    checks = {check.name: check for check in grid.checks}
    assert checks["patching everything gives the other run"].ok
    assert all(check.ok for check in grid.checks)
    assert abs(grid.data.attrs["clean_metric"] - grid.data.attrs["corrupt_metric"]) > 1e-3
    attributed = ll.attribution_patch(bert, clean, corrupt, answer="rome", wrong="paris")
    assert all(check.ok for check in attributed.checks)
