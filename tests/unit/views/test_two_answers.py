"""Two answers on one grid, shown: a frozen view, its page, its figure."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.text import Text

import layerlens as ll
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.model.lensmodel import LensModel
from layerlens.result import Result, open_saved
from layerlens.views import view_of

from .tiny import tiny_llama

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
