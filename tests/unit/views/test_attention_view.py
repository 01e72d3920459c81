"""What a view of attention does: layers as they finish, exact rows, what lies beside."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traitlets

import layerlens as ll
from layerlens.errors import Cancelled, InputError, LayerLensError
from layerlens.export.attention_slices import Slice, decode
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.model.lensmodel import LensModel
from layerlens.result.roles import ROLE_ABOVE
from layerlens.views import AttentionView, view_of

from .fakes import until
from .tiny import N_LAYERS, Pace, answer, ask, tiny_llama

TEXT = "w1 w2 w3 w1 w2"


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


def shown(model: LensModel, text: Any = TEXT, *rest: Any, **more: Any) -> AttentionView:
    view = AttentionView(model, text, *rest, **more)
    view.wait(20)
    return view


def layer_of(view: AttentionView, rid: int, **params: Any) -> np.ndarray:
    """Ask for a slice and read it as a page does."""
    header, buffers = ask(view, "slice", rid, **params)
    assert isinstance(header, dict), header
    return decode(Slice(header, buffers[0]))


def test_slices_and_rows_are_those_of_the_call(model: LensModel) -> None:
    view = shown(model)
    plain = ll.attention(model, TEXT).data["pattern"].values
    for layer in range(N_LAYERS):
        found = layer_of(view, layer, layer=layer)
        assert np.abs(found - plain[layer]).max() < 1 / 255
    _, buffers = ask(view, "exact", 99, layer=2, head=1, query=3)
    assert np.array_equal(np.frombuffer(buffers[0], "<f4"), plain[2, 1, 3])
    assert view.result.code == view.meta["code"] == f"ll.attention(model, {TEXT!r})"


def test_frames_carry_what_heads_do_and_no_weights(model: LensModel) -> None:
    view = shown(model)
    found: dict[str, np.ndarray] = {}
    for frame, buffers in view.comm.customs("frame"):
        for header, buffer in zip(frame["arrays"], buffers, strict=True):
            assert header["dims"] == ["layer", "head"]
            whole = found.setdefault(header["name"], np.full((N_LAYERS, 4), np.nan))
            start, count = header["start"][0], header["shape"][0]
            whole[start : start + count] = np.frombuffer(buffer, "<f4").reshape(count, 4)
    assert view.comm.customs("frame")[-1][0]["last"]
    assert set(found) == set(ROLE_ABOVE)
    for name, values in found.items():
        expected = view.result.data[name].values
        assert np.allclose(values, expected, atol=1e-6, equal_nan=True), name
    assert "slices" not in view.meta


def test_layers_can_be_asked_for_while_the_model_runs(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.15
    view = AttentionView(model, TEXT)
    until(lambda: view.status["done"] >= 1)
    early, _ = ask(view, "slice", 1, layer=0)
    late, _ = ask(view, "slice", 2, layer=N_LAYERS - 1)
    row, _ = ask(view, "exact", 3, layer=0, head=0, query=1)
    assert early["shape"] == [4, 5, 5]
    assert late.startswith("not yet: layer 3")
    assert row.startswith("not yet")
    assert view.meta["roles"] == []
    view.wait(20)
    assert isinstance(ask(view, "slice", 4, layer=N_LAYERS - 1)[0], dict)


def test_a_run_that_was_stopped_says_which_layers_it_lacks(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.15
    view = AttentionView(model, TEXT)
    until(lambda: view.status["done"] >= 1)
    view.cancel()
    with pytest.raises(Cancelled):
        view.wait(20)
    assert isinstance(ask(view, "slice", 1, layer=0)[0], dict)
    said, _ = ask(view, "slice", 2, layer=N_LAYERS - 1)
    assert said == "Layer 3 was not computed before the run was stopped."


def test_what_the_picture_lacks_is_named(model: LensModel) -> None:
    view = shown(model)
    assert "no pattern of layer 9" in ask(view, "slice", 1, layer=9)[0]
    assert "no norm of layer 1" in ask(view, "slice", 2, layer=1, weighting="norm")[0]
    assert "part 'cross'" in ask(view, "slice", 3, layer=1, part="cross")[0]
    assert "of the other" in ask(view, "slice", 4, layer=1, other=True)[0]
    assert "head 7 and query 0" in ask(view, "exact", 5, layer=1, head=7, query=0)[0]


def test_meta_says_what_there_is(model: LensModel) -> None:
    meta = shown(model, weighting="value").meta
    assert [token["text"] for token in meta["tokens"]] == ["w1", "w2", "w3", "w1", "w2"]
    assert meta["key_tokens"] == meta["tokens"]
    assert meta["layers"] == [0, 1, 2, 3]
    assert (meta["n_heads"], meta["kv_groups"]) == (4, [0, 0, 1, 1])
    assert meta["weightings"] == ["pattern", "value"]
    assert meta["weightings_possible"] == ["pattern", "value", "norm", "scores"]
    assert meta["special"] == [True, False, False, False, False]
    assert (meta["parts"], meta["by_part"], meta["other"]) == (["self"], {}, None)
    assert {"sink", "induction"} <= set(meta["terms"])
    assert json.dumps(meta, allow_nan=False)


def test_roles_are_the_shares_above_what_is_stated() -> None:
    toy = ll.load("toy:induction")
    view = shown(toy, "cat dog owl fox cat dog owl fox cat")
    roles = view.meta["roles"]
    data = view.result.data
    assert roles[0]["role"] == "induction"
    best = {role["role"]: role for role in reversed(roles)}
    assert best["induction"]["layer"] == 1
    assert best["induction"]["score"] == pytest.approx(float(data["induction"].max()), abs=1e-4)
    assert best["previous_token"]["layer"] == 0
    assert all(role["score"] > 0.5 for role in roles)
    assert len([r for r in roles if r["role"] == "induction"]) == int(
        (data["induction"] > 0.5).sum()
    )
    assert "half" in view.meta["role_rule"]


def test_a_weighting_is_computed_when_it_is_looked_at(model: LensModel) -> None:
    view = shown(model)
    view.comm.set(weighting="norm")
    result = view.wait(20)
    assert "norm_weighted" in result.data
    assert view.weighting == "norm"
    assert layer_of(view, 1, layer=1, weighting="norm") == pytest.approx(
        result.data["norm_weighted"].values[1], abs=float(result.data["norm_weighted"].max()) / 255
    )
    runs = view.status["run"]
    view.weighting = "pattern"
    assert view.status["run"] == runs


def test_a_second_text_lies_beside(model: LensModel) -> None:
    view = shown(model, TEXT, "w7 w8")
    other = view.meta["other"]
    assert (other["label"], [token["text"] for token in other["tokens"]]) == (
        "w7 w8", ["w7", "w8"],
    )  # fmt: skip
    alone = ll.attention(model, "w7 w8").data["pattern"].values
    assert np.abs(layer_of(view, 1, layer=2, other=True) - alone[2]).max() < 1 / 255
    view.other = None
    view.wait(20)
    assert view.meta["other"] is None


def test_a_second_model_lies_beside(model: LensModel, tmp_path: Path) -> None:
    toy = ll.load("toy:induction")
    view = shown(model, [5, 9, 5], toy)
    assert view.meta["other"]["model"] == "toy:induction"
    assert view.meta["other"]["layers"] == [0, 1]
    assert "other=other" in view.meta["code"]
    assert "other = ll.load('toy:induction')" in view.meta["setup"]
    assert AttentionView.from_result(view.result).other is toy
    opened = ll.open(view.result.save(tmp_path / "a.nc"))
    assert not AttentionView.from_result(opened, model).live
    assert AttentionView.from_result(opened, model, other=toy).live


def test_how_two_are_compared_is_kept_and_drawn(model: LensModel) -> None:
    view = shown(model, TEXT, "w1 w9 w3 w1 w2", layer=2, compare="difference")
    assert view._frozen()[0]["compare"] == "difference"
    assert view._figure_options()["compare"] == "difference"
    view.run(other="w7")  # there is no difference of texts of 5 tokens and of 1
    view.wait(20)
    assert view._figure_options()["compare"] == "beside"
    view.comm.set(compare="second")
    assert view._figure_options()["compare"] == view.compare == "second"
    view.run(other=None)
    view.wait(20)
    assert (view._figure_options()["compare"], view.compare) == ("first", "second")


def test_the_prompt_can_be_edited_and_what_is_chosen_stays_inside(model: LensModel) -> None:
    view = shown(model, query=4, key=3, head=2, shown=[1, 3], layer=2, pins=[{"position": 1}])
    assert view.position == 4
    view.comm.set(text="w5 w6")
    view.wait(20)
    assert view.result.data.sizes["query"] == 2
    until(lambda: view.query == -1)
    assert (view.key, view.head, view.shown, view.layer) == (-1, 2, [1, 3], 2)
    assert len(view.meta["tokens"]) == 2
    view.position = 1
    assert view.query == 1


def test_options_and_traits_are_checked(model: LensModel) -> None:
    with pytest.raises(TypeError, match="did you mean 'weighting'"):
        AttentionView(model, TEXT, weightings="norm")
    with pytest.raises(InputError, match="Weighting 'norms'"):
        AttentionView(model, TEXT, weighting="norms")
    view = shown(model)
    with pytest.raises(traitlets.TraitError, match="A pin is"):
        view.pins = [{"position": -2}]
    view.run("")
    with pytest.raises(LayerLensError, match="The text is empty"):
        view.wait(20)


def test_a_result_opens_live_and_a_saved_one_frozen(model: LensModel, tmp_path: Path) -> None:
    result = ll.attention(model, TEXT, layers=[1, 3], weighting="scores", other="w7 w8")
    live = view_of(result)
    assert isinstance(live, AttentionView)
    assert live.live
    assert live.other == "w7 w8"
    assert live.layer == 1
    assert np.isneginf(layer_of(live, 1, layer=3, weighting="scores")[0, 0, 1])
    opened = ll.open(result.save(tmp_path / "a.nc"))
    frozen = view_of(opened)
    assert not frozen.live
    assert frozen.meta["layers"] == [1, 3]
    with pytest.raises(InputError, match="frozen"):
        frozen.run("w1")


def test_one_of_several_texts_opens_without_its_padding(model: LensModel) -> None:
    result = ll.attention(model, [TEXT, "w7 w8"])
    view = AttentionView.from_result(result, text=1)
    assert [token["text"] for token in view.meta["tokens"]] == ["w7", "w8"]
    assert view.text == "w7 w8"
    alone = ll.attention(model, "w7 w8").data["pattern"].values
    assert np.abs(layer_of(view, 1, layer=0) - alone[0]).max() < 1 / 255


def test_pages_hold_the_slices(model: LensModel, tmp_path: Path) -> None:
    view = shown(model, layer=2)
    traits, packed = view._frozen()
    meta, frames = unpack(packed)
    assert {array["name"] for array in frames[0][0]["arrays"]} == set(ROLE_ABOVE)
    assert set(meta["slices"]) == {f"{layer}/self/pattern/0" for layer in range(N_LAYERS)}
    held = meta["slices"]["2/self/pattern/0"]
    back = decode(Slice(held, base64.b64decode(held["data"])))
    assert np.abs(back - view.result.data["pattern"].values[2]).max() < 1 / 255
    assert meta["kept_words"] == ""
    assert "slices" not in traits["meta"]
    snapshot, _ = unpack(view.snapshot)
    assert snapshot["slices"] == meta["slices"]


def test_a_frozen_view_has_what_a_live_one_has(model: LensModel) -> None:
    view = shown(model, layer=0)
    mine, _ = view._frozen()
    theirs = traits_of(view.result.data, view.result.checks)
    assert set(theirs) == {*mine, "live"}
    different = {name for name, value in mine.items() if theirs[name] != value}
    assert different == {"meta", "status"}
    lacking = {name for name in mine["meta"] if mine["meta"][name] != theirs["meta"].get(name)}
    assert lacking == {"asked"}


def test_exports(model: LensModel, tmp_path: Path) -> None:
    view = shown(model, layer=1, head=2)
    reply, buffers = ask(view, "export", 7, format="csv")
    lines = buffers[0].decode().splitlines()
    assert len(lines) == 1 + 5 * 5
    assert "pattern" in lines[0]
    assert reply["name"] == "attention-w1-w2-w3-w1-w2.csv"
    assert ask(view, "export", 8, format="png")[1][0].startswith(b"\x89PNG")
    path = tmp_path / "a.nc"
    path.write_bytes(ask(view, "export", 9, format="nc")[1][0])
    assert ll.open(path).identical(view.result)


def test_rows_that_are_asked_for_at_once_are_all_answered(model: LensModel) -> None:
    view = shown(model)
    for rid in (1, 2):
        params = {"layer": 0, "head": 0, "query": rid}
        view.comm.custom(kind="request", rid=rid, method="exact", params=params)
    rows = [np.frombuffer(answer(view, rid)[1][0], "<f4") for rid in (1, 2)]
    assert np.array_equal(rows, view.result.data["pattern"].values[0, 0, 1:3])


def test_pins_have_a_side(model: LensModel) -> None:
    view = shown(model, pins=[{"position": 1}, {"position": 2, "side": "key"}])
    assert view.pins == [{"position": 1, "side": "query"}, {"position": 2, "side": "key"}]
    with pytest.raises(traitlets.TraitError, match="A pin is"):
        view.pins = [{"position": 2, "side": "above"}]
