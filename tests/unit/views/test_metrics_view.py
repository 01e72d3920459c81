"""What a view of measured layers does for its user: curves that grow, metrics, a second model."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import traitlets

import layerlens as ll
from layerlens.errors import Cancelled, InputError
from layerlens.export.pack import unpack
from layerlens.export.twins import traits_of
from layerlens.metrics import registry
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.views import LensView, MetricsView, view_of
from layerlens.views.explore import explore

from .fakes import until
from .tiny import N_LAYERS, Pace, ask, tiny_llama

TEXTS = ["w1 w2 w3 w4", "w5 w6 w7"]
NAMES = ["residual_norm", "block_influence", "angular_distance", "induction"]


@pytest.fixture
def model() -> LensModel:
    return tiny_llama()


@pytest.fixture
def second() -> LensModel:
    own = tiny_llama()
    hf = tiny_model("llama", 1, vocab_size=64, num_hidden_layers=3)
    return LensModel.wrap(hf, own.tokenizer, name="second", prove=False)


def show(model: LensModel, texts: Any = TEXTS, metrics: Any = NAMES, **more: Any) -> MetricsView:
    return MetricsView(model, texts, metrics, **more)


def shown(model: LensModel, texts: Any = TEXTS, metrics: Any = NAMES, **more: Any) -> MetricsView:
    view = show(model, texts, metrics, **more)
    view.wait(20)
    return view


def assembled(view: MetricsView, run: int) -> dict[str, np.ndarray]:
    """Put the arrays of a run together from its frames, with the sizes that meta says."""
    metas = [m for m in view.comm.updates("meta") if m.get("run") == run]
    arrays: dict[str, np.ndarray] = {}
    for content, buffers in view.comm.customs("frame"):
        for header, buffer in zip(content["arrays"], buffers, strict=True):
            if content["run"] != run:
                continue
            dtype = np.dtype(header["dtype"]).newbyteorder("<")
            shape = [metas[-1]["axes"][dim]["size"] for dim in header["dims"]]
            fill = np.nan if dtype.kind == "f" else -1
            whole = arrays.setdefault(header["name"], np.full(shape, fill, dtype))
            box = tuple(
                slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
            )
            whole[box] = np.frombuffer(buffer, dtype).reshape(header["shape"])
    return arrays


def test_what_arrives_is_what_the_call_returns(model: LensModel) -> None:
    view = shown(model)
    plain = ll.layer_metrics(model, TEXTS, NAMES)
    arrays = assembled(view, 1)
    assert set(arrays) == set(plain.data.data_vars)
    for name, array in arrays.items():
        expected = plain.data[name].values
        assert np.allclose(array, expected, rtol=1e-6, atol=1e-6, equal_nan=True), name
    assert view.result is not None
    assert view.result.data.equals(plain.data)
    assert view.result.code == plain.code == view.meta["code"]
    assert view.meta["checks"] == plain.checks.records()


def test_curves_grow_while_the_model_runs(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.08
    view = show(model, TEXTS[:1])
    assert view.comm.opened["state"]["texts"] == TEXTS[:1]
    until(lambda: "residual_norm" in assembled(view, 1))
    assert view.status["state"] == "running"
    early = assembled(view, 1)["residual_norm"]
    assert np.isfinite(early[0])
    assert np.isnan(early[-1])
    view.wait(20)
    frames = [content for content, _ in view.comm.customs("frame")]
    assert [frame["seq"] for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame["last"] for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert len(frames) >= 3


def test_meta_says_what_each_array_is(model: LensModel) -> None:
    meta = shown(model).meta
    arrays = {array["name"]: array for array in meta["arrays"]}
    assert meta["metrics"] == NAMES
    assert arrays["residual_norm"]["kind"] == "curve"
    assert arrays["residual_norm"]["interval"]
    assert arrays["angular_distance"]["kind"] == "matrix"
    assert arrays["angular_distance_mean"]["kind"] == "profile"
    assert arrays["induction"]["kind"] == "heads"
    assert not any(name.endswith(("_low", "_high")) for name in arrays)
    assert meta["axes"]["point"]["labels"] == ["embed", "0_post", "1_post", "2_post", "3_post"]
    assert meta["axes"]["point"]["numbers"] == [-1, 0, 1, 2, 3]
    assert meta["axes"]["head"]["numbers"] == [0, 1, 2, 3]
    assert meta["axes"]["blocks_apart"]["numbers"] is None
    assert meta["described"]["residual_norm"]["family"] == "residual stream"
    assert meta["described"]["residual_norm"]["formula"]
    assert (meta["n_texts"], meta["n_tokens"], meta["n_counted"]) == (2, 7, 5)
    groups = meta["clusters"]["angular_distance"]
    assert [first for first, _ in groups] == [0, *(last + 1 for _, last in groups[:-1])]
    assert groups[-1][1] == N_LAYERS
    json.dumps(meta, allow_nan=False)


def test_the_catalogue_says_what_can_be_picked_and_what_not(model: LensModel) -> None:
    listed = {entry["name"]: entry for entry in show(model).catalogue}
    assert set(listed) == set(registry.every())
    assert not listed["residual_norm"]["why"]
    assert all(
        entry["question"] and entry["source"] and entry["family"] for entry in listed.values()
    )
    mamba = LensModel.wrap(tiny_model("mamba", 0), None, name="mamba", prove=False)
    why = {entry["name"]: entry["why"] for entry in show(mamba, [1, 2, 3], "block_norm").catalogue}
    assert why["induction"]
    assert not why["block_norm"]


def test_the_default_set(model: LensModel) -> None:
    view = show(model, TEXTS, None)
    result = view.wait(20)
    assert result is not None
    assert view.metrics == []
    assert view.meta["metrics"] == json.loads(result.data.attrs["metrics"])
    assert "metrics=" not in result.code


def test_one_more_metric_costs_only_itself(
    model: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = shown(model, TEXTS, ["residual_norm", "cka"])
    plain = ll.layer_metrics(model, TEXTS, ["cka", "residual_norm", "induction"])
    asked: list[Any] = []
    run = view.analysis.run

    def noted(model: Any, text: Any, options: Any, listener: Any) -> Any:
        asked.append(options["metrics"])
        return run(model, text, options, listener)

    monkeypatch.setattr(view.analysis, "run", noted)
    view.comm.set(metrics=["cka", "residual_norm", "induction"])
    result = view.wait(20)
    assert asked == [["induction"]]
    assert list(result.data.data_vars) == list(plain.data.data_vars)
    assert result.data.equals(plain.data)
    assert result.code == plain.code
    assert json.loads(result.data.attrs["options"]) == json.loads(plain.data.attrs["options"])
    view.metrics = ["cka"]
    assert list(view.wait(20).data.data_vars) == ["cka", "cka_cluster"]
    assert len(asked) == 1
    view.comm.custom(kind="run")
    view.wait(20)
    view.options = {"skip_first": False}
    view.wait(20)
    view.texts = TEXTS[:1]
    view.wait(20)
    assert asked[1:] == [["cka"]] * 3


def test_options_of_a_metric_make_it_new(model: LensModel) -> None:
    view = shown(model, TEXTS, ["angular_distance", "residual_norm"])
    before = view.result.data["angular_distance"].values
    view.options = {"metric_options": {"angular_distance": {"token": "last"}}}
    after = view.wait(20).data["angular_distance"].values
    assert not np.allclose(before, after)
    alone = ll.layer_metrics(
        model, TEXTS, "angular_distance", metric_options={"angular_distance": {"token": "last"}}
    )
    assert np.array_equal(after, alone.data["angular_distance"].values)


def test_a_second_model_beside(model: LensModel, second: LensModel) -> None:
    view = show(model, other=second, label="step 2")
    assert repr(view) == "MetricsView(2 texts, model='tiny', other='step 2')"
    assert view.wait(20) is not None
    result = view.result
    theirs = ll.layer_metrics(second, TEXTS, NAMES)
    for name in theirs.data.data_vars:
        found = result.data[f"other.{name}"]
        assert np.array_equal(found.values, theirs.data[name].values, equal_nan=True)
        assert found.dims == tuple(f"other.{dim}" for dim in theirs.data[name].dims)
    assert view.meta["other"]["label"] == "step 2"
    assert view.meta["other"]["n_layers"] == 3
    assert view.meta["axes"]["other.layer"]["size"] == 3
    arrays = assembled(view, 1)
    assert np.allclose(
        arrays["other.residual_norm"], theirs.data["residual_norm"].values, rtol=1e-6
    )
    assert next(a["name"] for a in view.meta["arrays"] if a["other"]) == "other.residual_norm"
    assert "ll.layer_metrics(other, " in result.code
    assert "other.tokens" in [check.name for check in result.checks]


def test_a_result_beside(model: LensModel, tmp_path: Path) -> None:
    before = ll.layer_metrics(model, TEXTS[:1], NAMES)
    view = shown(model, other=before, label="one text")
    again = view.result.data["other.block_influence"].values
    assert np.array_equal(again, before.data["block_influence"].values)
    opened = ll.open(view.result.save(tmp_path / "a.nc"))
    assert opened.identical(view.result)
    assert view_of(opened).meta["other"]["label"] == "one text"


def test_two_models_beside_each_other_in_two_views(model: LensModel, second: LensModel) -> None:
    """Each view holds one model and asks for the other; neither may wait for ever."""
    views = [show(model, other=second), show(second, other=model)]
    for number in range(5):
        for view in views:
            view.texts = [f"w{number} w2 w3", "w4 w5"]
    for view in views:
        result = view.wait(30)
        assert result.data.sizes["point"] + result.data.sizes["other.point"] == 9


def test_stop_keeps_what_is_finished(model: LensModel, pace: Pace) -> None:
    view = shown(model, TEXTS, ["residual_norm"])
    pace.seconds = 0.1
    view.metrics = ["residual_norm", "block_norm"]
    until(lambda: view.status["run"] == 2 and view.status["done"] >= 2)
    view.comm.custom(kind="cancel", run=2)
    with pytest.raises(Cancelled):
        view.wait(20)
    assert view.status["state"] == "cancelled"
    assert view.partial is not None
    assert np.isfinite(view.partial.data["residual_norm"].values).all()
    assert np.isnan(view.partial.data["block_norm"].values[-1])
    assert [c for c, _ in view.comm.customs("frame")][-1]["last"]
    view.comm.custom(kind="cancel", run=1)
    pace.seconds = 0.0
    view.metrics = ["block_norm"]
    assert view.wait(20) is not None


def test_stop_during_the_second_model(model: LensModel, second: LensModel) -> None:
    slow = Pace(second)
    slow.seconds = 0.15
    view = show(model, TEXTS, ["residual_norm"], other=second)
    until(lambda: "second" in view.status["what"])
    view.cancel()
    with pytest.raises(Cancelled):
        view.wait(20)
    assert np.isfinite(view.partial.data["residual_norm"].values).all()
    slow.seconds = 0.0
    view.run(TEXTS[:1])
    assert "other.residual_norm" in view.wait(20).data
    slow.remove()


def test_the_newest_question_wins(model: LensModel, pace: Pace) -> None:
    pace.seconds = 0.03
    view = show(model)
    for number in range(30):
        view.comm.set(texts=[f"w{number} w1 w2"], text=f"w{number} w1 w2")
    view.wait(20)
    done = [s["run"] for s in view.comm.updates("status") if s["state"] == "done"]
    assert done == [31]
    assert view.result.data.attrs["text"] == "w29 w1 w2"


def test_text_and_texts_say_the_same(model: LensModel) -> None:
    view = shown(model)
    assert view.text == ""
    view.comm.set(text="w1 w2 w3")
    assert view.texts == ["w1 w2 w3"]
    assert view.wait(20).data.attrs["texts"] == 1
    view.texts = TEXTS
    assert view.text == ""
    view.wait(20)
    assert shown(model, [3, 4, 5]).texts == ["w1w2w3"]


def test_token_ids_and_a_corpus(model: LensModel) -> None:
    ids = shown(model, [3, 4, 5], "residual_norm")
    plain = ll.layer_metrics(model, [3, 4, 5], "residual_norm")
    assert ids.result.data.equals(plain.data)
    corpus = ll.texts(TEXTS * 3)
    view = shown(model, corpus, "residual_norm")
    assert view.result.data.attrs["rows"] == 6
    assert view.status["unit"] == "token"
    assert view.meta["n_texts"] == 6
    frozen = MetricsView.from_result(view.result)
    assert not frozen.live
    assert frozen.meta["axes"] == view.meta["axes"]


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"metrics": "residual_nrom"}, InputError, "residual_norm"),
        ({"metrics": "macro_influence"}, InputError, "ll.macro_influence"),
        ({"other": 3}, InputError, "a model from ll.load"),
        ({"skip_frist": True}, TypeError, "skip_first"),
        ({"layer": "two"}, traitlets.TraitError, "layer"),
    ],
)
def test_what_is_misspelt_raises(
    model: LensModel, given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        show(model, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"texts": ""}, "empty"),
        ({"texts": "w1"}, "No token counts"),
        ({"metric_options": {"cka": {"samples": 3}}, "metrics": "cka"}, "samples"),
    ],
)
def test_bad_input_is_said_in_the_view(model: LensModel, given: dict[str, Any], words: str) -> None:
    view = show(model, **given)
    with pytest.raises(InputError, match=words):
        view.wait(20)
    assert view.status["state"] == "error"
    assert words in view.status["message"]


def test_nonsense_of_the_front_end_is_refused_aloud(model: LensModel) -> None:
    view = shown(model)
    view.comm.set(metrics=["nothing"])
    assert view.metrics == NAMES
    assert view.status["state"] == "error"
    view.comm.set(catalogue=[], meta={})
    assert view.catalogue
    assert view.meta
    view.comm.set(layer=99, position=-7)
    assert (view.layer, view.position) == (99, -1)


def test_requests(model: LensModel) -> None:
    view = shown(model)
    assert ask(view, "code")[0] == view.result.code
    for rid, (kind, start) in enumerate(
        [
            ("csv", b"layer"),
            ("svg", b"<?xml"),
            ("png", b"\x89PNG"),
            ("pdf", b"%PDF"),
            ("nc", b"\x89HDF"),
        ],
        start=2,
    ):
        _, buffers = ask(view, "export", rid, format=kind)
        assert start in buffers[0][:200] or kind == "csv"


def test_a_page_from_a_view_and_from_a_result(
    model: LensModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("index.css", "host.js"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr("layerlens.export.html.STATIC", tmp_path)
    view = shown(model, layer=2, hidden=["block_influence"])
    traits, packed = view._frozen()
    assert unpack(packed)[0] == traits["meta"] == view.meta
    assert traits["hidden"] == ["block_influence"]
    page = view.html(tmp_path / "a.html").read_text()
    assert "angular_distance" in page
    twin = traits_of(view.result.data, view.result.checks)
    assert set(traits) <= set(twin) | {"snapshot"}
    assert twin["meta"]["arrays"] == view.meta["arrays"]
    view.result.html(tmp_path / "b.html")


def test_a_result_is_shown_without_running(model: LensModel) -> None:
    result = ll.layer_metrics(model, TEXTS, NAMES, skip_first=False)
    view = result.widget()
    assert isinstance(view, MetricsView)
    assert view.live
    assert view.result is result
    assert view.texts == TEXTS
    assert view.options == {"skip_first": False}
    meta, frames = unpack(view.snapshot)
    assert meta == view.meta
    named = dict(zip([a["name"] for a in frames[0][0]["arrays"]], frames[0][1], strict=True))
    assert np.allclose(named["residual_norm"], result.data["residual_norm"].values, rtol=1e-6)
    view.metrics = ["residual_norm"]
    assert np.allclose(
        view.wait(20).data["residual_norm"].values, result.data["residual_norm"].values
    )


def test_ready_brings_the_picture_again(model: LensModel) -> None:
    view = shown(model)
    sent = view.comm.customs("frame")
    view.comm.custom(kind="ready", run=0, seq=0)
    until(lambda: len(view.comm.customs("frame")) == 2 * len(sent))
    assert view.comm.customs("frame")[len(sent) :] == sent


def test_a_picture_beside_the_widget(model: LensModel) -> None:
    view = shown(model)
    bundle = view._repr_mimebundle_()
    assert bundle is not None
    assert "image/png" in bundle[0]
    assert bundle[0]["text/plain"].startswith("MetricsView(2 texts, model='tiny')")


def test_a_closed_view_is_freed(model: LensModel, second: LensModel, pace: Pace) -> None:
    pace.seconds = 0.03
    view = show(model, other=second)
    comm = view.comm
    until(lambda: comm.customs("frame"))
    view.close()
    held = weakref.ref(view)
    del view
    until(lambda: gc.collect() >= 0 and held() is None, 10)


def test_what_is_no_model_is_named_before_anything_is_made() -> None:
    with pytest.raises(InputError, match=r"ll\.load\('toy:induction'\)"):
        MetricsView("toy:induction", "w1 w2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"ll\.load\('toy:induction'\)"):
        LensView("toy:induction", "w1 w2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"ll\.load\('toy:induction'\)"):
        explore("toy:induction", "w1 w2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="second as other="):
        MetricsView([tiny_llama(), tiny_llama()], "w1 w2")  # type: ignore[arg-type]
