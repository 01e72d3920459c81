"""Every analysis as a view: live, frozen, stopped, waiting for a word, asked again."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traitlets

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.contract.estimate import Estimate
from layerlens.errors import Cancelled, InputError
from layerlens.export.answer_meta import answer_meta_of
from layerlens.export.pack import unpack
from layerlens.export.twins import answer_traits, traits_of
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result import Result, open_saved
from layerlens.views import CurvesView, GridView, LensView, estimated, view_of
from layerlens.views.answer import AnswerView
from layerlens.views.live import LiveView
from layerlens.views.question import QuestionView
from tests.unit.analyses.small_calls import arguments

from .fakes import until
from .tiny import Pace, ask, tiny_llama

TEXT = "w1 w2 w3 w2"
SMALLER = {"chain_of_layers": {"simulations": 5}}
"""Options with which an analysis is quick."""


@pytest.fixture(autouse=True)
def real_lens(front_end: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LensView, "analysis", QuestionView.analysis)


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


@cache
def with_experts() -> LensModel:
    hf = tiny_model("mixtral", 1, vocab_size=64)
    return LensModel.wrap(hf, tiny_llama().tokenizer, name="experts", prove=False)


def heads(model: LensModel, text: Any = TEXT, **more: Any) -> GridView:
    return GridView(model, "ablate_sweep", text, **{"how": "zero", **more})


def assembled(view: LiveView, run: int) -> dict[str, np.ndarray]:
    """Put the arrays of a run together from its frames, as the front end does."""
    first, *_, last = [m["axes"] for m in view.comm.updates("meta") if m.get("run") == run] * 2
    arrays: dict[str, np.ndarray] = {}
    ends: dict[str, tuple[slice, ...]] = {}
    for content, buffers in view.comm.customs("frame"):
        for header, buffer in zip(content["arrays"], buffers, strict=True):
            if content["run"] != run:
                continue
            dtype = np.dtype(header["dtype"]).newbyteorder("<")
            # An axis is shortened to what was found, or grows where two lists are joined.
            shape = [max(first[dim]["size"], last[dim]["size"]) for dim in header["dims"]]
            whole = arrays.setdefault(
                header["name"], np.full(shape, np.nan if dtype.kind == "f" else -1, dtype)
            )
            box = tuple(
                slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
            )
            whole[box] = np.frombuffer(buffer, dtype).reshape(header["shape"])
            ends[header["name"]] = tuple(slice(last[dim]["size"]) for dim in header["dims"])
    # Room that nothing took has no name in the end.
    return {name: whole[ends[name]] for name, whole in arrays.items()}


def without(meta: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in meta.items() if name not in names}


@pytest.mark.parametrize("name", registry.names())
def test_every_analysis_opens_live_and_frozen(name: str, tmp_path: Path) -> None:
    model = with_experts() if "experts" in registry.get(name).needs else tiny_llama()
    texts, options = arguments(name, model)
    options |= SMALLER.get(name, {})
    kind = GridView if registry.get(name).about.view == "grid" else CurvesView
    view = kind(model, name, *texts, start=True, **options)
    result = view.wait(20)
    assert result is not None
    meta = json.loads(json.dumps(view.meta, allow_nan=False))
    assert (meta["analysis"], meta["code"]) == (name, result.code)
    assert meta["checks"] == result.checks.records()
    assert meta["lead"].endswith(".")
    assert meta["terms"]
    # what arrives is what the call returns
    arrays = assembled(view, view.meta["run"])
    drawn = {array["name"] for array in meta["arrays"]}
    assert drawn <= set(arrays)
    assert drawn
    for array, values in arrays.items():
        expected = result.data[array].values
        assert np.allclose(values, expected, rtol=1e-5, atol=1e-6, equal_nan=True), array
    # and whoever comes late is sent no more than there is
    assert view._stream is not None
    for frame, _ in view._stream.after(view.meta["run"], 0):
        for header in frame["arrays"]:
            ends = np.add(header["start"], header["shape"])
            assert (ends <= result.data[header["name"]].shape).all()
    # a page of its own says the same
    twin = answer_traits(result.data, result.checks)
    assert set(twin) | {"view", "title", "theme"} == set(view.PICTURE) | {"meta"}
    assert twin["inputs"] == view.inputs
    assert without(twin["meta"], "run") == without(meta, "run", "asked")
    for array in meta["arrays"]:
        axes = [array[axis] for axis in ("down", "across", "third") if array[axis]]
        assert array["kind"] == "table" or sorted(axes) == sorted(array["dims"])
    # saved and opened again it is the same, with no model
    again = open_saved(result.save(tmp_path / "a.nc"))
    assert isinstance(again, Result)
    frozen = view_of(again)
    assert not frozen.live
    assert traits_of(again.data, again.checks)["meta"] == without(frozen.meta, "asked")
    assert unpack(frozen.snapshot)[1]
    # last in a cell it is a view of the same answer, live and with its question
    shown = view_of(result)
    assert shown.status["state"] == "done"
    assert shown.result is not None
    assert shown.result.identical(result)
    if isinstance(shown, AnswerView):
        assert shown.live
        assert shown._run is not None
        assert view._run is not None
        assert shown._run.same_question(view._run.inputs, view._run.options)


def test_the_picture_beside_the_widget_and_the_files(
    model: LensModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("index.css", "host.js"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr("layerlens.export.html.STATIC", tmp_path)
    view = heads(model)
    view.wait(20)
    data, _ = view._repr_mimebundle_()
    assert {"text/plain", "image/png", "application/vnd.jupyter.widget-view+json"} <= set(data)
    view.focus = "metric"
    assert view._figure_options()["variable"] == "metric"
    written = {}
    for rid, kind in enumerate(("svg", "csv", "nc"), 1):
        found, [content] = ask(view, "export", rid, format=kind)
        assert found["name"] == f"grid-ablate-sweep-w1-w2-w3-w2.{kind}"
        written[kind] = content
    assert b"metric" in written["csv"]
    assert b"<svg" in written["svg"]
    page = view.html(tmp_path / "page.html").read_text()
    assert '"analysis_name":"ablate_sweep"' in page
    assert '"focus":"metric"' in page


def test_texts_by_name_or_in_order_and_by_the_analysis_itself(model: LensModel) -> None:
    one = GridView(model, "path_patch", "w1 w2 w3", corrupt="w1 w9 w3")
    other = GridView(model, ll.path_patch, corrupt="w1 w9 w3", clean="w1 w2 w3")
    assert one.inputs == other.inputs == {"clean": "w1 w2 w3", "corrupt": "w1 w9 w3"}
    assert one.input_names == ["clean", "corrupt"]
    assert one.analysis_name == "path_patch"
    first, second = one.wait(20), other.wait(20)
    assert first is not None
    assert second is not None
    assert first.data.equals(second.data)
    assert one.meta["asked"]["inputs"] == one.inputs
    tokens = one.meta["tokens"]
    assert [token["text"] for token in tokens["corrupt"]] == ["w1", "w9", "w3"]


def test_what_cannot_be_meant_is_refused_at_once(model: LensModel) -> None:
    with pytest.raises(TypeError, match="did you mean 'how'"):
        heads(model, hwo="zero")
    with pytest.raises(TypeError, match="did you mean 'focus'"):
        heads(model, focsu="effect")
    with pytest.raises(InputError, match="corrupt was not given"):
        GridView(model, "path_patch", "w1 w2")
    with pytest.raises(InputError, match="did you mean 'ablate_sweep'"):
        GridView(model, "ablate_swep", TEXT)
    with pytest.raises(InputError, match="Expected the name of an analysis"):
        GridView(model, 5, TEXT)  # type: ignore[arg-type]
    view = heads(model, unit="haed")
    with pytest.raises(InputError, match="did you mean 'head'"):
        view.wait(20)
    assert view.status["state"] == "error"


def test_an_option_with_the_name_of_a_trait_is_the_option(model: LensModel) -> None:
    view = GridView(model, "top_texts", ["w1 w2 w3", "w4 w5 w6"], layer=1, neurons=[3, 4])
    found = view.wait(20)
    assert found is not None
    assert found.data.attrs["layer"] == 1
    assert (view.options["layer"], view.layer) == (1, -1)


def test_the_newest_question_wins_and_an_old_one_is_remembered(model: LensModel) -> None:
    view = heads(model)
    first = view.wait(20)
    view.comm.set(inputs={"text": "w7 w8 w9"})
    view.comm.set(inputs={"text": "w7 w8 w2"})
    second = view.wait(20)
    assert second is not None
    assert second.data.attrs["text"] == "w7 w8 w2"
    view.comm.set(inputs={"text": TEXT})
    assert view.wait(20) is first
    until(lambda: view.status["state"] == "done")
    assert view.meta["run"] == view.status["run"]
    assert set(assembled(view, view.meta["run"])) == {"effect", "metric", "standard_error"}
    assert view.run().wait(20) is not first  # asked again in so many words it is computed again


def test_stop_keeps_what_is_there(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.02
    view = heads(model, method="naive")
    until(lambda: "effect" in assembled(view, 1) if view.comm.updates("meta") else False, 10)
    view.comm.custom(kind="cancel", run=1)
    with pytest.raises(Cancelled):
        view.wait(20)
    until(lambda: view.status["state"] == "cancelled")
    assert view.partial is not None
    effect = view.partial.data["effect"].values
    assert np.isnan(effect).any()
    assert np.isfinite(effect).any()
    pace.seconds = 0.0
    found = view.run().wait(20)
    assert found is not None
    assert view.partial is None


def slow(monkeypatch: pytest.MonkeyPatch, seconds: float = 40.0) -> None:
    """Let every call be expected to take long."""
    told = Estimate(312, seconds, 0, "told", 24)
    monkeypatch.setattr("layerlens.analyses.contract.contract.Analysis.estimate",
                        lambda *args, **options: told)  # fmt: skip


def test_what_takes_long_waits_for_a_word(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    view = heads(model)
    until(lambda: view.status["state"] == "waiting")
    assert view.status["message"] == "About 40 s: 312 passes over 24 tokens."
    assert view.estimate["words"] == view.status["message"]
    assert view.result is None
    view.comm.custom(kind="run")
    until(lambda: view.status["state"] == "done", 20)
    view.comm.set(inputs={"text": "w7 w8"})
    until(lambda: view.status["state"] == "waiting")
    assert view.result is not None  # what was there stays
    assert view.wait(20) is view.result
    assert view.inputs == {"text": "w7 w8"}
    assert heads(model, start=True).wait(20) is not None
    view.run(text="w5 w6")
    until(lambda: view.status["state"] == "done" and view.inputs["text"] == "w5 w6", 20)


def test_a_long_sweep_is_estimated_first_and_a_short_one_is_not(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "estimate" not in heads(model).wait(20).data
    slow(monkeypatch)
    view = heads(model, start=True)
    found = view.wait(20)
    assert found is not None
    assert "estimate_first=True" in found.code
    assert {"effect", "estimate"} <= {array["name"] for array in view.meta["arrays"]}
    parts = [h["name"] for c, _ in view.comm.customs("frame") for h in c["arrays"]]
    assert parts[0] == "estimate"
    assert "estimate" not in heads(model, start=True, estimate_first=False).wait(20).data


def test_a_run_that_waits_can_be_taken_back(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch)
    view = heads(model)
    until(lambda: view.status["state"] == "waiting")
    view._settle()  # a notebook that nobody watches goes on
    view.cancel()
    until(lambda: view.status["state"] == "cancelled")
    again = heads(model)
    until(lambda: again.status["state"] == "waiting")
    again.comm.set(options={"how": "zero", "unit": "attn"})
    until(lambda: again.status["run"] == 2 and again.status["state"] == "waiting")
    again.close()
    assert estimated.LONG == 10


def test_several_texts_are_a_text_a_line(model: LensModel) -> None:
    other = tiny_llama()
    view = GridView(model, "compare_models", ["w1 w2 w3", "w4\nw5 w6"], other=other)
    assert view.inputs == {"text": "w1 w2 w3\nw4⏎w5 w6"}
    assert view.options == {"other": "tiny"}
    first = view.wait(20)
    assert first is not None
    assert view.meta["code"].endswith("other=other)")
    view.comm.set(inputs={"text": "w1 w2 w3\nw7 w8 w9\n"})
    second = view.wait(20)
    assert second is not None
    assert json.loads(second.data.attrs["text"]) == ["w1 w2 w3", "w7 w8 w9"]
    view.comm.set(options={"other": "tiny", "metric": "rsa"})
    third = view.wait(20)
    assert third is not None
    assert third.data.attrs["metric"] == "rsa"
    assert answer_meta_of(third.data)["n_texts"] >= 1


def test_labelled_texts_are_a_text_a_line_and_keep_their_labels(model: LensModel) -> None:
    words, labels = ["w1 w2", "w3 w4", "w5 w6", "w7 w8"], [0, 1, 1, 0]
    view = GridView(model, "neural_collapse", ll.texts(words, label=labels), shuffles=2)
    first = view.wait(20)
    assert first is not None
    assert view.inputs == {"text": "\n".join(words)}
    view.comm.set(inputs={"text": "\n".join([*words[:3], "w9 w2"])})
    second = view.wait(20)
    assert second is not None
    again = ll.texts([*words[:3], "w9 w2"], label=labels)
    assert second.data.equals(ll.neural_collapse(model, again, shuffles=2).data)
    assert not second.data.equals(first.data)
    assert "ll.texts(['w1 w2', 'w3 w4', 'w5 w6', 'w9 w2'], label=[0, 1, 1, 0])" in second.code
    view.comm.set(inputs={"text": "\n".join(words)})
    assert view.wait(20) is first
    view.comm.set(inputs={"text": "\n".join([*words[:3], "w9 w2"])})
    assert view.wait(20) is second  # a question that was asked before is known
    view.comm.set(inputs={"text": "w1 w2\nw3 w4"})
    with pytest.raises(InputError, match="no labels"):
        view.wait(20)


def test_texts_too_many_to_read_are_their_call(model: LensModel) -> None:
    many = ll.texts(["w1 w2", "w3 w4"] * 11, label=[0, 1] * 11)
    view = GridView(model, "neural_collapse", many, shuffles=2)
    result = view.wait(20)
    assert result is not None
    assert view.inputs == {"text": "ll.texts(texts, label=labels)"}
    assert answer_traits(result.data, result.checks)["inputs"] == view.inputs
    corpus = GridView(model, "bigram_layers", ll.texts(["w1 w2 w3", "w4 w5 w6"]))
    assert corpus.inputs == {"text": "ll.texts(texts)"}
    found = corpus.wait(20)
    assert found is not None
    assert answer_traits(found.data, found.checks)["inputs"] == corpus.inputs


def test_several_texts_of_which_each_has_an_answer_are_refused(model: LensModel) -> None:
    view = heads(model, ["w1 w2 w3", "w4 w5 w6"])
    with pytest.raises(InputError, match="shows the answer of one text and got 2"):
        view.wait(20)
    both = ll.ablate_sweep(model, ["w1 w2 w3", "w4 w5 w6"], how="zero")
    shown = view_of(both, text=1)
    assert isinstance(shown, GridView)
    assert shown.inputs == {"text": "w4 w5 w6"}
    arrays = {array["name"]: array for array in shown.meta["arrays"]}
    assert not arrays["effect"]["interval"]
    assert (arrays["effect_mean"]["low"], arrays["effect_mean"]["high"]) == (
        "effect_low",
        "effect_high",
    )


def test_the_fields_of_a_view_take_only_what_they_can_hold(model: LensModel) -> None:
    view = heads(model)
    view.wait(20)
    with pytest.raises(traitlets.TraitError, match="inputs has a text for each of text"):
        view.inputs = {"txt": "w1"}
    with pytest.raises(traitlets.TraitError, match="no option 'hwo'"):
        view.options = {"hwo": "zero"}
    view.comm.set(analysis_name="knockout", input_names=[], estimate={})
    assert (view.analysis_name, view.input_names) == ("ablate_sweep", ["text"])
    assert view.estimate


def test_a_page_that_comes_late_gets_all(model: LensModel) -> None:
    view = heads(model)
    view.wait(20)
    count = len(view.comm.customs("frame"))
    view.comm.custom(kind="ready", run=0, seq=0)
    until(lambda: len(view.comm.customs("frame")) == 2 * count)


def test_doses_are_axes_or_options_that_ask_again(model: LensModel) -> None:
    view = CurvesView(model, "knockout", TEXT, sources={"first": [1]}, window=2)
    first = view.wait(20)
    [dose] = view.meta["doses"]
    assert (dose["option"], dose["dim"], dose["now"]) == ("window", "", 2)
    assert dose["values"] == [1, 2, 3, 5, 9, 15]
    view.comm.set(options={**view.options, "window": 5})
    second = view.wait(20)
    assert second is not None
    assert json.loads(second.data.attrs["options"])["window"] == 5
    until(lambda: view.meta["doses"][0]["now"] == 5)
    view.comm.set(options={**view.options, "window": 2})
    assert view.wait(20) is first  # what was computed is kept
    sides = [["w1 w2", "w3 w2"], ["w1 w4", "w3 w4"]]
    plain = CurvesView(model, "steering", *sides)
    plain.wait(20)
    assert plain.meta["doses"] == []
    more = {"text": TEXT, "coefficients": [-1.0, 0.0, 2.0], "neutral": "w1 w2 w3"}
    steered = CurvesView(model, "steering", *sides, **more)
    steered.wait(20)
    [dose] = steered.meta["doses"]
    assert (dose["dim"], dose["values"]) == ("coefficient", [-1.0, 0.0, 2.0])
    assert steered.meta["axes"]["coefficient"]["size"] == 3
