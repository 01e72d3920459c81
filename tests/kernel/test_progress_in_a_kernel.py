"""A progress bar in a cell: seen while it lasts, nothing of it saved."""

from __future__ import annotations

from .front_end import FrontEnd

COUNT = """
import time
from layerlens.analyses.contract.listeners import Bar
with Bar("<count>") as bar:
    for step in range({steps}):
        time.sleep(0.13)
        bar.on_progress(step + 1, {steps}, "layer 3")
print("after")
"""


def test_a_bar_is_shown_and_then_emptied(kernel: FrontEnd) -> None:
    cell = kernel.start(COUNT.format(steps=14))
    kernel.until_ended(cell)
    shown = [m["content"] for m in kernel.of(cell, "display_data")]
    then = [m["content"] for m in kernel.of(cell, "update_display_data")]
    assert len(shown) == 1 and len(then) >= 2
    first = shown[0]["data"]["text/html"]
    assert '<progress max="14"' in first and "&lt;count&gt;" in first and "layer 3" in first
    assert then[-1]["data"] == {"text/plain": ""}
    place = shown[0]["transient"]["display_id"]
    assert {update["transient"]["display_id"] for update in then} == {place}
    streams = [m["content"] for m in kernel.of(cell, "stream")]
    assert [(s["name"], s["text"]) for s in streams] == [("stdout", "after\n")]
    assert not kernel.of(cell, "comm_open")


def test_a_short_call_shows_none(kernel: FrontEnd) -> None:
    cell = kernel.start(COUNT.format(steps=3))
    kernel.until_ended(cell)
    assert not kernel.of(cell, "display_data")
