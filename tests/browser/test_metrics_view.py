"""Layers measured in JupyterLab and Notebook 7, and all views on one layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import SHOTS
from driver import EVERYWHERE, LOAD, evaluate, finished, kernel_prints, save, visit
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server

SHOW = """texts = ["The capital of France is Paris.", "Once upon a time there was a small village."]
view = ll.MetricsView(model, texts)
view"""
EXPLORE = """everything = ll.explore(model, "The capital of France is")
everything"""


@pytest.fixture
def view(run_cells: Callable[..., Locator]) -> Locator:
    """A notebook that shows the default metrics of the default model, finished."""
    found = run_cells(LOAD, SHOW)
    finished(found)
    return found


@EVERYWHERE
def test_layers_from_open_to_reload(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    view.scroll_into_view_if_needed()
    shoot("1-done")
    panels = view.get_by_label("Curves by layer.")
    panels.focus()
    page.keyboard.press("End")
    kernel_prints(page, "print(view.layer)", "29")
    page.keyboard.press("Home")
    kernel_prints(page, "print(view.layer)", "0")

    # a press in one chart selects the layer there, and all of them read it out
    chart = view.locator(".ll-panel .u-over").first
    width = chart.evaluate("area => area.clientWidth")
    chart.click(position={"x": width - 3, "y": 20})
    kernel_prints(page, "print(view.layer)", "29")
    expect(view.get_by_label("Cosine", exact=True).locator(".ll-num").first).not_to_be_empty()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    kernel_prints(page, "print(view.layer)", "27")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2  # the notebook ate no key

    # another metric, by the keyboard alone
    page.keyboard.press("m")
    search = view.get_by_role("combobox", name="Search metrics")
    expect(search).to_be_focused()
    search.fill("cka")
    expect(view.locator(".ll-details")).to_contain_text("formula")
    shoot("2-picking")
    page.keyboard.press("Enter")
    kernel_prints(page, "print('cka' in view.wait().data)", "True")
    page.keyboard.press("Escape")
    finished(view)
    grid = view.get_by_role("grid").last
    grid.scroll_into_view_if_needed()
    shoot("3-matrix")

    # the page comes back as it was
    save(page)
    page.reload(wait_until="domcontentloaded")
    finished(view)
    expect(view.get_by_role("button", name="Metrics (")).to_be_visible()
    kernel_prints(page, "print(view.layer)", "27")
    shoot("4-reloaded")


def test_all_views_follow_one_layer_and_position(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    run_cells(LOAD, EXPLORE)
    lens = page.locator(".ll-view[aria-label='Logit lens']")
    finished(lens)
    shoot("1-open")
    slider = lens.get_by_label("Layer", exact=True)
    slider.focus()
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    kernel_prints(page, "print(everything.metrics.layer)", "27")
    kernel_prints(page, "print(everything.lens.layer, everything.patching.layer)", "27 27")
    shoot("2-followed")


def test_frozen_curves_without_kernel_or_network(
    view: Locator, page: Page, chrome: Browser, server: Server
) -> None:
    evaluate(page, "view.result.html('layers.html')")
    with visit(chrome, offline=True) as opened:
        opened.page.goto((server.folder / "layers.html").as_uri())
        frozen = opened.page.locator(".ll-view")
        finished(frozen)
        frozen.get_by_label("Curves by layer.").focus()
        opened.page.keyboard.press("Home")
        opened.page.screenshot(path=SHOTS / "frozen-layers.png")
        assert opened.errors == []
