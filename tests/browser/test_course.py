"""A question as a student meets it: predict, answer, see; and find the answer again."""

from __future__ import annotations

import json
from collections.abc import Callable

from conftest import NAME
from driver import BOTH, evaluate, finished, kernel_prints, run_all, save
from playwright.sync_api import Locator, Page, expect
from serving import Server

FORGET = "from layerlens.course import asked; asked._ASKED.clear()"
LOAD = f"""import layerlens as ll
from layerlens import course
{FORGET}
model = ll.load('toy:induction')"""
LAYER = """course.predict(
    "settles", "After which layer does the model say the word that it will say?", kind="layer",
    model=model, truth=1, hint="It has two blocks.",
    reveal=lambda: ll.LensView(model, "cat dog owl cat"))"""
CURVE = """course.predict(
    "norms", "How does the length of the stream change?", kind="curve",
    along=["embed", "0", "1"], between=(0, 4), unit="lengths of the embedding",
    truth=[1, 2, 3])"""


@BOTH
def test_predict_answer_see_and_come_back(
    page: Page, run_cells: Callable[..., Locator], server: Server, shoot: Callable[[str], None]
) -> None:
    run_cells(LOAD, LAYER, CURVE)
    layer, curve = (page.locator(".ll-course").nth(i) for i in (0, 1))
    answer = layer.get_by_role("button", name="Answer")
    expect(answer).to_be_disabled()
    layer.get_by_role("spinbutton").fill("0")
    shoot("asked")
    answer.click()
    expect(layer.get_by_role("status").first).to_contain_text("it is layer 1, you said layer 0")
    lens = layer.locator(".ll-course-figure .ll-view")
    finished(lens)
    expect(lens.get_by_role("grid")).to_be_visible()
    shoot("revealed")

    drawing = curve.get_by_role("slider")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.6 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + 0.2 * box["height"], steps=4)
    page.mouse.up()
    curve.get_by_role("button", name="Answer").click()
    expect(curve.get_by_role("status").first).to_contain_text("of the axis from the real one")
    shoot("drawn")
    kernel_prints(page, "print(course.check('settles'))", "False")

    save(page)
    kept = json.loads((server.folder / NAME).read_text())["metadata"]["layerlens"]["answers"]
    assert kept["settles"] == {"value": 0, "given": True, "tries": 1}
    assert len(kept["norms"]["value"]) == 3

    # As after a restart the kernel knows nothing, and the notebook tells it.
    evaluate(page, FORGET)
    run_all(page)
    expect(layer.get_by_role("status").first).to_contain_text("it is layer 1, you said layer 0")
    kernel_prints(page, "print(course.answers()[0]['answer'])", "0")
