"""The lens table in JupyterLab and Notebook 7, as a newcomer uses it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from driver import BOTH, EVERYWHERE, LOAD, evaluate, finished, kernel_prints, save, visit
from playwright.sync_api import Browser, Locator, Page, expect

SHOW = 'view = ll.LensView(model, "The capital of France is")\nview'


@pytest.fixture
def view(run_cells: Callable[..., Locator]) -> Locator:
    """A notebook that shows one lens of the default model, finished."""
    found = run_cells(LOAD, SHOW)
    finished(found)
    return found


def top_answer(view: Locator) -> Locator:
    """The first bar beside the slider."""
    return view.locator(".ll-side li").first


@EVERYWHERE
def test_a_lens_from_open_to_reload(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    expect(top_answer(view)).to_contain_text("Paris")
    expect(top_answer(view)).to_contain_text("77.25")
    view.scroll_into_view_if_needed()
    shoot("1-done")

    # scrub: the slider alone changes the distribution, without a word to the kernel
    slider = view.get_by_label("Layer", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(view.locator(".ll-slider output")).to_contain_text("29")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 2  # the notebook ate no key
    shoot("2-scrubbed")

    # pin with the keyboard: arrows move, Enter opens, p pins
    table = view.get_by_role("grid")
    table.focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    page.keyboard.press("p")
    chart = view.get_by_role("group", name="Pinned tokens by layer")
    expect(chart.locator("li")).to_have_count(1)
    page.keyboard.press("Enter")
    popup = page.get_by_label("Top tokens of this cell")
    expect(popup).to_be_visible()
    shoot("3-pinned-and-open")
    page.keyboard.press("Escape")
    expect(popup).to_have_count(0)
    kernel_prints(page, "print(len(view.pins))", "1")

    # edit the prompt in place
    prompt = view.locator("textarea")
    prompt.fill("The capital of Italy is")
    prompt.press("Enter")
    expect(top_answer(view)).not_to_contain_text("Paris")
    finished(view)
    expect(view.locator(".ll-fed")).to_contain_text("Italy")
    found = "print(view.text, '|', view.wait().data.sizes['position'])"
    kernel_prints(page, found, "The capital of Italy is | 5")
    shoot("4-edited")

    # the page comes back as it was
    save(page)
    page.reload(wait_until="domcontentloaded")
    finished(view)
    expect(view.locator("textarea")).to_have_value("The capital of Italy is")
    expect(chart.locator("li")).to_have_count(1)
    shoot("5-reloaded")


@BOTH
def test_mouse_hover_click_and_pin(view: Locator, page: Page, shoot: Callable[[str], None]) -> None:
    table = view.get_by_role("grid")
    box = table.bounding_box()
    page.mouse.move(box["x"] + 320, box["y"] + 120)
    expect(page.get_by_role("tooltip")).to_be_visible()
    expect(page.get_by_role("tooltip")).to_contain_text("nats")
    shoot("1-hover")
    page.mouse.click(box["x"] + 320, box["y"] + 120)
    popup = page.get_by_label("Top tokens of this cell")
    popup.get_by_role("button").nth(1).click()
    expect(view.get_by_role("group", name="Pinned tokens by layer").locator("li")).to_have_count(1)
    shoot("2-pinned")
    view.get_by_role("button", name="Transpose").click()
    view.get_by_role("button", name="Entropy").click()
    shoot("3-transposed")
    kernel_prints(page, "print(view.transposed, view.color)", "True entropy")


def test_two_texts_on_one_grid(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    show = SHOW.replace('")', '", other="The capital of Italy is")')
    view = run_cells(LOAD, show)
    finished(view)
    expect(view.get_by_role("grid")).to_have_count(2)
    side = view.get_by_label("Next-token distribution by layer")
    expect(side).to_contain_text("Paris")
    expect(side).to_contain_text("Rome")
    view.scroll_into_view_if_needed()
    shoot("1-beside")

    # one cell for both, chosen in the other table
    table = view.get_by_role("grid").last
    table.focus()
    page.keyboard.press("ArrowLeft")
    kernel_prints(page, "print(view.position)", "3")
    expect(side.locator(".ll-where")).to_contain_text("France")

    # the second text is edited in place; the difference is shown in one table
    other = view.get_by_label("Other text")
    other.fill("The capital of Spain is")
    other.press("Enter")
    kernel_prints(page, "print(view.wait().data.attrs['other_label'])", "The capital of Spain is")
    finished(view)
    view.get_by_role("button", name="KL between").click()
    expect(view.get_by_role("grid")).to_have_count(1)
    view.scroll_into_view_if_needed()
    shoot("2-divergence")
    kernel_prints(page, "print(view.compare)", "kl")


def test_search_for_a_token(view: Locator, page: Page, shoot: Callable[[str], None]) -> None:
    search = view.get_by_label("Find a token in the vocabulary")
    search.fill("Rome")
    expect(view.locator(".ll-search").get_by_role("option").first).to_contain_text("Rome")
    shoot("1-found")
    search.press("ArrowDown")
    search.press("Enter")
    chart = view.get_by_role("group", name="Pinned tokens by layer")
    expect(chart.locator("li")).to_contain_text("Rome")


def test_bad_input_ends_in_a_sentence(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    prompt = view.locator("textarea")
    prompt.fill("")
    prompt.press("Enter")
    expect(view.get_by_role("alert").first).to_contain_text("empty")
    expect(top_answer(view)).to_contain_text("Paris")  # the last picture stays
    shoot("1-empty")


def test_cancel_keeps_what_was_computed(
    view: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    prompt = view.locator("textarea")
    prompt.fill("one two three four five six seven eight nine ten " * 40)
    prompt.press("Enter")
    progress = view.locator(".ll-progress")
    expect(progress).to_contain_text(re.compile(r"[1-9]\d* of \d+"))
    view.get_by_role("button", name="Cancel").click()
    status = view.locator(".ll-status")
    expect(status).to_contain_text(re.compile(r"Cancelled after [1-9]\d* of \d+"))
    shoot("1-cancelled")
    kept = evaluate(page, "print(int(view.partial.data.entropy.notnull().all('position').sum()))")
    assert 1 <= int(kept) < 32  # a row for each block of so long a text
    prompt.fill("The capital of France is")
    prompt.press("Enter")
    expect(top_answer(view)).to_contain_text("Paris")


def test_two_views_of_one_widget(run_cells: Callable[..., Locator]) -> None:
    load = 'import layerlens as ll\nmodel = ll.load("toy:induction")'
    show = "view = ll.LensView(model, [5, 9, 3, 5, 9])\nview"
    views = run_cells(load, show, "view")
    expect(views).to_have_count(2)
    for number in range(2):
        finished(views.nth(number))
    views.nth(0).get_by_role("button", name="Rank").click()
    expect(views.nth(1).get_by_role("button", name="Rank")).to_have_attribute(
        "aria-pressed", "true"
    )


def restart(page: Page) -> None:
    page.evaluate(
        "() => { const { context } = window.jupyterapp.shell.currentWidget;"
        "  return context.sessionContext.session.kernel.restart(); }"
    )


def test_kernel_restart_under_the_view_and_a_saved_picture_without_its_kernel(
    view: Locator, page: Page, tmp_path: Path, chrome: Browser, shoot: Callable[[str], None]
) -> None:
    kept = page.locator("[class*=ll-kept-] img")
    expect(kept).to_have_count(1)
    expect(kept).to_be_hidden()  # the live view is there
    expect(view.get_by_role("grid")).to_be_visible()
    save(page)
    restart(page)
    expect(view.get_by_role("alert")).to_contain_text("restarted")
    expect(view.get_by_role("button", name="Run")).to_be_disabled()
    expect(top_answer(view)).to_contain_text("Paris")  # what was received can still be read
    slider = view.get_by_label("Layer", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    expect(top_answer(view)).not_to_contain_text("Paris")
    page.keyboard.press("End")

    # the page is made here, without the kernel
    expect(view.get_by_role("button", name="PNG")).to_be_disabled()
    with page.expect_download() as download:
        view.get_by_role("button", name="HTML").click()
    download.value.save_as(tmp_path / "held.html")
    with visit(chrome, offline=True) as opened:
        opened.page.goto((tmp_path / "held.html").as_uri())
        twin = opened.page.locator(".ll-view")
        expect(top_answer(twin)).to_contain_text("Paris")
        expect(twin.get_by_role("button", name="Run")).to_be_disabled()
        assert opened.errors == []

    # what was saved shows its picture
    page.reload(wait_until="domcontentloaded")
    expect(kept).to_be_visible()
    expect(page.get_by_text("model not found")).to_be_hidden()
    expect(page.get_by_text("run the cell to make it live").first).to_be_visible()
    shoot("1-reopened")


@BOTH
def test_export_opens_offline(
    view: Locator,
    page: Page,
    tmp_path: Path,
    chrome,
    shoot: Callable[[str], None],
) -> None:
    with page.expect_download() as download:
        view.get_by_role("button", name="HTML").click()
    target = tmp_path / "lens.html"
    download.value.save_as(target)
    with page.expect_download() as download:
        view.get_by_role("button", name="PNG").click()
    assert Path(download.value.path()).read_bytes().startswith(b"\x89PNG")

    context = chrome.new_context(viewport={"width": 1280, "height": 1000}, offline=True)
    frozen = context.new_page()
    errors: list[str] = []
    frozen.on("pageerror", lambda error: errors.append(str(error)))
    frozen.goto(target.as_uri())
    twin = frozen.locator(".ll-view")
    expect(top_answer(twin)).to_contain_text("Paris")
    expect(twin.locator("textarea")).to_have_attribute("readonly", "")
    expect(twin.get_by_role("button", name="Run")).to_be_disabled()
    twin.get_by_role("grid").focus()
    frozen.keyboard.press("p")
    expect(twin.get_by_role("group", name="Pinned tokens by layer").locator("li")).to_have_count(1)
    slider = twin.get_by_label("Layer", exact=True)
    slider.focus()
    frozen.keyboard.press("Home")
    expect(top_answer(twin)).not_to_contain_text("Paris")
    frozen.screenshot(path=Path(__file__).with_name("shots") / "frozen.png")
    context.close()
    assert errors == []
