"""The picture in a notebook's file, where there is no notebook and where it is too large."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import pytest

from layerlens.views import LensView, kept, picture
from layerlens.views.exports import export

from .fakes import FakeModel, until


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(kept, "publish", lambda data, *_, **__: found.append(data))
    return found


def test_a_terminal_gets_the_text_once(
    published: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: object())
    view = LensView(model, "1 2")  # type: ignore[arg-type]
    view._ipython_display_()
    view.wait(3)
    assert [data["text/plain"] for data in published] == ["LensView('1 2', model='fake')"]


def test_a_view_that_was_never_shown_is_never_drawn(
    monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(LensView, "_picture", lambda self: drawn.append(1) or b"")
    view = LensView(model, "1 2")  # type: ignore[arg-type]
    view.wait(3)
    until(lambda: view.status["state"] == "done")
    assert drawn == []


def test_a_picture_that_is_too_large_leaves_the_summary(
    monkeypatch: pytest.MonkeyPatch, model: FakeModel
) -> None:
    view = LensView(model, "1 2")  # type: ignore[arg-type]
    result = view.wait(3)
    monkeypatch.setattr(LensView, "_picture", lambda self: bytes(100))
    assert len(view._shot().picture) == 100
    monkeypatch.setattr(picture, "MAX_PICTURE_BYTES", 99)
    shot = view._shot()
    assert shot.picture == b""
    assert shot.caption.startswith("Summary of LensView('1 2'")
    assert shot.summary == repr(result)


def test_what_was_stopped_is_what_is_exported_and_kept(model: FakeModel) -> None:
    view = LensView(model, "1 2")  # type: ignore[arg-type]
    old = view.wait(3)
    model.hold()
    view.text = "3 4"
    model.step(2)
    until(lambda: view.status["done"] == 2)
    view.cancel()
    until(lambda: view.status["state"] == "cancelled")
    assert view.partial is not None
    assert view.result is old
    assert view._shot().summary == repr(view.partial)
    _, _, content = export(view, "csv")
    written = pd.read_csv(io.BytesIO(content))
    own = written.drop(columns=["selected", "pins"])
    assert own.to_csv(index=False) == view.partial.to_pandas().to_csv(index=False)
    assert written["selected"].sum() == 1
