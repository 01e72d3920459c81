"""Two answers on one grid, shown: a frozen view, its page, its figure."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text

import layerlens as ll
from layerlens.errors import Cancelled, InputError, LayerLensError, ResultError
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result, open_saved
from layerlens.views import GridView, answer_cell, view_of

from .fakes import until
from .test_answer_view import assembled
from .tiny import Pace, ask, tiny_llama

ONE, TWO = "w1 w2 w3 w2", "w1 w9 w3 w9"


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_llama()


@pytest.fixture(autouse=True)
def built(front_end: None) -> None:
    """Views need what is built."""


def ablated(model: LensModel, text: str = ONE) -> Result:
    return ll.ablate_sweep(model, text, how="zero", answer="w5")


def test_it_opens_as_a_frozen_view_and_from_a_file(model: LensModel, tmp_path: Path) -> None:
    both = ll.beside(ablated(model), ablated(model, TWO))
    view = view_of(both)
    assert not view.live
    assert view.inputs == {"text": ONE}
    drawn = {array["name"]: array for array in view.meta["arrays"]}
    assert {"effect", "other.effect", "change_effect"} <= set(drawn)
    assert drawn["other.effect"]["kind"] == drawn["change_effect"]["kind"] == "heads"
    assert view.meta["other"]["label"] == TWO
    assert view.meta["scales"]["change_effect"]["kind"] == "diverging"
    assert unpack(view.snapshot)[1]
    again = open_saved(both.save(tmp_path / "both.nc"))
    assert isinstance(again, Result)
    assert again.identical(both)
    assert traits_of(again.data, again.checks)["meta"] == {
        name: value for name, value in view.meta.items() if name != "asked"
    }
    assert "other.effect" in both.to_pandas()
    said = both.figure("other.effect").findobj(match=Text)
    assert any(TWO in text.get_text() for text in said)


def test_a_bench_becomes_a_grid(model: LensModel) -> None:
    one, two = (
        ll.patch_sweep(model, clean=ONE, corrupt=TWO, answer="w5", wrong=wrong)
        for wrong in ("w6", "w7")
    )
    both = ll.beside(one, two)
    view = view_of(both)
    assert view.view == "grid"
    assert "change_recovered" in both.data
    assert view.meta["scales"]["other.recovered"]["limit"] == 1.0


def without_a_head(model: LensModel) -> LensModel:
    hf = copy.deepcopy(model.hf)
    hf.get_submodule("model.layers.1.self_attn.o_proj").weight.data[:, :8] = 0
    return LensModel.wrap(hf, model.tokenizer, name="without", prove=False)


def live(model: LensModel, other: object, **more: object) -> GridView:
    return GridView(model, "ablate_sweep", ONE, how="zero", answer="w5", other=other, **more)


def test_a_second_model_is_asked_after_the_first(model: LensModel) -> None:
    other = without_a_head(model)
    view = live(model, other)
    found = view.wait(20)
    assert found is not None
    expected = ll.beside(ablated(model), ablated(other))
    assert found.data.equals(expected.data)
    assert found.code == expected.code
    assert view.meta["code"] == found.code
    assert view.meta["checks"] == found.checks.records()
    assert view.meta["other"]["label"] == "without"
    arrays = assembled(view, view.meta["run"])
    assert {array["name"] for array in view.meta["arrays"]} == set(arrays) == set(found.data)
    for name, values in arrays.items():
        assert np.array_equal(values, found.data[name].values, equal_nan=True), name
    # what was shown while it ran names the same arrays, in words that stay
    begun = next(m for m in view.comm.updates("meta") if m.get("run") == view.meta["run"])
    assert begun["axes"] == view.meta["axes"]
    drawn = [[(one["name"], one["kind"]) for one in m["arrays"]] for m in (begun, view.meta)]
    assert drawn[0] == drawn[1]
    assert begun["scales"]["change_effect"]["kind"] == "diverging"
    assert begun["other"]["label"] == "without"


def test_the_same_model_differs_nowhere_and_a_second_text_does(model: LensModel) -> None:
    same = live(model, model).wait(20)
    assert same is not None
    assert (same.data["change_effect"] == 0).all()
    view = live(model, TWO, label="with w9")
    found = view.wait(20)
    assert found is not None
    assert found.data.equals(ll.beside(ablated(model), ablated(model, TWO)).data)
    assert view.meta["other"]["label"] == "with w9"


@pytest.mark.parametrize("array", ["effect", "other.effect", "change_effect"])
def test_a_cell_opens_on_both_sides(model: LensModel, array: str) -> None:
    other = without_a_head(model)
    view = live(model, other)
    view.wait(20)
    assert view.meta["opens"] == "cell"
    opened, _ = ask(view, "cell", array=array, index=[1, 2])
    alone = [
        ask(one, "cell", array="effect", index=[1, 2])[0] for one in map(single, (model, other))
    ]
    sides = [each["tables"][0] for each in alone]
    titled = zip(sides, ("first", "without"), strict=True)
    assert opened["tables"] == [{**side, "title": title} for side, title in titled]
    assert sides[0]["rows"] != sides[1]["rows"]
    assert [line.split(",")[0] for line in opened["code"].splitlines()] == [
        "ll.run(model", "ll.run(other",
    ]  # fmt: skip


def test_a_side_without_such_a_cell_says_so(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = live(model, TWO)
    view.wait(20)
    own = answer_cell.other_side
    monkeypatch.setattr(answer_cell, "other_side", lambda data: own(data).drop_vars("effect"))
    opened, _ = ask(view, "cell", array="effect", index=[0, 0])
    assert [table["title"] for table in opened["tables"]] == ["first", TWO]
    assert "There is no array 'effect'" in opened["tables"][1]["rows"][0][0]


def single(model: LensModel) -> GridView:
    view = GridView(model, "ablate_sweep", ONE, how="zero", answer="w5")
    view.wait(20)
    return view


def test_weights_of_two_models(model: LensModel) -> None:
    view = GridView(model, "spectrum", other=without_a_head(model), start=True)
    found = view.wait(20)
    assert found is not None
    assert any(str(name).startswith("change_") for name in found.data)


def test_lists_that_differ_are_joined_in_the_picture(model: LensModel) -> None:
    other = without_a_head(model)
    view = GridView(model, "composition", "v", top=4, other=other, start=True)
    found = view.wait(20)
    assert found is not None
    assert found.data.equals(
        ll.beside(*(ll.composition(each, "v", top=4) for each in (model, other))).data
    )
    assert found.data.sizes["edge"] > 4
    arrays = [array for array in view.meta["arrays"] if array["name"] == "other.edge_above_chance"]
    assert len(arrays) == 1
    assert view.meta["axes"]["edge"]["size"] == found.data.sizes["edge"]
    drawn = assembled(view, view.meta["run"])["other.edge_above_chance"]
    np.testing.assert_array_equal(drawn, found.data["other.edge_above_chance"].values)
    assert {} in view.comm.updates("meta")


def test_an_answer_is_known_when_it_is_asked_for_again(model: LensModel) -> None:
    view = live(model, TWO)
    first = view.wait(20)
    view.text = "w4 w5 w6 w7"
    second = view.wait(20)
    assert second is not first
    view.text = ONE
    assert view.wait(20) is first


def test_a_second_side_that_does_not_fit(model: LensModel) -> None:
    toy = live(model, ll.load("toy:induction"))
    with pytest.raises(LayerLensError):
        toy.wait(20)
    assert toy.status["state"] == "error"
    shorter = GridView(model, "knockout", ONE, sources={"w1": "w1"}, other="w3 w2 w1 w4 w5")
    assert shorter.wait(20) is not None  # its axes are sources and layers, not positions
    with pytest.raises(InputError, match="clean and corrupt already"):
        GridView(model, "path_patch", ONE, TWO, other=model)
    with pytest.raises(InputError, match="reads no text"):
        GridView(model, "spectrum", other=ONE)
    with pytest.raises(ResultError, match="MetricsView"):
        GridView(model, "layer_metrics", ONE, other=TWO)
    own = GridView(model, "compare_models", [ONE, TWO], other=without_a_head(model))
    found = own.wait(20)
    assert found is not None
    assert not any(str(name).startswith("other.") for name in found.data)


def test_stopped_on_the_second_side_the_first_is_kept(model: LensModel) -> None:
    other = without_a_head(model)
    pace = Pace(other)
    pace.seconds = 0.2
    try:
        view = live(model, other, method="naive")
        until(lambda: str(view.status["what"]).startswith("without"), 10)
        view.cancel()
        with pytest.raises(Cancelled) as stop:
            view.wait(20)
    finally:
        pace.remove()
    partial = stop.value.partial
    assert isinstance(partial, Result)
    assert np.isfinite(partial.data["effect"]).all()
    assert view.status["state"] == "cancelled"
