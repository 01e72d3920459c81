"""The scatter: live, from a result, frozen, as a figure, and of answers that are no state maps."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import layerlens as ll
from layerlens.errors import ResultError
from layerlens.export.answer_meta import answer_meta_of
from layerlens.export.pack import unpack
from layerlens.export.scatter_meta import scatter_meta_of
from layerlens.export.twins import traits_of
from layerlens.figures.scatter import scatter_figure
from layerlens.views import ScatterView, view_of
from tests.unit.analyses import by_hooks

IDS = np.random.default_rng(2).integers(3, 90, (16, 5)).tolist()
LABELS = ["even", "odd"] * 8


@pytest.fixture(scope="module")
def found() -> ll.Result:
    return ll.state_map(by_hooks.wrapped("llama"), IDS, LABELS, method="lda")


def test_a_state_map_opens_as_a_scatter(found: ll.Result) -> None:
    view = view_of(found)
    assert isinstance(view, ScatterView)
    about = view.meta["scatter"]
    assert (about["x"], about["y"], about["steps"], about["items"]) == ("x", "y", "point", "item")
    assert about["pictures"] == "labels" and about["colors"] == "label" and about["equal"]
    assert about["labels"] == ["even", "odd"] and len(about["words"]) == 16
    assert sum(about["fitted"]) == 8
    # the words of marks are said once
    assert view.meta["axes"]["item"]["labels"] == []
    meta, frames = unpack(view.snapshot)
    assert meta["scatter"] == about
    header = {array["name"]: array for frame, _ in frames for array in frame["arrays"]}
    assert header["x"]["shape"] == [2, found.data.sizes["point"], 16]
    assert header["label_id"]["dtype"] == "int32"
    view.close()


def test_its_twin_has_its_traits(found: ll.Result) -> None:
    traits = traits_of(found.data, found.checks)
    own = {
        name: traits[name] for name in ("view", "step", "item", "hidden_labels", "fitted", "axes")
    }
    assert own == {"view": "scatter", "step": -1, "item": -1, "hidden_labels": [], "fitted": True,
                   "axes": "all"}  # fmt: skip


def marks(data: xr.Dataset, **options: object) -> list[np.ndarray]:
    figure = scatter_figure(data, **options)
    return [drawn.get_offsets() for axes in figure.axes for drawn in axes.collections
            if drawn.get_gid() == "marks"]  # fmt: skip


def test_the_figure_draws_what_is_on_screen(found: ll.Result) -> None:
    last = found.data.sizes["point"] - 1
    every = marks(found.data, steps=[last])
    # two labels, fitted or not, in the picture of the labels and in that of shuffled ones
    assert len(every) == 8 and sum(map(len, every)) == 32
    first = found.data.isel(labels=0, point=last)
    own = np.flatnonzero((first.label_id.values == 0) & first.fitted.values)
    np.testing.assert_allclose(every[0][:, 0], first.x.values[own])
    assert sum(map(len, marks(found.data, steps=[last], fitted=False))) == 16
    assert sum(map(len, marks(found.data, steps=[last], hidden_labels=["odd"]))) == 16
    with pytest.raises(ResultError, match="no step 99"):
        scatter_figure(found.data, steps=[99])


def test_any_answer_with_two_coordinates_is_drawn() -> None:
    """An information plane: a mark for each layer, a step for each checkpoint, no labels."""
    values = np.arange(6.0).reshape(2, 3)
    dims = ("checkpoint", "layer")
    data = xr.Dataset(
        {"i_xt": (dims, values, {"units": "nats"}), "i_ty": (dims, -values, {"units": "nats"})},
        {"layer": np.arange(3), "checkpoint": [100, 200]},
        {"view": "scatter", "analysis": "information_plane"},
    )
    meta = scatter_meta_of(data)
    about = meta["scatter"]
    # marks that are layers have curves below the picture too
    assert meta["axes"]["layer"]["labels"] == ["0", "1", "2"]
    assert (about["steps"], about["items"], about["colors"]) == ("checkpoint", "layer", "depth")
    assert about["words"] == ["0", "1", "2"] and not about["equal"] and about["fitted"] == []
    assert sum(map(len, marks(data))) == 6
    with pytest.raises(ResultError, match="two arrays over the same axes"):
        scatter_meta_of(data.drop_vars("i_ty"))
    assert answer_meta_of(data)["axes"]["layer"]["labels"] == ["0", "1", "2"]


def test_it_runs_live_and_keeps_what_is_on_screen() -> None:
    model = ll.load("toy:induction")
    texts = [f"{a} {b} fox" for a in ("cat", "dog") for b in ("bee", "ant", "emu", "owl")]
    view = ScatterView(model, "state_map", texts, labels=[text[:3] for text in texts])
    result = view.wait(60)
    assert view.meta["scatter"]["labels"] == ["cat", "dog"]
    view.hidden_labels, view.layer = ["cat"], 1
    figure = result.figure(**view._figure_options())
    drawn = [one for axes in figure.axes for one in axes.collections if one.get_gid() == "marks"]
    assert {len(one.get_offsets()) for one in drawn} == {4}
    assert result.checks.ok
    view.close()
