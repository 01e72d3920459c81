"""What a patch bench does for its user: sweeps, patches picked by hand, errors, frozen twins."""

from __future__ import annotations

import gc
import io
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerlens as ll
from layerlens.errors import Cancelled, InputError, LayerLensError
from layerlens.export.pack import unpack
from layerlens.model.lensmodel import LensModel
from layerlens.views import GridView, PatchView, view_of
from layerlens.views.exports import export

from .fakes import until
from .tiny import CLEAN, CORRUPT, N_LAYERS, Pace, answer, ask, grid, patch, tiny_llama

IDS = ([3, 4, 5, 6], [3, 4, 11, 6])


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


def show(model: LensModel, **keywords: Any) -> PatchView:
    given: dict[str, Any] = {"clean": CLEAN, "corrupt": CORRUPT, **keywords}
    return PatchView(model, **given)


def shown(model: LensModel, **keywords: Any) -> PatchView:
    view = show(model, **keywords)
    view.wait(10)
    return view


def by_hand(model: LensModel, layer: int, position: int, start: int, come: int) -> torch.Tensor:
    """Next-token probabilities with one state of the clean run put into the corrupted one."""
    hf: Any = model.hf
    kept: list[torch.Tensor] = []

    def put(module: Any, args: Any, kwargs: Any) -> Any:
        changed = args[0].clone()
        changed[0, position] = kept[0][0, come]
        return (changed, *args[1:]), kwargs

    with torch.no_grad():
        layers = hf.model.layers
        handle = layers[start].register_forward_pre_hook(lambda m, a: kept.append(a[0].clone()))
        hf(torch.tensor([IDS[0]]))
        handle.remove()
        handle = layers[layer].register_forward_pre_hook(put, with_kwargs=True)
        logits = hf(torch.tensor([IDS[1]])).logits[0, -1]
        handle.remove()
    return logits.float().softmax(-1)


def test_it_is_there_at_once_and_streams_what_the_result_holds(
    model: LensModel, pace: Pace
) -> None:
    pace.seconds = 0.02
    view = show(model)
    assert view.comm.opened["state"]["clean"] == CLEAN
    assert view.comm.opened["state"]["view"] == "patch"
    assert view.result is None
    result = view.wait(10)
    assert result is not None
    for name in ("metric", "recovered"):
        assert np.array_equal(grid(view, 1, name), result.data[name].values, equal_nan=True)
    frames = [c for c, _ in view.comm.customs("frame")]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame["last"] for frame in frames][-1]
    assert view.status["state"] == "done"


def test_meta_says_what_is_compared(model: LensModel) -> None:
    view = shown(model, answer="w7", wrong="w8")
    meta = view.meta
    assert [token["text"] for token in meta["clean_tokens"]] == CLEAN.split()
    assert [token["id"] for token in meta["corrupt_tokens"]] == IDS[1]
    assert meta["differing"] == [2]
    assert (meta["site"], meta["by"]) == ("resid_pre", "position")
    assert meta["rows"] == ["0", "1", "2", "3"]
    assert meta["columns"] == CORRUPT.split()
    assert meta["answer"] == {"id": 9, "text": "w7"}
    assert meta["wrong"] == {"id": 10, "text": "w8"}
    assert meta["direction"] == "clean activations into the corrupted run"
    assert meta["sites"] == list(PatchView.site.values)
    assert (meta["n_heads"], meta["n_kv_heads"]) == (4, 2)
    assert all(check["ok"] for check in meta["checks"])
    assert meta["metric"]["units"] == "logit"
    with torch.no_grad():
        ends = [model.hf(torch.tensor([ids])).logits[0, -1] for ids in IDS]
    for name, logits in zip(("clean", "corrupt"), ends, strict=True):
        assert meta["metric"][name] == pytest.approx(float(logits[9] - logits[10]), abs=1e-4)
    again = eval(meta["code"], {"ll": ll, "model": model})
    assert np.array_equal(again.data["recovered"], view.result.data["recovered"])  # type: ignore[union-attr]


def test_the_ends_of_the_metric_are_known_with_the_first_cells(
    model: LensModel, pace: Pace
) -> None:
    pace.seconds = 0.02
    view = show(model)
    until(lambda: view.comm.updates("meta"), 10)
    first = view.comm.updates("meta")[-1]
    assert view.status["state"] == "running"
    assert None not in first["metric"].values()
    assert first["answer"]["text"]
    view.wait(10)


def test_site_and_axis_from_the_front_end_run_once(model: LensModel) -> None:
    view = shown(model)
    view.comm.set(site="z", by="head")
    result = view.wait(10)
    assert result is not None
    assert result.data["recovered"].dims == ("layer", "head")
    assert view.status["run"] == 2
    assert view.meta["columns"] == ["0", "1", "2", "3"]
    assert "site='z'" in view.meta["code"]
    view.site = "mlp_out"
    view.wait(10)
    assert (view.by, view.status["run"]) == ("position", 3)
    view.comm.custom(kind="run")
    view.wait(10)
    assert view.status["run"] == 4


def test_key_value_heads_are_counted_as_such(model: LensModel) -> None:
    view = shown(model, site="k")
    assert view.by == "head"
    assert view.meta["columns"] == ["0", "1"]


@pytest.mark.parametrize(("start", "come", "layer", "position"), [(2, 2, 2, 2), (1, 2, 3, 3)])
def test_a_patch_gives_what_hooks_give(
    model: LensModel, start: int, come: int, layer: int, position: int
) -> None:
    view = shown(model, answer="w7", wrong="w8")
    edit = patch(layer, position, **{"from": {"layer": start, "position": come}})
    found, _ = ask(view, "distribution", edits=[edit], k=5)
    expected = by_hand(model, layer, position, start, come)
    for item in found["tokens"]:
        assert item["after"] == pytest.approx(float(expected[item["id"]]), abs=1e-5)
        assert item["text"] == model.token_string(item["id"])
    changes = [abs(item["after"] - item["before"]) for item in found["tokens"]]
    assert changes == sorted(changes, reverse=True)
    assert {9, 10} <= {item["id"] for item in found["tokens"]}
    best = expected.topk(5).indices.tolist()
    assert [i for i, _, _ in found["after"]] == best
    # what is copied as Python gives the same numbers
    trace = eval(found["code"], {"ll": ll, "model": model})
    again = trace.logits[0, -1].float().softmax(-1)
    assert torch.allclose(again, expected, atol=1e-5)
    assert found["code"] == ask(view, "code", 2, edits=[edit])[0]
    if (start, come) == (layer, position):
        cell = float(view.result.data["recovered"][layer, position])  # type: ignore[union-attr]
        assert found["metric"]["recovered"] == pytest.approx(cell, abs=1e-4)


def test_a_head_is_patched_at_all_positions(model: LensModel) -> None:
    view = shown(model, site="z")
    edit = patch(2, None, site="z", head=3)
    found, _ = ask(view, "distribution", edits=[edit])
    cell = float(view.result.data["recovered"][2, 3])  # type: ignore[union-attr]
    assert found["metric"]["recovered"] == pytest.approx(cell, abs=1e-4)
    assert "ll.edit('z.2.3'" in found["code"]


def test_patches_stack_and_can_be_off(model: LensModel) -> None:
    view = shown(model)
    none, _ = ask(view, "distribution", 1, edits=[patch(2, 2, on=False)])
    assert none["metric"]["recovered"] == pytest.approx(0.0, abs=1e-6)
    assert none["before"] == none["after"]
    every = [patch(2, position) for position in range(4)]
    whole, _ = ask(view, "distribution", 2, edits=every)
    assert whole["metric"]["recovered"] == pytest.approx(1.0, abs=1e-5)
    view.edits = [patch(2, 2), patch(1, 0, on=False)]
    assert [each.code for each in view.patches] == [
        f"ll.edit('resid_pre.2', 'set', ll.source({CLEAN!r}, position=2), position=2)"
    ]


def test_noise_goes_the_other_way(model: LensModel) -> None:
    view = shown(model, direction="noise")
    assert view.meta["direction"] == "corrupted activations into the clean run"
    assert view.meta["columns"] == CLEAN.split()
    every = [patch(2, position) for position in range(4)]
    found, _ = ask(view, "distribution", edits=every)
    assert found["metric"]["recovered"] == pytest.approx(1.0, abs=1e-5)
    assert found["code"].startswith(f"ll.run(model, {CLEAN!r}")
    assert repr(CORRUPT) in found["code"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (patch(99, 0), "99"),
        (patch(1, 99), "4 tokens"),
        (patch(1, 0, head=1), "no heads"),
        (patch(1, 0, site="pattern"), "pattern"),
        (patch(1, -1), "number from 0"),
        (patch(1, 0, **{"from": {"layer": 1, "position": None}}), "all to all"),
        ({"layer": 1}, "site"),
        ("x", "dict"),
    ],
)
def test_a_patch_that_does_not_fit_is_answered_with_a_sentence(
    model: LensModel, edit: Any, words: str
) -> None:
    view = shown(model)
    found, _ = ask(view, "distribution", edits=[edit])
    assert words in found
    assert view.status["state"] == "done"


def test_lenses_before_and_after(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    view = shown(model, answer="w7", wrong="w8")
    found, packs = ask(view, "lens", edits=[patch(2, 2)])
    assert [found[name]["bytes"] for name in ("before", "after")] == [len(p) for p in packs]
    (meta, before), (_, after) = (unpack(packed) for packed in packs)
    assert [token["text"] for token in meta["tokens"]] == CORRUPT.split()
    assert [token["id"] for token in meta["tracked"]] == [9, 10]
    logprob = [
        next(a for h, a in zip(header["arrays"], arrays, strict=True) if h["name"] == "logprob")
        for header, arrays in (before[0], after[0])
    ]
    start = meta["points"].index("1_post")
    assert np.array_equal(logprob[0][:start], logprob[1][:start])
    assert not np.allclose(logprob[0][start:, 2], logprob[1][start:, 2])
    expected = by_hand(model, 2, 2, 2, 2).max().log()
    assert logprob[1][-1, -1, 0] == pytest.approx(float(expected), abs=1e-3)


def test_the_newest_request_wins(model: LensModel, pace: Pace) -> None:
    view = shown(model)
    ask(view, "distribution", 0)
    pace.seconds = 0.05
    for rid in range(1, 6):
        params = {"edits": [patch(rid % N_LAYERS, 2)]}
        view.comm.custom(kind="request", rid=rid, method="distribution", params=params)
    assert answer(view, 5)[0]["edits"][0]["layer"] == 1
    assert [answer(view, rid)[0] for rid in range(1, 5)] == [
        "A newer question has taken the place of this one."
    ] * 4


def test_a_cancelled_request_is_not_answered(model: LensModel, pace: Pace) -> None:
    view = shown(model)
    pace.seconds = 0.05
    view.comm.custom(kind="request", rid=1, method="lens", params={"edits": [patch(1, 2)]})
    view.comm.custom(kind="cancel_request", rid=1)
    ask(view, "code", 2)
    assert not [c for c, _ in view.comm.customs("reply") if c["rid"] == 1]


def test_stop_in_the_middle_keeps_the_finished_cells(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.01
    view = show(model, method="naive")
    until(lambda: np.isfinite(grid(view, 1)).any() if view.comm.updates("meta") else False, 10)
    view.comm.custom(kind="cancel", run=1)
    with pytest.raises(Cancelled):
        view.wait(10)
    assert view.status["state"] == "cancelled"
    assert view.partial is not None
    partial = view.partial.data["recovered"].values
    assert np.array_equal(grid(view, 1), partial, equal_nan=True)
    assert np.isnan(partial).any()
    assert np.isfinite(partial).any()
    assert unpack(view.snapshot)[0]["run"] == 1
    pace.seconds = 0.0
    assert view.run().wait(10) is not None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"corrupt": CLEAN}, "the same, token for token"),
        ({"corrupt": ""}, "empty"),
        ({"answer": "w1 w2"}, "one token"),
        ({"answer": "w7", "wrong": "w7"}, "same token"),
        ({"metric": "logits"}, "did you mean"),
        ({"clean": [CLEAN, CLEAN], "corrupt": [CORRUPT, CORRUPT]}, "shows one text"),
        ({"options": {"layers": [77]}}, "77"),
    ],
)
def test_bad_input_is_said_in_the_view(model: LensModel, given: dict[str, Any], words: str) -> None:
    view = show(model, **given)
    with pytest.raises(LayerLensError, match=words):
        view.wait(10)
    assert view.status["state"] == "error"
    assert words in view.status["message"]
    found, _ = ask(view, "distribution", edits=[])
    assert "no picture yet" in found


def test_an_error_keeps_the_picture_and_its_answers(model: LensModel) -> None:
    view = shown(model)
    meta, snapshot = view.meta, view.snapshot
    view.comm.set(corrupt=CLEAN)
    with pytest.raises(InputError):
        view.wait(10)
    assert (view.meta, view.snapshot) == (meta, snapshot)
    found, _ = ask(view, "distribution", edits=[patch(2, 2)])
    assert found["metric"]["before"] == pytest.approx(meta["metric"]["corrupt"], abs=1e-4)


@pytest.mark.parametrize(
    "state",
    [
        {"site": "embed"},
        {"direction": "both"},
        {"edits": ["x"]},
        {"edits": [{"site": "resid_pre", "layer": -1}]},
        {"history": [{"edits": []}]},
        {"options": {"sites": 3}},
        {"options": {"site": "z"}},
    ],
)
def test_nonsense_of_the_front_end_is_refused_aloud(
    model: LensModel, state: dict[str, Any]
) -> None:
    view = shown(model)
    (name,) = state
    before = getattr(view, name)
    view.comm.set(**state)
    assert getattr(view, name) == before
    assert view.status["message"]
    assert view.comm.updates(name)[-1] == before


def test_the_wrong_answer_waits_for_its_metric(model: LensModel) -> None:
    view = shown(model, answer="w7", wrong="w8")
    for metric, words in (("logprob", "log-probability of 'w7'"), ("logit_diff", "minus logit")):
        view.metric = metric
        assert words in view.wait(20).data.attrs["metric_words"]
        assert view.wrong == "w8"
    view.close()


def test_selection_and_history_follow(model: LensModel) -> None:
    view = shown(model)
    view.comm.set(layer=3, position=2)
    one = {"edits": [patch(1, 2)], "metric": 1.0, "recovered": None, "top": [3, "w1", 0.5]}
    view.comm.set(history=[one] * 130)
    assert len(view.history) == 100
    view.comm.set(clean="w1 w2", corrupt="w9 w2")
    view.wait(10)
    assert (view.layer, view.position) == (3, -1)
    assert view.meta["columns"] == ["w9", "w2"]
    assert view.status["run"] == 2


def test_some_layers_and_positions_only(model: LensModel) -> None:
    view = shown(model, layers=[1, 3], positions=[2, 3])
    assert view.meta["row_numbers"] == [1, 3]
    assert view.meta["column_numbers"] == [2, 3]
    assert view.meta["columns"] == ["w9", "w4"]
    view.layer, view.position = 3, 2
    view.run(positions=[2])
    view.wait(10)
    assert (view.layer, view.position) == (3, 2)


def test_misspelt_keywords_raise_with_the_nearest_name(model: LensModel) -> None:
    with pytest.raises(TypeError, match="did you mean 'answer'"):
        show(model, anwser="w7")


def test_texts_as_token_ids(model: LensModel) -> None:
    view = shown(model, clean=IDS[0], corrupt=IDS[1], answer=9)
    assert (view.clean, view.answer) == ("w1w2w3w4", "w7")
    assert view.meta["answer"]["id"] == 9
    found, _ = ask(view, "distribution", edits=[patch(2, 2)])
    assert "ll.run(model, [3, 4, 11, 6]" in found["code"]
    trace = eval(found["code"], {"ll": ll, "model": model})
    assert torch.allclose(trace.logits[0, -1].softmax(-1), by_hand(model, 2, 2, 2, 2), atol=1e-5)


def test_a_result_becomes_a_live_view_without_computing(model: LensModel) -> None:
    result = ll.patch_sweep(model, CLEAN, CORRUPT, answer="w7", wrong="w8", site="z")
    view = view_of(result)
    assert isinstance(view, PatchView)
    assert view.live
    assert view.result is result
    assert (view.clean, view.corrupt, view.answer) == (CLEAN, CORRUPT, "w7")
    assert (view.site, view.by) == ("z", "head")
    assert view.status["state"] == "done"
    found, _ = ask(view, "distribution", edits=[patch(1, None, site="z", head=0)])
    assert found["metric"]["recovered"] == pytest.approx(
        float(result.data["recovered"][1, 0]), abs=1e-4
    )
    first = shown(model, answer="w7", wrong="w8", site="z", estimate_first=False)
    same = {name: value for name, value in first.meta.items() if name != "checks"}
    assert {name: view.meta[name] for name in same} == same
    view.site = "v"
    assert view.wait(10) is not result


def test_an_opened_result_is_a_frozen_view(model: LensModel, tmp_path: Path) -> None:
    result = ll.patch_sweep(model, CLEAN, CORRUPT, answer="w7", wrong="w8")
    opened = ll.open(result.save(tmp_path / "a.nc"))
    view = opened.widget()
    assert isinstance(view, PatchView)
    assert not view.live
    assert view.snapshot
    assert view.meta["answer"] == {"id": 9, "text": "w7"}
    live = view_of(result).meta
    assert view.meta["columns"] == live["columns"]
    assert view.meta["metric"] == live["metric"]
    with pytest.raises(InputError, match="frozen"):
        view.run()
    assert "no 'distribution'" in ask(view, "distribution")[0]
    assert repr(result) in view._plain()


def test_one_pair_of_several(model: LensModel) -> None:
    pairs = [CLEAN, "w5 w6 w7"], [CORRUPT, "w5 w8 w7"]
    result = ll.patch_sweep(model, *pairs)
    view = view_of(result, text=1)
    assert isinstance(view, PatchView)
    assert (view.clean, view.corrupt) == ("w5 w6 w7", "w5 w8 w7")
    assert view.meta["columns"] == ["w5", "w8", "w7"]
    assert view.meta["differing"] == [1]
    alone = ll.patch_sweep(model, "w5 w6 w7", "w5 w8 w7")
    assert view.meta["metric"]["clean"] == pytest.approx(alone.data.attrs["clean_metric"])
    _, frames = unpack(view.snapshot)
    header, arrays = frames[0]
    named = {item["name"]: a for item, a in zip(header["arrays"], arrays, strict=True)}
    assert named["recovered"].shape == (N_LAYERS, 3)
    assert np.allclose(named["recovered"], alone.data["recovered"], atol=1e-4)
    assert view._picture() is not None


def test_a_sweep_with_more_axes_is_a_grid_with_a_slider(model: LensModel) -> None:
    result = ll.patch_sweep(model, CLEAN, CORRUPT, site="z", by="head_position")
    view = result.widget()
    assert isinstance(view, GridView)
    drawn = {array["name"]: array for array in view.meta["arrays"]}["recovered"]
    assert (drawn["down"], drawn["across"], drawn["third"]) == ("layer", "head", "position")
    view.entry = 2
    assert view._figure_options()["at"] == {"position": 2}
    assert len(view._picture()) > 1000
    view.comm.set(third="head", entry=1)
    assert view._figure_options()["at"] == {"head": 1}
    assert view._frozen()[0]["third"] == "head"
    assert len(view._picture()) > 1000


def test_files_and_the_frozen_page(
    model: LensModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("index.css", "host.js"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr("layerlens.export.html.STATIC", tmp_path)
    view = shown(model, clean="w1 <b>bold</b> w3", corrupt="w1 w2 w3", edits=[patch(1, 1)])
    for rid, kind in enumerate(("html", "png", "svg", "pdf", "csv", "nc"), 1):
        found, buffers = ask(view, "export", rid, format=kind)
        assert found["name"] == f"patch-w1-b-bold-b-w3-w1.{kind}"
        assert len(buffers[0]) > 100
    traits, packed = view._frozen()
    json.dumps(traits)
    assert traits["edits"] == view.edits
    assert unpack(packed)[0] == traits["meta"] == view.meta
    page = view.html(tmp_path / "a.html").read_text()
    assert "<b>bold" not in page
    page = view.result.html(tmp_path / "b.html").read_text()  # type: ignore[union-attr]
    assert "<b>bold" not in page


def test_a_closed_view_is_freed(model: LensModel) -> None:
    view = shown(model)
    ask(view, "distribution", edits=[patch(2, 2)])
    held = weakref.ref(view)
    view.close()
    del view
    until(lambda: gc.collect() >= 0 and held() is None)


def test_the_repr_is_the_same_every_time(model: LensModel) -> None:
    view = shown(model)
    assert repr(view) == f"PatchView({CLEAN!r}, {CORRUPT!r}, model='tiny')"
    bundle = view._repr_mimebundle_()
    assert bundle is not None
    assert "image/png" in bundle[0]


def test_prompts_of_unequal_length_are_paired_and_can_be_paired_otherwise(
    model: LensModel,
) -> None:
    view = shown(model, clean="w1 w2 w4", corrupt="w1 w7 w9 w4")
    meta = view.meta
    assert meta["partners"] == [0, None, 1, 2]
    assert (meta["patched"], meta["differing"]) == ("corrupt", [1, 2])
    assert "align=[[0, 0], [1, 2], [2, 3]]" in meta["code"] or "align=[(0, 0)" in meta["code"]
    data = view.result.data  # type: ignore[union-attr]
    assert np.isnan(data["recovered"][:, 1]).all()
    again = eval(meta["code"], {"ll": ll, "model": model})
    assert np.array_equal(again.data["recovered"], data["recovered"], equal_nan=True)
    found, _ = ask(
        view, "distribution", edits=[{**patch(1, 2), "from": {"layer": 1, "position": 1}}]
    )
    assert found["metric"]["recovered"] == pytest.approx(float(data["recovered"][1, 2]), abs=1e-4)
    view.comm.set(options={"align": [[0, 0], [1, 1], [2, 3]]})
    view.wait(10)
    assert view.meta["partners"] == [0, 1, None, 2]
    view.direction = "noise"
    view.wait(10)
    assert (view.meta["patched"], view.meta["partners"]) == ("clean", [0, 1, 3])
    view.clean = "w1 w2 w9 w4"  # pairs belong to the prompts that they were made for
    view.wait(10)
    assert view.options == {}
    assert view.meta["partners"] == [0, 1, 2, 3]


def test_the_same_prompt_twice_is_refused_in_words(model: LensModel) -> None:
    view = show(model, corrupt=CLEAN)
    with pytest.raises(InputError, match="the same, token for token"):
        view.wait(10)
    assert view.status["state"] == "error"
    assert "change a word" in view.status["message"]
    assert view.result is None


def test_cancelled_before_the_first_cell_the_last_picture_stays(model: LensModel) -> None:
    view = show(model, method="naive", estimate_first=False)
    result = view.wait(10)
    before = view.meta
    # known cells are shown before any is computed
    view.observe(lambda change: change.new["run"] == 2 and view.cancel(), "meta")
    view.run(clean="w4 w5 w6 w7", corrupt="w4 w5 w9 w7")
    with pytest.raises(Cancelled):
        view.wait(10)
    assert view.meta == before
    assert view.meta["asked"]["inputs"] == {"clean": CLEAN, "corrupt": CORRUPT}
    assert view.result is result
    assert view.partial is None
    assert view.comm.customs("frame")[-1][0]["run"] == 1


def test_the_estimate_is_drawn_first_and_true_values_after(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.01
    view = show(model, method="naive")
    until(lambda: bool(view.comm.updates("meta")), 10)
    until(lambda: np.isfinite(grid(view, 1, "estimate")).any(), 10)
    result = view.wait(10)
    assert result is not None
    assert np.array_equal(grid(view, 1, "estimate"), result.data["estimate"], equal_nan=True)
    first = next(c["seq"] for c, _ in view.comm.customs("frame") if _names(c) >= {"estimate"})
    last = max(c["seq"] for c, _ in view.comm.customs("frame") if _names(c) >= {"recovered"})
    assert first < last
    assert view.meta["no_estimate"] == ""
    again = eval(view.meta["code"], {"ll": ll, "model": model})
    assert np.array_equal(again.data["estimate"], result.data["estimate"], equal_nan=True)
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]))
    assert (table["shown"] == "measured").all()
    view.options = {"estimate_first": False}
    done = view.wait(10)
    assert done is not None and "estimate" not in done.data
    adopted = PatchView.from_result(done)
    assert "estimate_first" not in adopted.options
    adopted.close()


def _names(content: dict[str, Any]) -> set[str]:
    return {header["name"] for header in content["arrays"]}


def test_a_bench_that_is_stopped_keeps_what_is_estimated(model: LensModel, pace: Pace) -> None:
    view = shown(model, method="naive")
    pace.seconds = 0.02
    view.metric = "logprob"
    until(lambda: view.meta["run"] == 2 and np.isfinite(grid(view, 2, "estimate")).any(), 10)
    view.cancel()
    with pytest.raises(Cancelled):
        view.wait(10)
    assert (view.meta["run"], view.status["state"]) == (2, "cancelled")
    assert view.partial is not None
    table = pd.read_csv(io.BytesIO(export(view, "csv")[2]))
    only = table["shown"] == "estimate"
    assert only.any() and (~only).any()
    assert table["recovered"][only].isna().all() and table["estimate"][only].notna().all()
    assert table["recovered"][~only].notna().all()
    assert f"{only.sum()} cells are estimates".encode() in export(view, "svg")[2]
    _, packed = view._frozen()
    assert "estimate" in str(unpack(packed))


def test_a_bench_says_why_there_is_no_estimate(model: LensModel) -> None:
    view = shown(model, metric="rank")
    assert view.meta["no_estimate"] == "a rank has no gradient"
    first = view.comm.updates("meta")[0]
    assert first["no_estimate"] == view.meta["no_estimate"]
