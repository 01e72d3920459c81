"""Spectra of weights: planted power laws, random numbers against their law, options."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import layerlens as ll
from layerlens.analyses.measuring.spectrum import _random_share
from layerlens.errors import InputError
from layerlens.metrics.spectra import eigenvalues
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

SIDE, LONG = 96, 256
SHARES = ("density", "shuffled_density", "marchenko_pastur")


@pytest.fixture(scope="module")
def wide() -> LensModel:
    """One block, whose o is square and whose MLP is longer."""
    hf = tiny_model("llama", num_hidden_layers=1, hidden_size=SIDE, intermediate_size=LONG)
    return LensModel.wrap(hf, None, name="wide", prove=False)


def widths(data: xr.Dataset) -> np.ndarray:
    """Widths of the bins, of which the coordinate holds the geometric middle."""
    middle = np.log(data.eigenvalue.values)
    step = np.diff(middle).mean()
    return np.exp(middle + step / 2) - np.exp(middle - step / 2)


def put(model: LensModel, values: torch.Tensor) -> None:
    """Give the up projection these eigenvalues, with random singular vectors."""
    weight = model.hf.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        u, _, v = torch.linalg.svd(torch.randn(weight.shape, dtype=torch.float64), False)
        weight.copy_(u @ torch.diag(values.double().sqrt()) @ v)


def test_random_weights_follow_the_law_of_random_matrices(wide: LensModel) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        wide.hf.model.layers[0].mlp.up_proj.weight.normal_(std=0.3)
    result = ll.spectrum(wide, "up.0", bins=12)
    data = result.data
    assert result.checks.ok and data.attrs["shape"] == f"{LONG} x {SIDE}"
    shares = {name: (data[name] * widths(data)).values for name in SHARES}
    assert shares["density"].sum() == pytest.approx(1, abs=0.02)
    assert shares["shuffled_density"].sum() == pytest.approx(1, abs=0.02)
    expected = shares["marchenko_pastur"].cumsum()
    assert np.abs(shares["density"].cumsum() - expected).max() < 0.05
    assert data.fit.sel(spectrum="weights", number="poor") == 1
    assert "the exponent says nothing" in data.attrs["notes"]


def test_the_law_of_random_matrices_is_that_of_many_draws() -> None:
    generator = torch.Generator().manual_seed(1)
    for shape in ((30, 30), (30, 90)):
        drawn = [eigenvalues(torch.randn(shape, generator=generator)) for _ in range(40)]
        values = np.sort(np.concatenate(drawn))
        share = _random_share(values, shape, (shape[0] * shape[1]) ** 0.5)
        assert np.abs(share - (np.arange(len(values)) + 0.5) / len(values)).max() < 0.03


def test_a_planted_power_law_is_found_and_shuffling_destroys_it(wide: LensModel) -> None:
    alpha = 3.0
    torch.manual_seed(0)
    spread = (1 - (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE) ** (-1 / (alpha - 1))
    put(wide, spread)
    data = ll.spectrum(wide, "up.0").data
    own = data.fit.sel(spectrum="weights")
    assert float(own.sel(number="alpha")) == pytest.approx(alpha, abs=0.3)
    assert own.sel(number="poor") == 0
    np.testing.assert_allclose(data.eigenvalues, spread.flip(0), rtol=1e-4)
    assert float(data.eigenvalues[0]) > 2 * float(data.shuffled_eigenvalues[0])
    fitted = data.density > 0
    ratio = (data.power_law / data.density).where(fitted & np.isfinite(data.power_law))
    assert 0.5 < float(ratio.median()) < 2, "the fitted curve lies on the density"
    metric = ll.layer_metrics(wide, [1, 2], "weight_alpha").data.weight_alpha
    assert float(metric.sel(layer=0, projection="up")) == float(own.sel(number="alpha"))


def test_a_matrix_whose_eigenvalues_are_all_the_same(wide: LensModel) -> None:
    put(wide, torch.ones(SIDE))
    data = ll.spectrum(wide, "up.0").data
    np.testing.assert_allclose(data.eigenvalues, 1, rtol=1e-5)
    assert data.attrs["complete"] == 1 and data.density.max() > 0


def test_embeddings_experts_and_the_default() -> None:
    model = ll.load("toy:induction")
    assert ll.spectrum(model).data.attrs["matrix"] == "q.0"
    embed = ll.spectrum(model, "embed").data
    table = model.hf.get_input_embeddings().weight.detach()
    np.testing.assert_allclose(embed.eigenvalues, eigenvalues(table)[::-1])
    hf = tiny_model("mixtral", num_hidden_layers=1)
    experts = LensModel.wrap(hf, None, name="experts", prove=False)
    first, second = (ll.spectrum(experts, "experts.down.0", expert=i).data for i in (0, 1))
    assert float(first.eigenvalues[0]) != float(second.eigenvalues[0])
    assert second.attrs["matrix"] == "experts.down.0, expert 1"


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        ("q", {}, "expected a projection and its layer, like 'q.3'"),
        ("w.0", {}, "Projection of layer 0: 'w' is not known"),
        ("q.9", {}, "9"),
        ("q.0", {"expert": 1}, "expert is 1; q of layer 0 has 1"),
        ("q.0", {"bins": 1}, "bins is 1; expected 2 or more"),
    ],
)
def test_wrong_options_are_named(matrix: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.spectrum(ll.load("toy:induction"), matrix, **options)


def test_work_is_counted_without_running(wide: LensModel) -> None:
    work = ll.spectrum.work(wide, "up.0")
    assert work.passes == 0 and work.operations > 4 * LONG * SIDE**2
