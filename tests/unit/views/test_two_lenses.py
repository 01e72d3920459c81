"""A lens view that lays a second model, a second text or an edited run over the first."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import traitlets as t

import layerlens as ll
from layerlens.analyses.contract.registry import get
from layerlens.errors import InputError
from layerlens.export.pack import unpack
from layerlens.figures import draw
from layerlens.model.lensmodel import LensModel
from layerlens.views import LensView, view_of
from layerlens.views.exports import export
from layerlens.views.question import QuestionView

from .tiny import tiny_llama

TEXT, SECOND = "w1 w2 w3 w4", "w1 w2 w9 w4"
EDIT = ll.edit("attn_out", "zero", layer=1)


@pytest.fixture(autouse=True)
def true_lens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LensView, "analysis", QuestionView.analysis)


@pytest.fixture(scope="module")
def model() -> LensModel:
    return tiny_llama()


def shown(model: LensModel, other: Any, **keywords: Any) -> LensView:
    view = LensView(model, TEXT, other=other, **keywords)
    view.wait(10)
    return view


@pytest.mark.parametrize(
    ("other", "kind", "label"),
    [(SECOND, "text", SECOND), (EDIT, "edits", EDIT.code), (None, "model", "tiny")],
    ids=["text", "edits", "model"],
)
def test_what_lies_over_it_is_run_and_named(
    model: LensModel, other: Any, kind: str, label: str
) -> None:
    second = model if other is None else other
    view = shown(model, second)
    assert view.result is not None
    assert view.result.analysis == "lens_difference"
    assert view.other_kind == view.meta["other"]["kind"] == kind
    assert repr(view) == f"LensView({TEXT!r}, model='tiny', other={view.other!r})"
    assert label in view.other and label in view.meta["other"]["label"]
    expected = ll.lens_difference(model, TEXT, other=second).data
    for name in ("change", "kl_between", "other_probability"):
        np.testing.assert_array_equal(view.result.data[name], expected[name])
    again = eval(view.meta["code"], {"ll": ll, "model": model, "other": model})
    np.testing.assert_array_equal(again.data["change"], expected["change"])
    meta, _ = unpack(view.snapshot)[:2]
    assert meta["other"] == view.meta["other"]
    sent = {h["name"] for c, _ in view.comm.customs("frame") for h in c["arrays"]}
    assert {"change", "kl_between", "other_token_id", "other_logprob"} <= sent


def test_the_second_text_is_edited_in_place_and_must_be_as_long(model: LensModel) -> None:
    view = shown(model, SECOND)
    view.comm.set(other="w1 w2 w7 w8")
    result = view.wait(10)
    assert result is not None
    assert result.data.attrs["other_label"] == "w1 w2 w7 w8"
    assert view.meta["other"]["tokens"] == ["w1", "w2", "w7", "w8"]
    view.comm.set(other="w1")
    with pytest.raises(InputError, match="4 and 1 tokens"):
        view.wait(10)
    assert "same length" in view.status["message"]
    view.run("w5")
    assert view.wait(10) is not None
    assert view.meta["asked"]["options"] == {"other": "w1"}


def test_a_view_of_one_lens_stays_one(model: LensModel) -> None:
    view = LensView(model, TEXT)
    view.wait(10)
    assert (view.meta["other"], view.other_kind) == (None, "")
    with pytest.raises(t.TraitError, match="other="):
        view.other = SECOND
    with pytest.raises(TypeError, match="edits"):
        LensView(model, TEXT, other=SECOND, edits=EDIT)


def test_what_is_chosen_is_drawn_and_saved(model: LensModel, tmp_path: Path) -> None:
    view = shown(model, SECOND, tracked=["w3"])
    view.row, view.position = 1, 2
    pictures = set()
    for compare in ("beside", "change", "kl"):
        view.compare = compare
        pictures.add(export(view, "svg")[2])
    assert len(pictures) == 3
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]))
    assert {"change", "kl_between", "other_entropy", "selected", "pins"} <= set(table)
    traits, packed = view._frozen()
    assert (traits["compare"], traits["other"], traits["other_kind"]) == ("kl", SECOND, "text")
    assert "kl_between" in str(unpack(packed))
    assert view.result is not None
    path = view.result.save(tmp_path / "two.nc")
    frozen = view_of(ll.open(path))
    assert isinstance(frozen, LensView)
    assert not frozen.live
    assert (frozen.other, frozen.other_kind, frozen.result is not None) == (SECOND, "text", True)
    assert LensView.from_result(ll.open(path), model, other=SECOND).live


@pytest.mark.parametrize("second", [SECOND, EDIT, "model"], ids=["text", "edits", "model"])
def test_a_result_of_this_session_opens_live(model: LensModel, second: Any) -> None:
    second = model if second == "model" else second
    result = ll.lens_difference(model, TEXT, other=second, top_k=2)
    view = view_of(result)
    assert view.live
    assert (view.other_kind, view.options["top_k"]) == (result.data.attrs["other_kind"], 2)
    assert view.wait(10) is result
    view.run("w5 w6 w7 w8")
    again = view.wait(10)
    assert again is not None
    expected = ll.lens_difference(model, "w5 w6 w7 w8", other=second, top_k=2).data
    np.testing.assert_array_equal(again.data["kl_between"], expected["kl_between"])


def test_one_of_several_texts_has_its_own_other_text(model: LensModel) -> None:
    both = ll.lens_difference(model, [TEXT, "w5 w6 w7 w8"], other=[SECOND, "w5 w6 w9 w8"])
    view = LensView.from_result(both, text=1)
    assert (view.text, view.other, view.live) == ("w5 w6 w7 w8", "w5 w6 w9 w8", True)


def test_both_lenses_stand_beside_each_other_in_a_figure(model: LensModel) -> None:
    data = ll.lens_difference(model, TEXT, other=SECOND).data
    figure = draw("lens", data, beside=True, positions=[0, 2])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["w1", "w3", "w1", "w9"]
    (cells,) = [m for m in figure.axes[0].collections if m.get_array() is not None][:1]
    values = np.asarray(cells.get_array()).reshape(data.sizes["point"], 4)
    np.testing.assert_allclose(values[:, :2], data["probability"][:, [0, 2], 0], atol=1e-6)
    np.testing.assert_allclose(values[:, 2:], data["other_probability"][:, [0, 2], 0], atol=1e-6)
    change = draw("lens", data).axes[0].collections[0]
    np.testing.assert_allclose(
        np.asarray(change.get_array()).ravel(), data["change"].values.ravel()
    )
    ends = draw("lens", data, color="kl_between").axes[0].collections[0].norm
    known = data["kl_between"].values
    assert ends.vmax == pytest.approx(np.quantile(known[known > 1e-3], 0.9))
    with pytest.raises(ll.ResultError, match="one lens"):
        draw("lens", get("logit_lens")(model, TEXT).data, beside=True)
