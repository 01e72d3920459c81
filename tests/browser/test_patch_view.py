"""The patch bench in JupyterLab and Notebook 7, as a newcomer uses it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from conftest import SHOTS
from driver import EVERYWHERE, LOAD, evaluate, finished, kernel_prints, save, visit
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server

SHOW = """view = ll.PatchView(
    model, clean="The capital of France is", corrupt="The capital of Italy is",
    answer=" Paris", wrong=" Rome",
)
view"""


@pytest.fixture
def view(run_cells: Callable[..., Locator]) -> Locator:
    """A notebook that shows one finished sweep of the default model."""
    found = run_cells(LOAD, SHOW)
    finished(found)
    return found


def middle(page: Page, view: Locator, layer: int, column: int) -> tuple[float, float]:
    """The middle of a cell on the page; the table is scrolled to its top layer."""
    box = view.get_by_role("grid").bounding_box()
    layers = int(evaluate(page, "print(model.n_layers)"))
    left, top, height = 76, 54, 22  # of the headings, and of a row
    whole = view.locator(".ll-heat .ll-sizer").evaluate("sizer => parseFloat(sizer.style.width)")
    columns = view.get_by_role("grid").get_attribute("aria-colcount")
    width = (whole - left) / int(columns or 0)
    x = box["x"] + left + (column + 0.5) * width
    return x, box["y"] + top + (layers - 1 - layer + 0.5) * height


def edits(page: Page, number: int) -> list[dict[str, object]]:
    """The picked patches as the kernel has them, once there are so many: keys are quick."""
    kernel_prints(page, "print(len(view.edits))", str(number))
    return json.loads(evaluate(page, "import json; print(json.dumps(view.edits))"))


@EVERYWHERE
def test_a_bench_from_open_to_reload(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    view.scroll_into_view_if_needed()
    expect(view).to_contain_text("clean activations into the corrupted run")
    expect(view).to_contain_text("1 differs")
    shoot("1-done")

    # the strongest cell, and what its patch does to the next token
    view.get_by_role("button", name="strongest").click()
    grid = view.get_by_role("grid")
    grid.focus()
    page.keyboard.press("Enter")
    side = view.get_by_label("Effect on the next token")
    expect(side.locator("pre")).to_contain_text("ll.edit")
    expect(side).to_contain_text("Paris")
    shoot("2-cell")
    page.keyboard.press("Escape")

    # A takes the patch into the list; Ctrl+Z takes it out again, and back
    page.keyboard.press("a")
    patches = view.get_by_role("group", name="Patches")
    expect(patches.locator("li")).to_have_count(1)
    edits(page, 1)
    page.keyboard.press("Control+z")
    expect(patches.locator("li")).to_have_count(0)
    page.keyboard.press("Control+Shift+z")
    expect(patches.locator("li")).to_have_count(1)
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2  # the notebook ate no key
    runs = view.get_by_role("group", name="Runs")
    expect(runs.locator("li")).to_have_count(1)
    shoot("3-listed")

    # the page comes back as it was
    save(page)
    page.reload(wait_until="domcontentloaded")
    finished(view)
    expect(patches.locator("li")).to_have_count(1)
    expect(runs.locator("li")).to_have_count(1)
    shoot("4-reloaded")


def test_a_patch_is_dragged_across_layers_and_undone(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    view.scroll_into_view_if_needed()
    page.mouse.move(*middle(page, view, 28, 4))
    page.mouse.down()
    page.mouse.move(*middle(page, view, 24, 3), steps=4)
    shoot("1-dragging")
    page.mouse.move(*middle(page, view, 20, 3), steps=4)
    page.mouse.up()
    (edit,) = edits(page, 1)
    assert (edit["layer"], edit["position"]) == (20, 3)
    assert edit["from"] == {"layer": 28, "position": 4}
    side = view.get_by_label("Effect on the next token")
    expect(side.locator("pre")).to_contain_text("resid_pre.20")
    shoot("2-dragged")

    # what the view shows is what its Python gives
    code = side.locator("pre").inner_text()
    run = f"id, text, p = {code}.top(1)[0]; print(f'{{text.strip()}}|{{p:.2%}}')"
    token, probability = evaluate(page, run).split("|")
    row = side.get_by_role("row").filter(has_text=probability)
    expect(row.filter(has_text=token)).to_have_count(1)

    # the same by keyboard: Enter picks, arrows move, Enter puts
    grid = view.get_by_role("grid")
    grid.focus()
    page.keyboard.press("Enter")
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    patches = view.get_by_role("group", name="Patches")
    expect(patches.locator("li")).to_have_count(2)
    second = edits(page, 2)[1]
    assert second["layer"] == second["from"]["layer"] - 2

    patches.get_by_role("checkbox").first.uncheck()
    expect(patches.get_by_role("checkbox").first).not_to_be_checked()
    shoot("3-toggled")
    patches.get_by_role("button", name="Undo").click()
    patches.get_by_role("button", name="Undo").click()
    expect(patches.locator("li")).to_have_count(1)
    assert edits(page, 1) == [edit]


def test_heads_metrics_and_directions(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    view.get_by_role("button", name="z", exact=True).click()
    finished(view)
    result = "r = view.wait(); print(r.data.recovered.dims, r.data.attrs['method'])"
    kernel_prints(page, result, "('layer', 'head') packed")
    view.scroll_into_view_if_needed()
    shoot("1-heads")
    view.get_by_role("button", name="Noise", exact=True).click()
    finished(view)
    expect(view).to_contain_text("corrupted activations into the clean run")
    view.get_by_role("combobox", name="Metric").select_option("probability")
    finished(view)
    kernel_prints(page, "print(view.wait().data.attrs['metric'])", "probability")
    shoot("2-noise")


def test_the_lens_before_and_after(view: Locator, page: Page, shoot: Callable[[str], None]) -> None:
    view.get_by_role("button", name="strongest").click()
    page.keyboard.press("Enter")
    lens = view.get_by_role("group", name="Lens before and after")
    lens.get_by_role("button", name="Compute").click()
    for name in ("Before", "After", "Difference"):
        lens.get_by_role("button", name=name).click()
        lens.scroll_into_view_if_needed()
        shoot(name.lower())
    expect(lens.get_by_label("Top tokens before and after")).to_contain_text("Paris")


def test_a_sweep_is_stopped_and_keeps_its_cells(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    slow = SHOW.replace('" Rome",', '" Rome", method="naive",').replace("The", "In short, the")
    view = run_cells(LOAD, slow)
    count = "import numpy as np; print(int(np.isfinite(view.partial.data.metric).sum()))"
    expect(view.get_by_role("progressbar")).to_be_visible()
    expect(view.locator(".ll-progress")).to_contain_text(re.compile(r"[1-9]\d* of \d+"))
    view.get_by_role("button", name="Cancel").click()
    expect(view).to_contain_text("Cancelled after")
    view.scroll_into_view_if_needed()
    shoot("1-stopped")
    cells = int(evaluate(page, count))
    assert 0 < cells < 30 * 8
    # the others are estimates, and the picture says so
    left = "t = view.partial.data; print(int((t.metric.isnull() & t.estimate.notnull()).sum()))"
    guessed = int(evaluate(page, left))
    assert cells + guessed == 30 * 8
    expect(view).to_contain_text(f"{guessed} cells are estimates by attribution patching")
    # and it can be asked again, the quick way
    evaluate(page, "view.run(method='auto')")
    finished(view)


def test_prompts_that_are_not_equally_long_and_the_same_one_twice(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    corrupt = view.get_by_role("textbox", name="Corrupted prompt")
    corrupt.fill("The capital of the Netherlands is")
    corrupt.press("Enter")
    expect(view.locator(".ll-fed")).to_contain_text("5 and 6 tokens")
    finished(view)
    view.get_by_role("button", name="Pair tokens").click()
    view.scroll_into_view_if_needed()
    shoot("1-pairing")
    view.get_by_role("button", name="the, position 3 of the corrupted").click()
    view.get_by_role("button", name="France, position 3 of the clean").click()
    expect(view.locator(".ll-fed")).to_contain_text("Paired by hand")
    finished(view)
    kernel_prints(page, "print(view.wait().data.attrs['options'].count('[3, 3]'))", "1")
    corrupt.fill("The capital of France is")
    corrupt.press("Enter")
    expect(view.get_by_role("alert")).to_contain_text("Both prompts are the same")
    view.scroll_into_view_if_needed()
    shoot("2-the-same")
    corrupt.fill("The capital of Spain is")
    corrupt.press("Enter")
    expect(view.get_by_role("alert")).to_have_count(0)
    finished(view)


def test_a_frozen_bench_without_kernel_or_network(
    view: Locator, page: Page, chrome: Browser, server: Server, shoot: Callable[[str], None]
) -> None:
    evaluate(page, "view.result.html('bench.html')")
    with visit(chrome, offline=True) as opened:
        opened.page.goto((server.folder / "bench.html").as_uri())
        frozen = opened.page.locator(".ll-view")
        finished(frozen)
        frozen.get_by_role("button", name="strongest").click()
        opened.page.keyboard.press("ArrowDown")
        expect(frozen).to_contain_text("needs a running kernel")
        expect(frozen.get_by_role("button", name="Run", exact=True)).to_be_disabled()
        opened.page.screenshot(path=SHOTS / "frozen-bench.png")
        assert opened.errors == []
