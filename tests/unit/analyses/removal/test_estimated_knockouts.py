"""Estimates of blocked attention against plain autograd, and where there are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.removal.estimated_knockouts import without
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

IDS, ANSWER, WRONG = [5, 9, 5, 3, 7, 1], 7, 50
SOURCES = {"first": 0, "middle": [2, 3], "last": 5}
HOW: dict[str, Any] = {
    "sources": SOURCES, "window": 1, "metric": "logit_diff", "answer": ANSWER, "wrong": WRONG,
}  # fmt: skip


def perturbed(family: str) -> LensModel:
    hf = tiny_model(family, seed=1)
    torch.manual_seed(0)
    for parameter in hf.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return LensModel.wrap(hf, None, name=family, prove=False)


def by_autograd(hf: Any, keys: list[int]) -> list[float]:
    """The row's change times the derivative by the pattern, layer by layer, from transformers."""
    before = hf.config._attn_implementation
    hf.set_attn_implementation("eager")
    out = hf(torch.tensor([IDS]), output_attentions=True)
    number = out.logits[0, -1, ANSWER] - out.logits[0, -1, WRONG]
    slopes = torch.autograd.grad(number, out.attentions)
    hf.set_attn_implementation(before)
    found = []
    for pattern, slope in zip(out.attentions, slopes, strict=True):
        row = pattern[0, :, -1].detach()
        new = row.clone()
        new[:, keys] = 0
        new = new / (1 - row[:, keys].sum(-1, keepdim=True))
        found.append(float(((new - row) * slope[0, :, -1]).sum()))
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "qwen3", "gpt_oss"])
def test_it_is_the_rows_change_times_the_slope(family: str) -> None:
    model = perturbed(family)
    result = ll.knockout(model, IDS, estimate_first=True, **HOW)
    data = result.data
    assert result.checks.ok
    scale = 100 / abs(data.attrs["clean_metric"])
    for name, keys in SOURCES.items():
        expected = by_autograd(model.hf, keys if isinstance(keys, list) else [keys])
        found = data.estimate.sel(source=name)
        np.testing.assert_allclose(found, np.array(expected) * scale, rtol=2e-3, atol=1e-3 * scale)


def test_a_window_is_the_sum_of_its_layers_and_a_small_effect_is_met() -> None:
    """With attention that hardly counts, what the estimate leaves out does not either."""
    model = perturbed("llama")
    for layer in model.hf.model.layers:
        layer.self_attn.o_proj.weight.data.mul_(1e-3)
    one = ll.knockout(model, IDS, estimate_first=True, **HOW).data
    every = ll.knockout(model, IDS, estimate_first=True, **{**HOW, "window": 9}).data
    for layer in range(model.n_layers):
        np.testing.assert_allclose(every.estimate[:, layer], one.estimate.sum("layer"), rtol=1e-3)
    np.testing.assert_allclose(one.estimate, one.percent_change, rtol=0.1, atol=0.01)
    assert one.attrs["estimate_pearson"] > 0.99


def test_the_sweep_itself_is_the_same_and_the_strongest_comes_first() -> None:
    model = perturbed("llama")
    plain = ll.knockout(model, IDS, **HOW)
    first = ll.knockout(model, IDS, estimate_first=True, **HOW)
    assert "estimate" not in plain.data
    np.testing.assert_allclose(first.data.change, plain.data.change, atol=1e-5)
    assert first.data.attrs["passes"] == plain.data.attrs["passes"] + 3
    assert first.data.attrs["estimate_cells"] == plain.data.change.size
    work = [ll.knockout.work(model, IDS, estimate_first=e, **HOW) for e in (False, True)]
    assert work[1].passes == work[0].passes + 3


def test_several_texts_each_have_their_own() -> None:
    model = perturbed("llama")
    both = ll.knockout(model, [IDS, IDS[::-1]], estimate_first=True, **HOW).data
    alone = ll.knockout(model, IDS[::-1], estimate_first=True, **HOW).data
    np.testing.assert_allclose(both.estimate[1], alone.estimate, rtol=1e-4, atol=1e-4)


def test_what_blocked_keys_had_is_shared_out_with_a_sink_where_there_is_one() -> None:
    row = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.1, 0.0]])
    expected = torch.tensor([[0.0, 0.6, 0.4], [0.0, 0.2, 0.0]])
    torch.testing.assert_close(without(row, [0]).float(), expected)
    faint = torch.tensor([[1.0, 2e-9, 6e-9]])
    torch.testing.assert_close(without(faint, [0]).float(), torch.tensor([[0.0, 0.25, 0.75]]))


def test_where_there_is_none_it_says_why() -> None:
    found = ll.knockout(
        perturbed("llama"), IDS, estimate_first=True, sources=SOURCES, metric="kl"
    ).data
    assert "at its minimum" in found.attrs["no_estimate"]
    assert found.estimate.isnull().all() and np.isfinite(found.change).all()
