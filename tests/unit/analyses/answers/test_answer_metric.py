"""Metrics against the model's own logits, in plain torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from layerlens.analyses.answers.answer_metric import METRICS, make_metric
from layerlens.errors import InputError, LayerLensError
from layerlens.model.lensmodel import LensModel

IDS = [[1, 5, 9, 20], [1, 6, 9, 21], [1, 7, 9, 33]]


@pytest.fixture
def states(model: LensModel) -> tuple[Tensor, Tensor]:
    """States before the final norm, and the model's own logits, by a plain hook."""
    base = model.hf.base_model
    norm = getattr(base, "norm", None) or base.ln_f
    seen: list[Tensor] = []
    hook = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model.hf(torch.tensor(IDS)).logits[:, -1]
    hook.remove()
    return seen[0][:, -1], logits


def test_every_metric_is_what_its_name_says(
    model: LensModel, states: tuple[Tensor, Tensor]
) -> None:
    final, logits = states
    z = logits.double()
    p = z.softmax(-1)
    expected = {
        "logit_diff": z[:, 7] - z[:, 3],
        "logit": z[:, 7],
        "probability": p[:, 7],
        "logprob": p[:, 7].log(),
        "kl": (p[:1] * (p[:1].log() - p.log())).sum(-1),
        "rank": torch.tensor([1 + sum(row > row[7]).item() for row in z]),
    }
    with torch.no_grad():
        for name, value in expected.items():
            wrong = 3 if name == "logit_diff" else None
            metric = make_metric(model, name, final=final[0], answer=7, wrong=wrong)
            found = metric(final)
            assert found.dtype == torch.float64
            torch.testing.assert_close(found, value.double(), rtol=1e-5, atol=2e-5)
            torch.testing.assert_close(metric.of_logits(logits.float()), found, rtol=0, atol=2e-5)


def test_a_function_of_the_logits_is_a_metric(
    model: LensModel, states: tuple[Tensor, Tensor]
) -> None:
    final, logits = states

    def spread(logits: Tensor) -> Tensor:
        return logits.amax(-1) - logits.mean(-1)

    with torch.no_grad():
        metric = make_metric(model, spread, final=final[0])
        assert (metric.name, metric.units) == ("spread", "1")
        torch.testing.assert_close(metric(final).float(), spread(logits), rtol=1e-5, atol=1e-5)
        with pytest.raises(InputError, match="one number a row"):
            make_metric(model, lambda logits: logits.sum(), final=final[0])(final)


@pytest.mark.parametrize("name", METRICS)
def test_a_function_is_never_looked_up_by_its_name(
    model: LensModel, states: tuple[Tensor, Tensor], name: str
) -> None:
    def mine(logits: Tensor) -> Tensor:
        return torch.full(logits.shape[:1], 42.0)

    mine.__name__ = name
    with torch.no_grad():
        metric = make_metric(model, mine, final=states[0][0], answer=7)
        assert metric(states[0]).tolist() == [42.0] * len(IDS)
    assert (metric.name, metric.units, metric.smooth) == (f"own {name}", "1", True)
    assert metric.words == f"own {name}"


def test_tokens_that_are_not_named_are_the_models_own(
    model: LensModel, states: tuple[Tensor, Tensor]
) -> None:
    final, logits = states
    best = logits.topk(2).indices
    with torch.no_grad():
        alone = make_metric(model, "logit_diff", final=final[0])
        assert (alone.answer, alone.wrong) == (int(best[0, 0]), int(best[0, 1]))
        same = make_metric(model, "logit_diff", final=final[0], other=final[0])
        assert same.wrong == int(best[0, 1])
        other = make_metric(model, "logit_diff", final=final[0], other=final[1], answer=299)
        assert other.wrong == int(best[1, 0])
        assert make_metric(model, "probability", final=final[0]).answer == int(best[0, 0])


def test_gradients_flow(model: LensModel, states: tuple[Tensor, Tensor]) -> None:
    final = states[0].detach().double().float().requires_grad_()
    metric = make_metric(model, "logit_diff", final=final[0].detach(), answer=7, wrong=3)
    (gradient,) = torch.autograd.grad(metric(final).sum(), final)
    step = 1e-2 * gradient / gradient.norm()
    with torch.no_grad():
        moved = (metric(final + step) - metric(final - step)).sum()
    assert float(moved) == pytest.approx(2 * 1e-2 * float(gradient.norm()), rel=1e-2)


def test_bad_input_is_refused(gpt2: LensModel) -> None:
    final = torch.randn(24)
    with torch.no_grad():
        with pytest.raises(InputError, match="did you mean 'logit_diff'"):
            make_metric(gpt2, "logit_dif", final=final)
        with pytest.raises(InputError, match="the same token"):
            make_metric(gpt2, "logit_diff", final=final, answer=4, wrong=4)
        with pytest.raises(InputError):
            make_metric(gpt2, "logit", final=final, answer=4000)
        with pytest.raises(LayerLensError, match="NaN"):
            make_metric(gpt2, "logit", final=final * math.nan, answer=4)
