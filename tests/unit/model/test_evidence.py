"""A comparison of logits can fail, however much of the vocabulary is masked."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.model.evidence import error, logit_error, logit_size
from layerlens.model.tiny import tiny_model

IDS = [5, 9, 3, 7]
INF = float("inf")
MASKED = 50
"""Tokens from here on are cut from the vocabulary."""


def masked(value: float) -> ll.LensModel:
    hf = tiny_model("phi")
    with torch.no_grad():
        hf.lm_head.bias[MASKED:] = value
    return ll.load(hf)


@pytest.mark.parametrize("value", [-1e4, -1e9, -INF])
def test_masked_logits_do_not_say_how_large_the_others_are(value: float) -> None:
    own = torch.tensor([[3.0, -2.0, value], [1.0, value, -7.0]])
    assert logit_size(own) == 7
    off = own.clone()
    off[0, 1] += 0.7
    assert logit_error(own, own) == 0
    assert logit_error(off, own) == pytest.approx(0.1)


def test_masked_logits_are_compared_relative_to_themselves() -> None:
    own = torch.tensor([[3.0, -1e9]])
    assert logit_error(torch.tensor([[3.0, -1e9 - 64]]), own) == pytest.approx(6.4e-8)
    assert logit_error(torch.tensor([[3.0, -2e9]]), own) == pytest.approx(1)
    assert logit_error(torch.tensor([[3.0, -INF]]), own) == INF
    assert logit_error(torch.tensor([[3.0]]), own) == INF


def test_infinities_are_no_difference_where_they_are_equal() -> None:
    a = torch.tensor([1.0, -INF])
    assert error(a, a) == 0
    assert error(torch.tensor([1.5, -INF]), a) == 0.5
    assert error(torch.tensor([1.0, 0.0]), a) == INF
    assert not error(torch.tensor([float("nan"), -INF]), a) <= INF


@pytest.mark.parametrize("value", [-1e4, -1e9, -INF])
def test_a_masked_vocabulary_is_read_like_any_other(value: float) -> None:
    model = masked(value)
    assert model.proof.full
    lens = ll.logit_lens(model, IDS, tracked=[3, MASKED + 1])
    assert lens.checks.ok
    limits = {check.name: check.limit for check in lens.checks}
    assert limits["final row is the model's"] < 0.01
    data = lens.data
    assert int(data.token_id.max()) < MASKED
    for name in ("entropy", "kl_to_final", "probability", "tracked_probability"):
        assert np.isfinite(data[name].values).all(), name
    own = ll.record(model, IDS, []).logits[0].double()
    assert float(data.kl_to_final[-1].max()) == pytest.approx(0, abs=1e-5)
    expected = torch.distributions.Categorical(logits=own[:, :MASKED]).entropy()
    assert np.allclose(data.entropy.values[-1], expected, atol=1e-5)
    with torch.inference_mode():
        unembedded = model.unembed(ll.record(model, IDS, "resid_post.0")["resid_post.0"][0])
    point = unembedded[:, :MASKED].double().log_softmax(-1)
    final = own[:, :MASKED].log_softmax(-1)
    kl = (final.exp() * (final - point)).sum(-1)
    assert np.allclose(data.kl_to_final.sel(point="0_post").values, kl, atol=1e-4)
    assert (data.tracked_rank.sel(tracked=data.tracked[1]) > MASKED).all()


@pytest.mark.parametrize("value", [-1e9, -INF])
def test_limits_of_patching_and_attribution_stay_small(value: float) -> None:
    model = masked(value)
    grid = ll.patch_sweep(model, clean=IDS, corrupt=[5, 9, 4, 7], answer=8, wrong=9)
    assert grid.checks.ok
    assert all(check.limit < 0.1 for check in grid.checks)
    parts = ll.direct_logit_attribution(model, IDS, answer=8, wrong=9)
    assert parts.checks.ok
    assert all(check.limit < 0.1 for check in parts.checks)
    centred = ll.direct_logit_attribution(model, IDS, answer=8, center=True)
    assert np.isfinite(centred.data.contribution.values).all()


def test_a_wrong_head_is_not_hidden_by_masked_logits() -> None:
    model = masked(-1e9)
    with torch.no_grad():
        model.hf.lm_head.bias[:10] += 0.5
        lens = ll.logit_lens(model, IDS)
        assert lens.checks.ok
        handle = model.hf.register_forward_hook(
            lambda module, args, output: [output.logits[..., :10].add_(0.5), None][1]
        )
        try:
            lens = ll.logit_lens(model, IDS)
        finally:
            handle.remove()
    failed = [check.name for check in lens.checks if not check.ok]
    assert "final row is the model's" in failed
