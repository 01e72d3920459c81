"""A lens view of lenses that were fitted, one or several over one pass."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import traitlets as t

import layerlens as ll
from layerlens.errors import InputError, ResultError
from layerlens.export.pack import unpack
from layerlens.figures import draw
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted, ModelFacts
from layerlens.views import LensView, view_of
from layerlens.views.exports import export
from layerlens.views.question import QuestionView

from .fakes import until
from .tiny import tiny_llama

TEXT = "w1 w2 w3 w4"
SCORES = {
    "kl/embed": 1.0,
    "kl/0_post": 0.5,
    "kl_logit/embed": 4.0,
    "kl_logit/0_post": 2.0,
    "kl_uniform/embed": 3.0,
    "kl_uniform/0_post": 3.0,
}


@pytest.fixture(autouse=True)
def true_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LensView, "analysis", QuestionView.analysis)


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_llama()


@pytest.fixture(scope="module")
def ridge(model: LensModel) -> Fitted:
    d, made = model.d_model, torch.Generator().manual_seed(1)
    arrays = {f"{p}.weight": torch.randn(d, d, generator=made) for p in ("embed", "0_post")}
    facts, scores = ModelFacts.of(model), {"test": SCORES}
    return Fitted("ridge_lens", arrays, facts, "texts", scores=scores, call="ridge")


def shown(model: LensModel, lens: Any, **keywords: Any) -> LensView:
    view = LensView(model, TEXT, lens=lens, **keywords)
    view.wait(10)
    return view


def test_it_names_its_lenses_and_sends_all_of_them(model: LensModel, ridge: Fitted) -> None:
    view = shown(model, ["logit", ridge], tracked=["w3"])
    assert (view.lens, view.through, view.compare) == (["logit", "ridge"], 0, "alone")
    logit, fitted = view.meta["lenses"]
    last = [None] * (len(view.meta["points"]) - 2)
    kl = [4.0, 2.0, *last]
    assert logit == {"name": "logit", "points": None, "heldout": kl, "uniform": 3.0}
    kl = [1.0, 0.5, *last]
    points = ["embed", "0_post"]
    assert fitted == {"name": "ridge", "points": points, "heldout": kl, "uniform": 3.0}
    expected = ll.logit_lens(model, TEXT, lens=["logit", ridge], tracked=["w3"]).data
    assert view.result is not None
    np.testing.assert_array_equal(view.result.data["kl_between"], expected["kl_between"])
    again = eval(view.meta["code"], {"ll": ll, "model": model, "ridge": ridge})
    np.testing.assert_array_equal(again.data["change"], expected["change"])
    heads = [h for c, _ in view.comm.customs("frame") for h in c["arrays"]]
    assert {h["name"] for h in heads if h["dims"][0] == "lens"} >= {"token_id", "kl_between"}
    asked = len(view.comm.customs("frame"))
    view.comm.set(through=1)
    view.comm.set(compare="beside")
    assert view.status["run"] == 1 and len(view.comm.customs("frame")) == asked


def test_one_lens_alone_and_another_question(model: LensModel, ridge: Fitted) -> None:
    view = shown(model, ridge)
    assert (view.lens, view.meta["lenses"][0]["name"]) == (["ridge"], "ridge")
    assert view.result is not None and "lens" not in view.result.data.dims
    view.text = "w5 w6"
    assert view.wait(10).data.attrs["lenses"] == view.result.data.attrs["lenses"]  # type: ignore[union-attr]
    view.run(lens=["logit", ridge])
    assert view.wait(10).data.sizes["lens"] == 2  # type: ignore[union-attr]
    view.run(points="mid")
    with pytest.raises(InputError, match="not for 0_mid"):
        view.wait(10)
    with pytest.raises(t.TraitError, match=r"set view\.lens"):
        view.options = {"lens": "logit"}
    with pytest.raises(InputError, match="not both"):
        LensView(model, TEXT, other="w1 w2 w3 w5", lens=ridge)


def test_a_pinned_token_is_followed_through_each(model: LensModel, ridge: Fitted) -> None:
    view = shown(model, ["logit", ridge])
    view.comm.custom(kind="request", rid=1, method="track", params={"position": 1, "id": 7})
    until(lambda: view.comm.customs("reply"))
    reply = view.comm.customs("reply")[0][0]["result"]
    expected = ll.logit_lens(model, TEXT, lens=["logit", ridge], tracked=[7]).data
    np.testing.assert_allclose(
        reply["probability"], expected.tracked_probability[:, :, 1, 0], rtol=1e-5
    )


def test_what_is_chosen_is_drawn_and_saved(model: LensModel, ridge: Fitted, tmp_path: Path) -> None:
    view = shown(model, ["logit", ridge], through=1)
    view.row, view.position = 1, 2
    pictures = set()
    for compare in ("alone", "beside", "change", "kl"):
        view.compare = compare
        pictures.add(export(view, "svg")[2])
    view.through = 0
    assert len(pictures | {export(view, "svg")[2]}) == 5
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]))
    assert table[table["selected"] == 1]["lens"].tolist() == ["logit"]
    traits, packed = view._frozen()
    assert (traits["lens"], traits["through"], traits["compare"]) == (["logit", "ridge"], 0, "kl")
    assert unpack(packed)[0]["lenses"] == view.meta["lenses"]
    assert view.result is not None
    live = view_of(view.result)
    assert live.live and live.lens == view.lens and live.compare == "alone"
    frozen = view_of(ll.open(view.result.save(tmp_path / "lenses.nc")))
    assert not frozen.live and frozen.meta["lenses"] == view.meta["lenses"]


def test_a_figure_shows_one_lens_or_two_and_how_well_each_does(
    model: LensModel, ridge: Fitted
) -> None:
    data = ll.logit_lens(model, TEXT, lens=["logit", ridge]).data

    def cells(**options: Any) -> np.ndarray:
        axes = draw("lens", data, **options).axes[0]
        values = np.asarray(axes.collections[0].get_array())
        return values.reshape(data.sizes["point"], -1)

    own = data["probability"].isel(k=0)
    np.testing.assert_allclose(cells(), own.sel(lens="logit"), atol=1e-6)
    np.testing.assert_allclose(cells(lens="ridge"), own.sel(lens="ridge"), atol=1e-6)
    both = cells(beside=True)
    np.testing.assert_allclose(both, np.concatenate([*own.values], 1), atol=1e-6)
    np.testing.assert_allclose(cells(color="kl_between"), data["kl_between"].sel(lens="ridge"))
    figure = draw("lens", data)
    curves = [
        list(np.nan_to_num(line.get_xdata(), nan=-1)[:2])  # type: ignore[arg-type]
        for axes in figure.axes
        for line in axes.lines
        if line.get_gid() == "score"
    ]
    np.testing.assert_allclose(curves, [[4.0, 2.0], [1.0, 0.5]])
    far = data.assign_coords(heldout_kl=data.heldout_kl.where(data.heldout_kl != 4, 100))
    (aside,) = (axes for axes in draw("lens", far).axes if axes.get_xlabel() == "KL (nats)")
    np.testing.assert_allclose(aside.get_xlim(), (0, 6))  # twice the guess of 3 nats
    assert max(np.nanmax(line.get_xdata()) for line in aside.lines) == 6
    # ln V = 4.16, but on the texts set apart a uniform guess is 3 nats away from the final answer.
    worse = [patch for patch in figure.axes[0].patches if patch.get_gid() == "worse"]
    assert [patch.get_y() for patch in worse] == [0]  # type: ignore[attr-defined]
    for options in ({"lens": "bias"}, {"lens": 2}, {"lens": "logit", "beside": True}):
        with pytest.raises(ResultError, match="lens"):
            draw("lens", data, **options)


def test_another_lens_is_compared_with_after_another_run(model: LensModel, ridge: Fitted) -> None:
    view = shown(model, ["logit", ridge, "sublayer"], through=1)
    assert (view.meta["against"], view._comparison()) == (0, {"lens": 1})
    view.compare = "kl"
    assert view._comparison() == {"lens": 1, "color": "kl_between"}
    view.options = {**view.options, "against": "ridge"}
    until(lambda: view.meta["against"] == 1)
    view.wait(10)
    assert view._comparison() == {"lens": 1}  # it is apart from itself by nothing
    view.through = 2
    assert view._comparison() == {"lens": 2, "color": "kl_between"}
    assert view.result is not None
    assert float(view.result.data.kl_between.sel(lens="ridge").max()) == 0
    assert "against='ridge'" in view.meta["code"]
    told = {"name": "sublayer", "points": None, "heldout": None, "uniform": None}
    assert view.meta["lenses"][2] == told


def test_beside_opens_with_two_lenses(model: LensModel, ridge: Fitted) -> None:
    assert shown(model, ["logit", ridge], compare="beside").through == 1
    assert shown(model, ["logit", ridge], compare="kl", through=0).through == 0
    assert shown(model, ["logit", ridge]).through == 0
    # where another is compared with, the first one is another than that
    assert shown(model, ["logit", ridge], compare="beside", against="ridge").through == 0
