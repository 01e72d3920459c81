"""MLPs as mixtures of what was written before, against planted ones and plain least squares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.contributions.write_regression import explained, regress, weight_intervals
from layerlens.errors import InputError, ModelError

from ..conftest import build

TEXTS = [[5, 17, a, b] for a in (3, 8, 20, 41) for b in (7, 63, 90)]
SPLIT = split_texts([None] * len(TEXTS), 0, 0.3)


def test_a_planted_mixture_is_recovered() -> None:
    random = np.random.default_rng(0)
    writes, b = random.normal(size=(12, 2, 7)), random.normal(size=7)
    outputs = 2 * writes[:, 0] - writes[:, 1] + b
    fit = regress(writes[:8], outputs[:8])
    np.testing.assert_allclose(fit.weights, [2, -1])
    np.testing.assert_allclose(fit.intercept, b)
    assert explained(fit.errors(writes[8:], outputs[8:]))[0] == pytest.approx(1)
    noisy = outputs + random.normal(size=outputs.shape)
    low, high = weight_intervals(writes, noisy)
    assert (low < [2, -1]).all() and (high > [2, -1]).all() and (high - low < 2).all()
    # Without any writer there is the mean, which explains nothing of what it was made of.
    nothing = regress(np.zeros_like(writes), noisy)
    assert explained(nothing.errors(np.zeros_like(writes), noisy))[0] == pytest.approx(0)
    doubled = np.concatenate([writes, writes[:, :1]], axis=1)
    assert regress(doubled, outputs).condition > 1e10
    assert np.abs(regress(writes, outputs, ridge=1.0).weights).sum() < 3


def test_an_mlp_that_doubles_the_stream_weighs_every_writer_by_two() -> None:
    model = build("llama")
    block: Any = model.hf.model.layers[1]
    b = torch.linspace(-1, 1, model.d_model)
    block.post_attention_layernorm.forward = lambda x: x
    block.mlp.forward = lambda x: 2 * x + b
    found = ll.mlp_decomposition(model, TEXTS, layers=[1], other_answers=[4, 9])
    np.testing.assert_allclose(found.data.weight, 2, atol=1e-2)
    r2 = found.data.r2.sel(layer=1)
    assert float(r2.sel(writes="own")) == pytest.approx(1, abs=1e-4)
    assert float(r2.sel(writes="shuffled")) < 0.5
    assert found.checks.ok
    # The intercept is the bias: its logits are those of the head behind a held norm.
    norm, head = model.hf.model.norm, model.hf.lm_head.weight.detach()
    expected = []
    for text in SPLIT.test:
        state, answer = end(model.hf, TEXTS[text])
        scale = (state.square().mean() + model.hf.config.rms_norm_eps).sqrt()
        logits = head @ (norm.weight.detach() * b / scale)
        expected.append([float(logits[at].mean() - logits.mean()) for at in ([answer], [4, 9])])
    np.testing.assert_allclose(
        found.data.intercept_logit.sel(layer=1), np.mean(expected, 0), rtol=2e-2, atol=2e-2
    )
    named = model.unembed(b[None])[0].topk(5).indices.tolist()
    assert found.data.top_id.sel(layer=1, part="intercept")[0] == named[0]


@torch.no_grad()
def end(hf: Any, ids: list[int]) -> tuple[torch.Tensor, int]:
    """The state before the final norm, and the answer."""
    kept: list[torch.Tensor] = []
    hook = hf.model.norm.register_forward_pre_hook(lambda _, args: kept.append(args[0][0, -1]))
    answer = int(hf(torch.tensor([ids])).logits[0, -1].argmax())
    hook.remove()
    return kept[0], answer


def test_weights_are_those_of_plain_least_squares(gpt2: Any) -> None:
    found = ll.mlp_decomposition(gpt2, TEXTS, layers=[2]).data
    rows, outputs = [], []
    for text in SPLIT.train:
        trace = ll.record(gpt2, TEXTS[text], ["result.2", "resid_mid.2", "mlp_out.2"])
        heads = trace["result", 2][0, -1]
        rows.append(torch.cat([heads, (trace["resid_mid", 2][0, -1] - heads.sum(0))[None]]))
        outputs.append(trace["mlp_out", 2][0, -1])
    x, y = torch.stack(rows).double(), torch.stack(outputs).double()
    x, y = x - x.mean(0), y - y.mean(0)
    plain = torch.linalg.lstsq(x.transpose(1, 2).reshape(-1, x.shape[1]), y.reshape(-1, 1)).solution
    np.testing.assert_allclose(found.weight[0], plain[:, 0], rtol=1e-3, atol=1e-4)
    assert (found.weight_low <= found.weight).all() and (found.weight <= found.weight_high).all()


def test_what_does_not_fit_is_refused(gpt2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for texts, options in (
        (TEXTS, {"ridge": -1.0}),
        (TEXTS[:2], {"test": 0.5}),
        (TEXTS, {"test": 1.0}),
    ):
        with pytest.raises(InputError):
            ll.mlp_decomposition(gpt2, texts, **options)
    monkeypatch.setattr(type(gpt2), "head_matrix", lambda _: None)
    with pytest.raises(ModelError, match="a norm and a matrix"):
        ll.mlp_decomposition(gpt2, TEXTS)
