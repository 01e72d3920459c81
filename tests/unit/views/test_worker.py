"""Lanes, the outbox and the bundle, each by itself."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from layerlens.errors import LayerLensError
from layerlens.views import bundle
from layerlens.views.outbox import Outbox
from layerlens.views.worker import Lane, Task

from .fakes import until


def noted(done: list[str], name: str, owner: int = 1, slot: str = "run") -> Task:
    return Task(owner, slot, lambda task: done.append(name), lambda error: None)


def held_lane() -> tuple[Lane, threading.Event]:
    """Return a lane that is busy until the event is set."""
    lane, began, go = Lane("test"), threading.Event(), threading.Event()

    def hold(task: Task) -> None:
        began.set()
        go.wait(3)

    lane.put(Task(0, "hold", hold, lambda error: None))
    assert began.wait(3)
    return lane, go


def test_owners_take_turns_and_the_newest_task_of_a_slot_wins() -> None:
    done: list[str] = []
    lane, go = held_lane()
    for name in ("a1", "a2", "a3"):
        lane.put(noted(done, name, 1, name))
    lane.put(noted(done, "old", 2))
    lane.put(noted(done, "new", 2))
    go.set()
    until(lambda: len(done) == 4)
    assert done == ["a1", "new", "a2", "a3"]
    lane.close()


def test_what_fails_is_reported_and_the_thread_lives_on() -> None:
    errors: list[BaseException] = []
    done: list[str] = []

    def fail(error: BaseException) -> None:
        errors.append(error)
        raise RuntimeError("the report fails too")

    lane = Lane("test")

    def work(task: Task) -> None:
        raise ZeroDivisionError

    lane.put(Task(1, "run", work, fail))
    lane.put(noted(done, "next", 2))
    until(lambda: done)
    assert isinstance(errors[0], ZeroDivisionError)
    lane.close()


def test_without_threads_a_task_runs_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "emscripten")
    done: list[str] = []
    Lane("test").put(noted(done, "now"))
    assert done == ["now"]


def test_a_closed_lane_takes_nothing() -> None:
    lane = Lane("test")
    lane.close()
    task = noted([], "never")
    lane.put(task)
    assert task.cancelled


def test_the_outbox_waits_while_a_message_is_taken_in() -> None:
    box = Outbox()
    done: list[str] = []

    def say() -> None:
        box.put(lambda: done.append("a"))
        box.put(lambda: done.append("b"))

    with box.inside():
        worker = threading.Thread(target=say)
        worker.start()
        worker.join(3)
        assert not worker.is_alive()
        assert done == []
    assert done == ["a", "b"]


def test_a_missing_bundle_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    bundle._read.cache_clear()
    monkeypatch.setattr(bundle, "STATIC", tmp_path)
    with pytest.raises(LayerLensError, match=r"front end .* missing .* install"):
        bundle.script("lens")
    (tmp_path / "lens.js").write_text("export default {}")
    assert bundle.script("lens") == "export default {}"
    bundle._read.cache_clear()
