"""What a lens view does for its user: runs, stops, fails, follows its traits."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layerlens.errors import Cancelled, InputError, LayerLensError
from layerlens.export.pack import unpack
from layerlens.views import LensView, view_of

from .fakes import D_VOCAB, LAYERS, POINTS, FakeModel, until


def show(model: FakeModel, text: Any = "1 2 3", **keywords: Any) -> LensView:
    return LensView(model, text, **keywords)  # type: ignore[arg-type]


def reply(view: LensView, rid: int) -> tuple[dict[str, Any], list[bytes]]:
    found: list[tuple[dict[str, Any], list[bytes]]] = []

    def look() -> bool:
        both = view.comm.customs("reply") + view.comm.customs("error")
        found[:] = [(c, b) for c, b in both if c["rid"] == rid]
        return bool(found)

    until(look)
    return found[0]


def assemble(view: LensView, run: int) -> dict[str, np.ndarray]:
    """Put the frames of a run together as the front end does."""
    arrays: dict[str, np.ndarray] = {}
    meta = [m for m in view.comm.updates("meta") if m.get("run") == run][-1]
    sizes = {"point": len(meta["points"]), "position": len(meta["tokens"]), "k": meta["k"],
             "tracked": len(meta["tracked"])}  # fmt: skip
    frames = [(c, b) for c, b in view.comm.customs("frame") if c["run"] == run]
    assert [c["seq"] for c, _ in frames] == list(range(1, len(frames) + 1))
    assert [c["last"] for c, _ in frames] == [False] * (len(frames) - 1) + [True]
    for content, buffers in frames:
        for header, buffer in zip(content["arrays"], buffers, strict=True):
            part = np.frombuffer(buffer, np.dtype(header["dtype"]).newbyteorder("<"))
            shape = [sizes[dim] for dim in header["dims"]]
            whole = arrays.setdefault(
                header["name"], np.full(shape, np.nan if part.dtype.kind == "f" else 0, part.dtype)
            )
            box = tuple(
                slice(s, s + n) for s, n in zip(header["start"], header["shape"], strict=True)
            )
            whole[box] = part.reshape(header["shape"])
    return arrays


def test_a_view_is_there_at_once_and_streams_what_the_result_holds(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    assert view.result is None
    assert view.comm.opened["state"]["text"] == "1 2 3"
    model.step(len(POINTS))
    result = view.wait(3)
    assert result is not None
    assert view.status["state"] == "done"
    assert view.status["run"] == 1
    arrays = assemble(view, 1)
    assert np.array_equal(arrays["token_id"], result.data["token_id"].values)
    expected = np.log(result.data["probability"].values)
    assert np.allclose(arrays["logprob"].astype(np.float64), expected, atol=2e-3)
    assert view.meta["checks"][0]["name"] == "sum"
    assert view.meta["notes"] == ["a note"]
    assert "ll.logit_lens(model, '1 2 3')" in view.meta["code"]
    assert view.result is result


def test_rows_arrive_while_the_model_is_still_running(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    model.step(2)
    until(lambda: view.comm.customs("frame"))
    assert view.status["state"] == "running"
    assert view.result is None
    until(lambda: view.comm.customs("frame")[-1][0]["arrays"][0]["start"][0] >= 1)
    model.step(10)
    view.wait(3)


def test_frames_are_few(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    assert len(view.comm.customs("frame")) <= 3


def test_the_snapshot_holds_the_last_picture(model: FakeModel) -> None:
    view = show(model)
    result = view.wait(3)
    assert result is not None
    meta, frames = unpack(view.snapshot)
    assert meta == view.meta
    assert len(frames) == 1
    header, arrays = frames[0]
    named = {item["name"]: a for item, a in zip(header["arrays"], arrays, strict=True)}
    assert np.array_equal(named["token_id"], result.data["token_id"].values)
    assert header["vocab"]["3"] == "<b>3</b>"


def test_a_new_text_stops_the_old_run(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    until(lambda: model.began)
    view.text = "4 5"
    model.step(100)
    result = view.wait(3)
    assert result is not None
    assert result.data.sizes["position"] == 2
    assert view.status["run"] == 2
    assert [t["id"] for t in view.meta["tokens"]] == [4, 5]
    assert not [c for c, _ in view.comm.customs("frame") if c["run"] == 1 and c["last"]]


def test_a_flood_of_runs_ends_in_the_last_one_only(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    until(lambda: model.began)
    for number in range(500):
        view.comm.custom(kind="run", text=f"1 {number % 40}", options={"top_k": 3})
    model.step(10**4)
    view.wait(3)
    done = [s["run"] for s in view.comm.updates("status") if s["state"] == "done"]
    assert done == [501]
    assert model.began[-1] == "1 19"
    assert view.text == "1 19"
    assert view.meta["k"] == 3


def test_the_trait_and_the_message_of_one_edit_run_once(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    view.comm.set(text="7 8")
    view.comm.custom(kind="run", text="7 8", options={})
    model.step(100)
    view.wait(3)
    assert view.status["run"] == 2
    view.comm.custom(kind="run", text="7 8", options={})
    view.wait(3)
    assert view.status["run"] == 3


def test_cancel_keeps_the_finished_rows(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    model.step(3)
    until(lambda: view.comm.customs("frame") and view.status["done"] == 3)
    view.comm.custom(kind="cancel", run=1)
    with pytest.raises(Cancelled):
        view.wait(3)
    assert view.status["state"] == "cancelled"
    assert view.result is None
    assert view.partial is not None
    assert view.partial.data.attrs["complete"] == 0
    entropy = assemble(view, 1)["entropy"][:, 0].astype(float)
    assert entropy[:3].tolist() == [0, 1, 2]
    assert np.isnan(entropy[3:]).all()
    assert unpack(view.snapshot)[0]["run"] == 1


def test_a_late_stop_does_not_hit_the_next_run(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    model.hold()
    view.text = "9"
    view.comm.custom(kind="cancel", run=1)
    model.step(100)
    assert view.wait(3) is not None
    assert view.status["state"] == "done"


def test_cancel_before_the_run_begins(model: FakeModel) -> None:
    model.hold()
    first = show(model)
    until(lambda: model.began)
    second = show(model, "5")
    second.cancel()
    assert second.status["state"] == "cancelled"
    with pytest.raises(Cancelled):
        second.wait(1)
    model.step(100)
    first.wait(3)
    assert model.began == ["1 2 3"]


@pytest.mark.parametrize(
    ("text", "keywords", "words"),
    [
        ("", {}, "empty"),
        ("1 2", {"tracked": ["no token"]}, "not one token"),
        (["1 2", "3 4"], {}, "shows one text"),
    ],
)
def test_bad_input_is_said_in_the_view(
    model: FakeModel, text: Any, keywords: dict[str, Any], words: str
) -> None:
    view = show(model, text, **keywords)
    with pytest.raises(InputError, match=words):
        view.wait(3)
    assert view.status["state"] == "error"
    assert words in view.status["message"]


def test_an_error_keeps_the_last_picture(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    meta, snapshot, result = view.meta, view.snapshot, view.result
    view.text = ""
    with pytest.raises(InputError):
        view.wait(3)
    assert view.meta == meta
    assert view.snapshot == snapshot
    assert view.result is result
    model.fail_at = 3
    before = len(view.comm.customs("frame"))
    view.text = "1 2 3 4"
    with pytest.raises(LayerLensError, match="NaN"):
        view.wait(3)
    assert view.meta == meta
    assert view.snapshot == snapshot
    frames = view.comm.customs("frame")[before:]
    assert frames[-1][0]["run"] == 1
    assert frames[-1][0]["last"]
    model.fail_at = None
    view.text = "1 2 3 4"
    view.run()
    assert view.wait(3) is not None


def test_row_and_layer_follow_each_other(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    assert (view.row, view.layer) == (len(POINTS) - 1, LAYERS[-1])
    view.comm.set(row=2)
    assert view.layer == LAYERS[2]
    view.layer = 0
    assert view.row == 1
    view.row = 99
    assert view.row == len(POINTS) - 1
    assert view.comm.updates("row")[-1] == len(POINTS) - 1
    view.layer = -1
    assert view.row == 0


@pytest.mark.parametrize(("given", "row", "layer"), [({"row": 2}, 2, 1), ({"layer": 2}, 3, 2)])
def test_row_or_layer_given(model: FakeModel, given: dict[str, int], row: int, layer: int) -> None:
    view = show(model, **given)
    view.wait(3)
    assert (view.row, view.layer) == (row, layer)
    view.text = "8"
    view.wait(3)
    assert (view.row, view.layer) == (row, layer)


def test_a_position_beyond_a_shorter_text_becomes_the_last(model: FakeModel) -> None:
    view = show(model, position=2)
    view.wait(3)
    assert view.position == 2
    view.text = "8"
    view.wait(3)
    assert view.position == -1


def test_pins_and_tracked_words_become_tracked(model: FakeModel) -> None:
    view = show(model, tracked=[" 7"], pins=[{"position": 1, "id": 9}])
    result = view.wait(3)
    assert result is not None
    assert result.data["tracked"].values.tolist() == [7, 9]
    assert [t["id"] for t in view.meta["tracked"]] == [7, 9]
    assert view.tracked == 0
    assert view.options == {"tracked": [" 7"]}


@pytest.mark.parametrize(
    "state",
    [
        {"color": "red"},
        {"pins": [{"position": 0, "id": D_VOCAB}]},
        {"pins": ["x"]},
        {"options": {"topk": 3}},
        {"row": "two"},
    ],
)
def test_nonsense_of_the_front_end_is_refused_aloud(
    model: FakeModel, state: dict[str, Any]
) -> None:
    view = show(model)
    view.wait(3)
    (name,) = state
    before = getattr(view, name)
    view.comm.set(**state)
    assert getattr(view, name) == before
    assert view.status["state"] == "error"
    assert view.status["message"]
    assert view.comm.updates(name)[-1] == before


def test_what_is_the_kernels_stays_the_kernels(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    view.comm.set(meta={}, snapshot="", status={"state": "hacked"}, live=False, title="mine")
    assert view.meta
    assert view.snapshot
    assert view.live
    assert view.title == "mine"
    assert view.status["state"] == "done"


def test_misspelt_keywords_raise_with_the_nearest_name(model: FakeModel) -> None:
    with pytest.raises(TypeError, match="did you mean 'top_k'"):
        show(model, topk=3)
    with pytest.raises(TypeError, match="did you mean 'color'"):
        show(model, colour="entropy")


def test_requests_are_answered(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    ask = view.comm.custom
    ask(kind="request", rid=1, method="search", params={"query": "3", "limit": 2})
    assert reply(view, 1)[0]["result"] == [
        {"id": 3, "text": "<b>3</b>"},
        {"id": 13, "text": "<b>13</b>"},
    ]
    ask(kind="request", rid=2, method="nothing", params={})
    assert "search" in reply(view, 2)[0]["message"]
    ask(kind="request", rid=3, method="export", params={"format": "csv"})
    content, buffers = reply(view, 3)
    assert content["result"] == {"name": "lens-1-2-3.csv", "mime": "text/csv"}
    assert b"entropy" in buffers[0]
    ask(kind="request", rid=4, method="export", params={"format": "exe"})
    assert "exe" in reply(view, 4)[0]["message"]


def test_the_frozen_page_has_what_is_on_screen(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("index.css", "host.js"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr("layerlens.export.html.STATIC", tmp_path)
    view = show(model, pins=[{"position": 1, "id": 9}])
    view.wait(3)
    view.row = 2
    traits, packed = view._frozen()
    assert (traits["row"], traits["layer"], traits["pins"]) == (2, 1, [{"position": 1, "id": 9}])
    assert unpack(packed)[0] == traits["meta"] == view.meta
    page = view.html(tmp_path / "a.html").read_text()
    assert "<b>1</b>" not in page


def test_a_track_is_computed_once(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    for rid in (1, 2):
        view.comm.custom(kind="request", rid=rid, method="track", params={"position": 1, "id": 9})
        answer = reply(view, rid)[0]["result"]
        assert answer["rank"] == [1, 2, 3, 4, 5, 6]
        assert answer["probability"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert model.calls[1:] == [{"top_k": 1, "positions": [1], "tracked": [9]}]
    view.comm.custom(kind="request", rid=3, method="track", params={"position": 7, "id": 9})
    assert "3" in reply(view, 3)[0]["message"]


def test_a_cancelled_request_is_not_answered(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    model.hold()
    view.comm.custom(kind="request", rid=1, method="track", params={"position": 1, "id": 9})
    until(lambda: len(model.calls) == 2)
    view.comm.custom(kind="cancel_request", rid=1)
    model.step(100)
    view.comm.custom(kind="request", rid=2, method="track", params={"position": 0, "id": 9})
    reply(view, 2)
    assert not [c for c, _ in view.comm.customs("reply") if c["rid"] == 1]


def test_too_many_requests_are_refused(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    until(lambda: model.began)
    for rid in range(100):
        view.comm.custom(kind="request", rid=rid, method="track", params={"position": 0, "id": rid})
    assert "Too many" in reply(view, 99)[0]["message"]
    model.step(10**5)
    view.wait(3)


def test_ready_brings_what_is_missing(model: FakeModel) -> None:
    model.seconds = 0.03
    view = show(model)
    view.wait(3)
    sent = view.comm.customs("frame")
    count = len(sent)
    assert count >= 2
    view.comm.custom(kind="ready", run=0, seq=0)
    until(lambda: len(view.comm.customs("frame")) == 2 * count)
    assert view.comm.customs("frame")[count:] == sent
    view.comm.custom(kind="ready", run=1, seq=count - 1)
    until(lambda: len(view.comm.customs("frame")) == 2 * count + 1)
    view.comm.custom(kind="request", rid=1, method="pull", params={"run": 1})
    assert reply(view, 1)[0]["result"] == {"frames": count}


def test_two_views_take_turns(model: FakeModel) -> None:
    model.hold()
    first, second = show(model), show(model, "4 5")
    model.step(10**3)
    assert first.wait(3) is not None
    assert second.wait(3) is not None
    assert model.began == ["1 2 3", "4 5"]


def test_waiting_has_an_end_and_can_be_awaited(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    with pytest.raises(TimeoutError, match="goes on"):
        view.wait(0.1)
    threading.Timer(0.05, lambda: model.step(100)).start()
    assert asyncio.run(view.done()) is view.result is not None


def test_an_observer_may_wait_for_the_run_that_it_started(model: FakeModel) -> None:
    view = show(model)
    view.wait(3)
    seen: list[Any] = []

    def ask(change: Any) -> None:
        view.run("5 6")
        seen.append(view.wait(3))

    view.observe(ask, "title")
    view.comm.set(title="new")
    assert seen[0].data.sizes["position"] == 2
    assert view.status["state"] == "done"
    assert len(view.meta["tokens"]) == 2


def test_a_closed_view_is_freed_and_stops(model: FakeModel) -> None:
    model.hold()
    view = show(model)
    until(lambda: model.began)
    comm = view.comm
    view.close()
    held = weakref.ref(view)
    del view
    model.step(1)
    until(lambda: gc.collect() >= 0 and held() is None)
    count = len(comm.sent)
    time.sleep(0.02)
    assert comm.closed
    assert len(comm.sent) == count


def test_a_model_without_views_is_freed() -> None:
    model = FakeModel()
    model.name = "freed"
    view = show(model)
    view.wait(3)
    view.close()
    held = weakref.ref(model)
    del view, model
    until(lambda: gc.collect() >= 0 and held() is None)
    until(lambda: not any(t.name == "layerlens freed" for t in threading.enumerate()))


def test_the_repr_is_the_same_every_time(model: FakeModel) -> None:
    view = show(model)
    assert repr(view) == "LensView('1 2 3', model='fake')"
    view.wait(3)
    bundle = view._repr_mimebundle_()
    assert bundle is not None
    assert bundle[0]["text/plain"] == "LensView('1 2 3', model='fake')"
    assert "application/vnd.jupyter.widget-view+json" in bundle[0]


def test_a_result_becomes_a_live_view_without_computing(model: FakeModel) -> None:
    first = show(model, "1 2", top_k=3)
    result = first.wait(3)
    assert result is not None
    view = view_of(result)
    assert isinstance(view, LensView)
    assert view.live
    assert view.result is result
    assert view.status["state"] == "done"
    assert len(model.began) == 1
    assert view.text == "1 2"
    assert view.options["top_k"] == 3
    assert json.dumps(view.meta) == json.dumps(first.meta)
    view.text = "3"
    assert view.wait(3) is not result
    assert len(model.began) == 2


def test_a_result_without_its_model_is_a_frozen_view(model: FakeModel) -> None:
    result = show(model, [1, 2]).wait(3)
    assert result is not None
    result.model = None
    view = LensView.from_result(result, row=1)
    assert not view.live
    assert view.row == 1
    assert view.snapshot
    assert view.text == "<b>1</b><b>2</b>"
    assert repr(view) in view._plain()
    assert repr(result) in view._plain()
    view.text = "3"
    assert view.wait(1) is result
    with pytest.raises(InputError, match="frozen"):
        view.run()
    view.comm.custom(kind="request", rid=1, method="track", params={"position": 0, "id": 1})
    assert "no 'track'" in reply(view, 1)[0]["message"]


def test_a_picture_says_which_question_it_answers(model: FakeModel) -> None:
    view = show(model, "1 2")
    view.wait(3)
    assert view.meta["asked"] == {"inputs": {"text": "1 2"}, "options": {"lens": []}}
    model.hold()
    view.text = "3 4"
    until(lambda: view.status["state"] == "running")
    assert view.meta["asked"]["inputs"] == {"text": "1 2"}
    model.step(1)
    until(lambda: view.meta["asked"]["inputs"] == {"text": "3 4"})
    model.step(10)
    view.wait(3)
    assert view.meta["asked"]["inputs"] == {"text": "3 4"}


def test_a_ping_is_answered(model: FakeModel) -> None:
    view = show(model)
    view.comm.custom(kind="ping")
    until(lambda: view.comm.customs("pong"))
