"""A text as a model writes it, in JupyterLab: stopped, branched, its rule moved, saved."""

from __future__ import annotations

from collections.abc import Callable

from driver import CHECKED, evaluate, kernel_prints, save
from playwright.sync_api import Locator, Page, expect

LOAD = 'import layerlens as ll\nmodel = ll.load("toy:induction")'
SHOW = """view = ll.GenerationView(
    model, "cat dog owl cat", max_new_tokens=8, points=("embed", "mid", "post")
)
view"""


def test_a_text_is_written_branched_and_kept(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    view = run_cells(LOAD, SHOW)
    expect(view.get_by_text(CHECKED)).to_be_visible()
    expect(view.locator("button.ll-written")).to_have_count(8)
    shoot("1-written")

    # the rule is moved on the numbers that are there
    strip = view.get_by_role("group", name="By token")
    strip.get_by_role("button", name="patience").click()
    expect(strip.locator("tr").last.locator("td")).to_have_count(8)

    # a press on a written token selects it; B puts another layer's word in its place
    view.locator("button.ll-written").nth(2).click()
    table = view.get_by_role("grid")
    table.focus()
    page.keyboard.press("Control+Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Top tokens of this cell")).to_be_visible()
    page.keyboard.press("Escape")
    for _ in range(5):
        page.keyboard.press("ArrowDown")  # the embedding, which says something else
    page.keyboard.press("b")
    expect(view.locator(".ll-before")).to_contain_text("differs from token 2 on")
    expect(view.get_by_text(CHECKED)).to_be_visible()
    assert len(evaluate(page, "print(*view.begin)").split()) == 3
    view.scroll_into_view_if_needed()
    shoot("2-branched")

    # another text begins anew
    field = view.get_by_role("textbox", name="Prompt")
    field.fill("owl fox owl")
    field.press("Enter")
    expect(view.locator(".ll-before")).to_have_count(0)
    expect(view.get_by_text(CHECKED)).to_be_visible()
    kernel_prints(page, "print(view.text, view.begin)", "owl fox owl []")
    save(page)
    shoot("3-another")
