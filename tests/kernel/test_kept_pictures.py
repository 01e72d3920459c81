"""What a view leaves in a notebook's file: messages of a real kernel."""

from __future__ import annotations

import base64

from .front_end import FrontEnd, Message, until

WIDGET = "application/vnd.jupyter.widget-view+json"
SLOW = "pace['seconds'] = 0.1; view = ll.LensView(model, 'w1 w2 w3')"


def ended(kernel: FrontEnd, code: str, *, attended: bool = True) -> str:
    cell = kernel.start(code, attended=attended)
    until(lambda: kernel.ended(cell), 30)
    assert not kernel.of(cell, "error")
    return cell


def picture(output: Message) -> bytes:
    return base64.b64decode(output["data"].get("image/png", ""))


def test_the_picture_comes_with_the_end_of_a_run_and_leaves_the_widget_alone(
    kernel: FrontEnd,
) -> None:
    cell = ended(kernel, f"{SLOW}\nview")
    widget, kept = kernel.shown(cell)
    assert WIDGET in widget["data"]
    assert WIDGET not in kept["data"]
    assert not picture(kept)  # the cell has ended before the run
    assert "nothing was computed" in kept["data"]["text/plain"]
    until(lambda: picture(kernel.shown(cell)[1]).startswith(b"\x89PNG"), 20)
    kept = kernel.shown(cell)[1]
    assert "Picture of LensView('w1 w2 w3', model='tiny')" in kept["data"]["text/plain"]
    assert "<img" in kept["data"]["text/html"]
    assert kernel.shown(cell)[0] == widget

    ended(kernel, "view.text = 'w4 w5'")
    until(lambda: "w4 w5" in kernel.shown(cell)[1]["data"]["text/plain"], 20)
    assert kernel.shown(cell)[0] == widget
    kernel.run("view.close()")


def test_each_place_that_shows_a_view_has_the_picture(kernel: FrontEnd) -> None:
    first = ended(kernel, f"{SLOW}\ndisplay(view)")
    second = ended(kernel, "view")
    for cell in (first, second):
        until(lambda cell=cell: picture(kernel.shown(cell)[1]), 20)
    kernel.run("view.close()")


def test_a_view_shown_from_a_thread_has_the_picture(kernel: FrontEnd) -> None:
    cell = ended(
        kernel, f"{SLOW}\nt = threading.Thread(target=display, args=(view,))\nt.start(); t.join()"
    )
    until(lambda: picture(kernel.shown(cell)[1]), 20)
    kernel.run("view.close()")


def test_where_nobody_watches_the_cell_ends_with_the_run(kernel: FrontEnd) -> None:
    cell = ended(kernel, f"{SLOW}\nview", attended=False)
    updates = kernel.of(cell, "update_display_data")
    assert picture(updates[-1]["content"]).startswith(b"\x89PNG")
    kernel.run("view.close()")


def test_a_run_that_failed_leaves_its_sentence(kernel: FrontEnd) -> None:
    cell = ended(kernel, "view = ll.LensView(model, ''); view", attended=False)
    assert "empty" in kernel.shown(cell)[1]["data"]["text/plain"]
    kernel.run("view.close()")


def test_a_finished_result_and_all_views_together(kernel: FrontEnd) -> None:
    cell = ended(kernel, "pace['seconds'] = 0.0\nll.logit_lens(model, 'w1 w2')", attended=False)
    outputs = [m for m in kernel.shown(cell) if "tqdm" not in str(m["data"])]
    assert picture(outputs[-1])
    assert "checks" in outputs[-1]["data"]["text/plain"]
    cell = ended(kernel, "e = ll.explore(model, 'w1 w2'); e", attended=False)
    kept = kernel.shown(cell)[-1]["data"]
    assert kept["text/html"].count("<img") == 3  # the bench waits for a second prompt
    assert "LensView" in kept["text/plain"]
    assert "MetricsView" in kept["text/plain"]
    assert "AttentionView" in kept["text/plain"]
    kernel.run("e.close()")
