"""What every view holds to, whatever a front end sends."""

from __future__ import annotations

import pytest

from layerlens.views import LensView

from .fakes import FakeModel


@pytest.fixture
def view(model: FakeModel) -> LensView:
    return LensView(model, "1 2 3")  # type: ignore[arg-type]


def test_a_front_end_cannot_change_the_code_that_other_pages_get(view: LensView) -> None:
    held = [name for name in view.keys if name.startswith("_") and name != "_view_count"]
    assert {"_esm", "_css", "_anywidget_id", "_model_module", "_view_module"} <= set(held)
    before = {name: getattr(view, name) for name in held}
    for name in held:
        view.set_state({name: "changed"})
    assert {name: getattr(view, name) for name in held} == before


def test_a_front_end_changes_what_is_its_own(view: LensView) -> None:
    view.set_state({"layer": 2, "_view_count": 1, "live": False, "_esm": "changed"})
    assert (view.layer, view._view_count, view.live) == (2, 1, True)


def test_a_layer_chosen_before_the_first_picture_stays(model: FakeModel) -> None:
    model.hold()
    view = LensView(model, "1 2 3")  # type: ignore[arg-type]
    view.set_state({"layer": 1})
    assert view._layers() == []  # no picture yet
    model.step(100)
    view.wait(10)
    assert (view.layer, view._layers()[view.row]) == (1, 1)
