"""Every test here has a recorded front end, a small bundle and the fake lens."""

from __future__ import annotations

from collections.abc import Iterator

import comm
import pytest
from ipywidgets import Widget

from layerlens.model.lensmodel import LensModel
from layerlens.views import LensView, bundle

from .fakes import FAKE_LENS, FakeComm, FakeModel
from .tiny import Pace


@pytest.fixture(autouse=True)
def front_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(comm, "create_comm", lambda **opened: FakeComm(**opened))
    monkeypatch.setattr(bundle, "script", lambda view: "export default {}")
    monkeypatch.setattr(bundle, "style", lambda: ".layerlens {}")
    monkeypatch.setattr(LensView, "analysis", FAKE_LENS)
    yield
    Widget.close_all()


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def pace(model: LensModel) -> Iterator[Pace]:
    found = Pace(model)
    yield found
    found.remove()
