"""A lens that was fitted reads states through its map, and only those that it has a map for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import layerlens as ll
from layerlens.analyses.lenses import default_lens
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import Reader, reader_of
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


def fitted(model: LensModel, kind: str, **arrays: torch.Tensor) -> Fitted:
    named = {name.replace("__", "."): array for name, array in arrays.items()}
    named = {name.removeprefix("at_"): array for name, array in named.items()}
    return Fitted(kind, named, ModelFacts.of(model), data="")


def states(model: LensModel) -> torch.Tensor:
    return torch.randn(3, model.d_model, generator=torch.Generator().manual_seed(0))


def test_the_logit_lens_reads_any_point_as_the_head_does(model: LensModel) -> None:
    reader, x = reader_of(model), states(model)
    points = lens_points(model, ("embed", "mid", "post"))
    reader.require(points)
    assert reader.labels is None
    for point in points:
        assert torch.equal(reader.decode(point, x), model.head_input(x))


def test_an_affine_lens_adds_its_map_to_the_state(model: LensModel) -> None:
    d, x = model.d_model, states(model)
    weight, bias = torch.randn(d, d), torch.randn(d)
    reader = reader_of(
        model, fitted(model, "ridge_lens", at_0_post__weight=weight, at_0_post__bias=bias)
    )
    (point,) = lens_points(model, "0_post")
    expected = model.head_input(x + torch.nn.functional.linear(x, weight, bias))
    torch.testing.assert_close(reader.decode(point, x), expected)


def test_a_lens_of_zeros_is_the_logit_lens_and_so_is_a_jacobian_of_one(model: LensModel) -> None:
    d, x = model.d_model, states(model)
    (point,) = lens_points(model, "0_post")
    nothing = fitted(
        model, "tuned_lens", at_0_post__weight=torch.zeros(d, d), at_0_post__bias=torch.zeros(d)
    )
    same = fitted(model, "jacobian_lens", at_0_post__jacobian=torch.eye(d))
    for lens in (nothing, same):
        assert torch.equal(reader_of(model, lens).decode(point, x), model.head_input(x))


def test_the_last_state_needs_no_map_and_others_do(model: LensModel) -> None:
    reader = reader_of(model, fitted(model, "bias_lens", at_0_post__bias=torch.ones(model.d_model)))
    last = f"{model.n_layers - 1}_post"
    reader.require(lens_points(model, ("0_post", last)))
    x = states(model)
    assert torch.equal(reader.decode(*lens_points(model, last), x), model.head_input(x))
    with pytest.raises(ll.InputError, match="fitted for 0_post, not for embed"):
        reader.require(lens_points(model, ("embed", "0_post")))


def test_it_is_opened_by_its_path_and_refused_where_it_does_not_fit(model: LensModel, tmp_path):
    lens = fitted(model, "bias_lens", at_0_post__bias=torch.ones(model.d_model))
    path = lens.save(tmp_path / "bias.safetensors")
    assert reader_of(model, str(path)).name == reader_of(model, lens).name == "bias"
    with pytest.raises(ll.InputError, match="was fitted on"):
        reader_of(ll.load("toy:addition"), lens)
    with pytest.raises(ll.InputError, match="lens is a probe; expected 'logit'"):
        reader_of(model, fitted(model, "probe", w=torch.ones(1)))
    with pytest.raises(ll.InputError, match="lens is a int"):
        reader_of(model, 3)  # type: ignore[arg-type]
    assert isinstance(reader_of(model), Reader)


def test_a_name_opens_the_lens_of_the_default_model(
    model: LensModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAYERLENS_CACHE", str(tmp_path))
    with pytest.raises(ll.InputError, match=r"no ridge lens of the default model .* ridge`, or"):
        reader_of(model, "ridge")
    at = default_lens.place("bias")
    at.parent.mkdir()
    fitted(model, "bias_lens", at_0_post__bias=torch.ones(model.d_model)).save(at)
    assert reader_of(model, "bias").name == "bias"
    with pytest.raises(ll.InputError, match="was fitted on toy:induction"):
        reader_of(ll.load("toy:addition"), "bias")
