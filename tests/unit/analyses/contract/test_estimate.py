"""Estimates of every analysis, against what a run counts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Model

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.estimate import Work, estimate_work
from layerlens.model.lensmodel import LensModel

from ..small_calls import NAMES, arguments

EXACT = ("logit_lens", "layer_metrics", "head_scores", "checkpoint_difference", "top_texts")
"""Those whose passes follow from the call alone."""


@pytest.mark.parametrize("name", NAMES)
def test_every_analysis_can_be_estimated(name: str, gpt2: LensModel) -> None:
    texts, options = arguments(name, gpt2)
    found = ll.estimate(name, gpt2, *texts, **options)
    assert found.passes >= 0
    assert math.isfinite(found.seconds)
    assert found.seconds > 0
    assert found.bytes > 0


@pytest.mark.parametrize("name", EXACT)
def test_passes_are_those_of_a_run(name: str, gpt2: LensModel) -> None:
    texts, options = arguments(name, gpt2)
    counted = registry.get(name)(gpt2, *texts, **options).data.attrs["passes"]
    assert ll.estimate(name, gpt2, *texts, **options).passes == counted


def operations(hf: Any, work: Work) -> float:
    model = LensModel.wrap(hf.eval(), None, name="tiny", prove=False)
    found = estimate_work(model, {"text": model.tokens([1] * 10)}, work)
    speed = float(found.how.split(" at ")[1].split(" GFLOP")[0]) * 1e9
    return found.seconds * speed


def test_a_head_of_its_own_is_counted_with_its_rows_only() -> None:
    config = {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 500, "n_positions": 16}
    torch.manual_seed(0)
    tied = GPT2LMHeadModel(GPT2Config(**config))
    untied = GPT2LMHeadModel(GPT2Config(**config, tie_word_embeddings=False))
    blocks = sum(p.numel() for p in tied.transformer.h.parameters())
    blocks += sum(p.numel() for p in tied.transformer.ln_f.parameters())
    for hf in (tied, untied):
        assert operations(hf, Work(3, 0, 0)) == pytest.approx(2 * blocks * 10 * 3, rel=0.06)
        assert operations(hf, Work(0, 7, 0)) == pytest.approx(2 * 500 * 32 * 7, rel=0.06)


def test_steps_of_one_token_take_the_time_of_a_row_each(monkeypatch: pytest.MonkeyPatch) -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=500, n_positions=16)
    hf = GPT2LMHeadModel(config).eval()
    model = LensModel.wrap(hf, None, name="tiny", prove=False)
    speeds = {64: (1e9, "64 rows"), 1: (1e6, "a row")}
    speed = "layerlens.analyses.contract.estimate._operations_per_second"
    monkeypatch.setattr(speed, lambda model, rows=64: speeds[rows])
    fed = {"text": model.tokens([1] * 10)}
    found = estimate_work(model, fed, Work(0, 0, 0, steps=3))
    read = sum(p.numel() for p in hf.parameters()) - 16 * 32  # places are looked up
    assert found.seconds == pytest.approx(2 * read * 3 / 1e6)
    assert "3 steps of one token" in found.how


def test_a_model_without_a_head_is_estimated_by_its_largest_matrix() -> None:
    config = GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=500, n_positions=16)
    model = LensModel.wrap(GPT2Model(config).eval(), None, name="headless", prove=False)
    found = ll.estimate("layer_metrics", model, [1, 2, 3], ["residual_norm"])
    assert found.seconds > 0
    assert "largest matrix" in found.how


def test_a_corpus_is_counted_and_not_run(gpt2: LensModel) -> None:
    corpus = ll.texts([list(range(3, 3 + length)) for length in (4, 7, 30)], length=10)
    work = ll.layer_metrics.work(gpt2, corpus, ["residual_norm"])
    assert (work.passes, work.head_rows, work.tokens) == (1, 1 + 1 + 3, 4 + 7 + 30)
    found = ll.estimate("layer_metrics", gpt2, corpus, ["residual_norm"])
    assert found.passes == 1
    attrs = ll.layer_metrics(gpt2, corpus, ["residual_norm"]).data.attrs
    assert attrs["passes"] == 1
    assert attrs["tokens"] == work.tokens
