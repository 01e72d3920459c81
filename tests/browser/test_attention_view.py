"""Attention in JupyterLab and Notebook 7, and as a page without a kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import SHOTS
from driver import EVERYWHERE, LOAD, evaluate, finished, kernel_prints, save, visit
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server

SHOW = """text = "When Mary and John went to the store, John gave a drink to Mary."
view = ll.AttentionView(model, text, layer=3)
view"""


@pytest.fixture
def view(run_cells: Callable[..., Locator]) -> Locator:
    """A notebook that shows attention of the default model, finished."""
    found = run_cells(LOAD, SHOW)
    shown(found)
    return found


def shown(view: Locator) -> None:
    finished(view)
    expect(view.locator(".ll-head-list[aria-busy=false]")).to_be_visible()


@EVERYWHERE
def test_attention_from_open_to_reload(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    view.scroll_into_view_if_needed()
    shoot("1-done")

    # through the layers, by the slider and by the keyboard of the matrix
    slider = view.get_by_label("Layer", exact=True)
    slider.focus()
    page.keyboard.press("End")
    kernel_prints(page, "print(view.layer)", "29")
    expect(view.get_by_role("heading", name="Layer 29, head 0").first).to_be_visible()
    page.keyboard.press("Home")
    kernel_prints(page, "print(view.layer)", "0")
    matrix = view.get_by_role("grid", name="Matrix of")
    matrix.click(position={"x": 125, "y": 160})
    page.keyboard.press("]")
    kernel_prints(page, "print(view.layer, view.query >= 0, view.key >= 0)", "1 True True")
    before = int(evaluate(page, "print(view.query)"))
    page.keyboard.press("ArrowDown")
    kernel_prints(page, "print(view.query)", str(before + 1))
    expect(view.locator(".ll-looks .ll-note")).to_have_text("")  # the numbers are exact

    # heads: one, several, only one
    head = view.locator("[data-head='4']")
    head.click()
    kernel_prints(page, "print(view.head)", "4")
    view.locator("[data-head='7']").click(modifiers=["Shift"])
    kernel_prints(page, "print(view.reduce, view.shown)", "mean [4, 7]")
    view.locator("[data-head='2']").dblclick()
    kernel_prints(page, "print(view.shown)", "[2]")
    view.get_by_role("button", name="One", exact=True).click()
    kernel_prints(page, "print(view.reduce, view.head)", "one 2")

    # a token pinned by a press, and without the sinks
    lines = view.get_by_role("grid", name="Lines of")
    lines.click(position={"x": 40, "y": 5 * 20 + 10})
    kernel_prints(page, "print([pin['position'] for pin in view.pins])", "[5]")
    page.keyboard.press("m")
    kernel_prints(page, "print(view.mask_sinks)", "True")
    expect(view.get_by_text("Left out: key 0")).to_be_visible()
    shoot("2-pinned")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2  # the notebook ate no key

    # another weighting is computed when it is asked for
    view.get_by_role("button", name="× value …").click()
    shown(view)
    kernel_prints(page, "print('value_weighted' in view.wait().data)", "True")

    # another prompt in place, and the page comes back as it was
    view.get_by_label("Prompt.").fill("The cat sat on the mat and the cat slept.")
    view.get_by_role("button", name="Run", exact=True).click()
    kernel_prints(page, "print(view.wait().data.sizes['query'])", "11")
    shown(view)
    save(page)
    page.reload(wait_until="domcontentloaded")
    shown(view)
    expect(view.get_by_label("Prompt.")).to_have_value("The cat sat on the mat and the cat slept.")
    expect(view.locator(".ll-looks")).to_contain_text("looks at")
    shoot("3-reloaded")


def test_frozen_attention_without_kernel_or_network(
    view: Locator, page: Page, chrome: Browser, server: Server
) -> None:
    evaluate(page, "view.html('attention.html')")
    with visit(chrome, offline=True) as opened:
        opened.page.goto((server.folder / "attention.html").as_uri())
        frozen = opened.page.locator(".ll-view")
        shown(frozen)
        frozen.get_by_label("Layer", exact=True).focus()
        opened.page.keyboard.press("End")
        expect(frozen.get_by_role("heading", name="Layer 29, head 0").first).to_be_visible()
        shown(frozen)
        frozen.get_by_role("button", name="Mean", exact=True).click()
        expect(frozen.get_by_text("mean of all 9 heads")).to_be_visible()
        expect(frozen.get_by_text("To ±0.4 % of the head")).to_be_visible()
        opened.page.screenshot(path=SHOTS / "frozen-attention.png")
        assert opened.errors == []
