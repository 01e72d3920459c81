"""A text as it is written: streamed, stopped, branched, frozen, taken away."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import traitlets as t

import layerlens as ll
from layerlens.errors import Cancelled, InputError
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.model.lensmodel import LensModel
from layerlens.views import GenerationView, view_of
from layerlens.views.exports import export

from .fakes import until
from .tiny import Pace, tiny_llama

TEXT, NEW = "w1 w2 w3", 4


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


def shown(model: LensModel, text: Any = TEXT, **keywords: Any) -> GenerationView:
    view = GenerationView(model, text, **{"max_new_tokens": NEW, **keywords})
    view.wait(20)
    return view


def ids(view: GenerationView) -> list[int]:
    assert view.result is not None
    return [int(i) for i in view.result.data["written_id"].values]


def test_columns_come_one_by_one_and_add_up_to_the_result(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.02  # a token takes longer than frames lie apart
    view = shown(model)
    assert view.result is not None
    frames = view.comm.customs("frame")
    steps = [h["start"][0] for c, _ in frames for h in c["arrays"] if h["name"] == "written_id"]
    assert steps == list(range(NEW))
    meta, packed = unpack(view.snapshot)
    arrays = {h["name"]: a for f, arrays in packed
              for h, a in zip(f["arrays"], arrays, strict=True)}  # fmt: skip
    np.testing.assert_array_equal(arrays["written_id"], view.result.data["written_id"])
    np.testing.assert_array_equal(arrays["margin"], view.result.data["margin"])
    words = view.result.data["token"].values.tolist()
    assert [token["text"] for token in meta["tokens"]] == words
    assert meta["prompt"] == ["w1", "w2", "w3"]
    assert {rule["name"] for rule in meta["rules"]} == {
        "margin",
        "confidence",
        "entropy",
        "state",
        "patience",
    }
    assert view.row == 4 and view.layer == model.n_layers


def test_stop_keeps_what_was_written(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.03
    view = GenerationView(model, TEXT, max_new_tokens=30)
    until(lambda: view.status.get("done", 0) >= 2)
    view.cancel()
    with pytest.raises(Cancelled):
        view.wait(20)
    assert view.partial is not None
    n = view.partial.data.sizes["step"]
    assert 2 <= n < 30
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]))
    assert table["step"].max() == n - 1
    view._frozen()


def test_a_branch_goes_on_from_another_token_and_keeps_what_was_there(model: LensModel) -> None:
    view = shown(model)
    first = ids(view)
    view.branch(1, "w9")
    view.wait(20)
    other = model.token_id("w9")
    assert ids(view)[:2] == [first[0], other] == view.begin
    assert [token["id"] for token in view.before] == first
    assert view.meta["begun"] == 2 and view.meta["asked"]["options"] == {"begin": view.begin}
    again = eval(view.meta["code"], {"ll": ll, "model": model})
    assert again.data["written_id"].values.tolist() == ids(view)
    view.comm.set(text="w4 w5")
    view.wait(20)
    assert view.begin == view.before == []
    with pytest.raises(InputError, match="would be written again"):
        view.branch(0)
    with pytest.raises(InputError, match="step is 9; this text has"):
        view.branch(9, "w9")


def test_a_front_end_branches_by_setting_what_is_written_first(model: LensModel) -> None:
    view = shown(model)
    before = [{"id": i, "text": "x"} for i in ids(view)]
    view.comm.set(begin=[7], before=before, step=0)
    until(lambda: view.status["state"] == "done" and view.status["run"] == 2)
    assert ids(view)[0] == 7 and view.before == before


def test_what_ends_early_is_kept_without_room_for_more(model: LensModel) -> None:
    free = shown(model, "w4 w5", max_new_tokens=2)
    model.hf.generation_config.eos_token_id = ids(free)[0]
    for view in (
        shown(model, "w4 w5", max_new_tokens=9),
        ll.GridView(model, "generation_lens", "w4 w5", max_new_tokens=9),
    ):
        view.wait(20)
        _, packed = unpack(view.snapshot)
        shapes = {h["name"]: h["shape"] for frame, _ in packed for h in frame["arrays"]}
        assert shapes["margin"][1] == 1
    model.hf.generation_config.eos_token_id = 2


def test_from_a_drawn_token_another_text_is_drawn(model: LensModel) -> None:
    view = shown(model, temperature=3.0, max_new_tokens=8)
    first = ids(view)
    view.branch(1)
    view.wait(20)
    assert view.options["seed"] == 1
    assert ids(view)[:2] == first[:2] and ids(view) != first


def test_options_of_any_kind_reach_the_model_and_are_shown_as_text(model: LensModel) -> None:
    silent = ll.edit("mlp_out.2", "zero", always=True)
    view = shown(model, edits=[silent])
    assert json.dumps(view.get_state(["options"])) and view.options["edits"] == [silent.code]
    assert "edits=[ll.edit('mlp_out.2', 'zero', always=True)]" in view.meta["code"]
    assert view.result is not None
    taken = view_of(view.result)
    assert isinstance(taken, GenerationView)
    taken.run(max_new_tokens=2)
    assert "edits=[ll.edit" in taken.wait(20).code  # type: ignore[union-attr]


def test_what_is_moved_on_the_numbers_asks_nothing(model: LensModel) -> None:
    view = shown(model, rule="patience")
    assert view.threshold == 2
    view.comm.set(rule="entropy", threshold=0.4, color="margin", step=1, row=0)
    assert view.status["run"] == 1 and view.layer == 0
    with pytest.raises(t.TraitError):
        view.color = "mood"
    with pytest.raises(InputError, match="margin, confidence, entropy"):
        view.rule = "hope"


def test_a_result_is_shown_frozen_drawn_and_taken_out_of_many(model: LensModel) -> None:
    model.hf.generation_config.eos_token_id = None
    result = ll.generation_lens(model, [TEXT, "w7"], max_new_tokens=3)
    traits = traits_of(
        result.data.isel(batch=1).assign_attrs(text="w7"), result.checks
    )  # what one_text gives
    assert traits["view"] == "generation" and traits["meta"]["steps"] == 3
    view = GenerationView.from_result(result, text=1)
    assert view.text == "w7" and len(view.meta["tokens"]) == 3
    figure = result.figure(text=1, color="margin")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == result.data["token"].values[1].tolist()
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        GenerationView(model, TEXT, temperatur=1)
