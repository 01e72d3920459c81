"""Estimates of removals against plain autograd, and where there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.sweeps.estimates import among_strongest, hardly_differ
from layerlens.errors import Cancelled

from .. import by_hooks as by
from ..by_hooks import IDS
from ..lenses.test_logit_lens import Recorder
from .test_ablate_sweep import ANSWER, REFERENCE, TOKENS, WRONG, columns_of, mean_over, place_of


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    return by.wrapped("llama")


def by_autograd(model: ll.LensModel, unit: str, layer: int, index: int, how: str) -> float:
    """Replacement less output, times the derivative by the output, with a plain hook."""
    module, side = place_of(model.hf, unit, layer)
    held: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        held.append(value.detach().clone().requires_grad_())
        return held[-1]

    if side == "in":
        hook = module.register_forward_pre_hook(lambda m, args: (keep(args[0]), *args[1:]))
    else:

        def after(m: torch.nn.Module, args: object, out: object) -> object:
            return (keep(out[0]), *out[1:]) if isinstance(out, tuple) else keep(out)

        hook = module.register_forward_hook(after)
    try:
        logits = model.hf(input_ids=torch.tensor([IDS]), use_cache=False).logits[0, -1]
        (slope,) = torch.autograd.grad(logits[ANSWER] - logits[WRONG], held[-1:])
    finally:
        hook.remove()
    new = 0.0 if how == "zero" else mean_over(model.hf, unit, layer, REFERENCE)
    moved = (new - held[-1][0]) * slope[0]
    return float(moved[:, columns_of(model.hf, unit, index)].detach().sum())


@pytest.mark.parametrize("unit", ["head", "attn", "mlp", "neuron"])
@pytest.mark.parametrize("how", ["zero", "mean"])
def test_it_is_the_derivative_times_the_way(model: ll.LensModel, unit: str, how: str) -> None:
    more = {"reference": REFERENCE} if how == "mean" else {}
    found = ll.ablate_sweep(
        model, IDS, unit=unit, how=how, estimate_first=True, verify=0, **more, **TOKENS
    ).data["estimate"]
    for layer, index in ((0, 1), (model.n_layers - 1, 0)):
        place = {unit: index} if unit in ("head", "neuron") else {}
        expected = by_autograd(model, unit, layer, index if place else 0, how)
        assert float(found.sel(layer=layer, **place)) == pytest.approx(expected, abs=2e-5)


def test_the_sweep_itself_is_the_same(model: ll.LensModel) -> None:
    plain = ll.ablate_sweep(model, IDS, how="zero", **TOKENS).data
    first = ll.ablate_sweep(model, IDS, how="zero", estimate_first=True, **TOKENS).data
    assert "estimate" not in plain
    np.testing.assert_allclose(first["effect"], plain["effect"], atol=2e-5)
    assert first.attrs["estimate_cells"] == plain["effect"].size
    one, two = (first[name].values.ravel() for name in ("estimate", "effect"))
    assert first.attrs["estimate_pearson"] == pytest.approx(np.corrcoef(one, two)[0, 1], abs=1e-4)
    assert first.attrs["passes"] == plain.attrs["passes"] + 3
    assert any("correlation of the estimate" in note for note in json.loads(first.attrs["notes"]))
    work = [ll.estimate("ablate_sweep", model, IDS, estimate_first=e).passes for e in (False, True)]
    assert work[1] == work[0] + 3


def test_a_stopped_sweep_has_all_estimates_and_the_strongest_cells(model: ll.LensModel) -> None:
    whole = ll.ablate_sweep(model, IDS, how="zero", estimate_first=True, **TOKENS).data
    with pytest.raises(Cancelled) as stopped:
        ll.ablate_sweep.run(
            model, IDS, {"how": "zero", "estimate_first": True, "method": "naive", **TOKENS},
            Recorder(stop_at=5),
        )  # fmt: skip
    data = stopped.value.partial.data  # type: ignore[union-attr]
    np.testing.assert_allclose(data["estimate"], whole["estimate"], atol=1e-6)
    known = np.isfinite(data["effect"].values)
    assert 0 < known.sum() < known.size
    size = np.abs(whole["estimate"].values)
    assert size[known].min() >= size[~known].max() - 1e-7


def test_each_text_has_its_own(model: ll.LensModel) -> None:
    several = ll.ablate_sweep(
        model, [IDS, IDS[::-1]], how="resample", draws=3, reference=REFERENCE,
        estimate_first=True, **TOKENS,
    ).data  # fmt: skip
    assert several["estimate"].dims == ("batch", "layer", "head")
    assert len(json.loads(several.attrs["estimate_pearson"])) == 2
    one = ll.ablate_sweep(model, IDS, how="mean", reference=REFERENCE[:1], by_position=False,
                          estimate_first=True, **TOKENS).data  # fmt: skip
    assert np.isscalar(one.attrs["estimate_pearson"])


def test_where_there_is_none_it_says_why(model: ll.LensModel) -> None:
    for metric, why in (("kl", "at its minimum"), ("rank", "no gradient")):
        options = {"metric": metric, **({"answer": ANSWER} if metric == "rank" else {})}
        found = ll.ablate_sweep(model, IDS, how="zero", estimate_first=True, **options).data
        assert why in found.attrs["no_estimate"]
        assert found["estimate"].isnull().all()
        assert np.isfinite(found["effect"]).all()


def test_agreement_among_the_strongest() -> None:
    """Right about what is small, wrong about what is large."""
    truth = np.concatenate([np.linspace(-1, 1, 72), np.arange(10.0, 18.0)])
    estimates = np.concatenate([truth[:72], truth[72:][::-1]])
    assert among_strongest(estimates, truth) == pytest.approx(-1)
    assert np.corrcoef(estimates, truth)[0, 1] > 0.9
    assert np.isnan(among_strongest(estimates[:70], truth[:70]))
    assert not hardly_differ(truth)


def test_among_cells_that_hardly_differ_there_is_no_order() -> None:
    """Eight cells that bring nearly everything back, estimated in any order."""
    truth = np.concatenate([np.linspace(-0.5, 0.5, 72), 1 + np.linspace(-0.02, 0.02, 8)])
    estimates = np.concatenate([truth[:72], truth[72:][::-1]])
    assert hardly_differ(truth)
    assert np.isnan(among_strongest(estimates, truth))
    assert not hardly_differ(truth[:70]), "of too few nothing is said"
