"""Any analysis as grids and curves in JupyterLab and Notebook 7."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import SHOTS
from driver import EVERYWHERE, LOAD, evaluate, finished, kernel_prints, save, visit
from playwright.sync_api import Browser, Locator, Page, expect
from serving import Server

HEADS = """view = ll.GridView(model, "ablate_sweep", "The capital of France is", how="zero")
view"""
EDGES = """sources = {"France": "France", "capital": "capital"}
edges = ll.CurvesView(model, ll.knockout, "The capital of France is", sources=sources)
edges"""
LONG = """slow = ll.GridView(model, "skip_layers", "The capital of France is " * 60)
slow"""

TOY = """import layerlens as ll
from layerlens.views.linked import linked
toy = ll.load("toy:induction")
words = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]"""
PLANE = """plane = ll.ScatterView(toy, "state_map", words, labels=["b", "b", "c", "c"])
plane"""
TAKEN_OUT = """heads = ll.GridView(toy, "ablate_sweep", "cat dog cat dog", how="zero")
links = linked((plane, "layer"), (heads, "layer"))
heads"""
PAGE = """sae = ll.train_sae(toy, words, layers=0, size=2, k=4, test=0.25, batch=16)
page = ll.FeatureView(toy, words, sae, 3, new_tokens=2)
page"""


@pytest.fixture
def views(run_cells: Callable[..., Locator]) -> Locator:
    """A notebook that shows a grid and curves of the default model, both finished."""
    found = run_cells(LOAD, HEADS, EDGES)
    finished(found.nth(0))
    finished(found.nth(1))
    return found


@EVERYWHERE
def test_grid_and_curves_from_open_to_reload(
    views: Locator, page: Page, shoot: Callable[[str], None]
) -> None:
    heads, edges = views.nth(0), views.nth(1)
    heads.scroll_into_view_if_needed()
    shoot("1-grid")
    grid = heads.get_by_role("grid")
    grid.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):  # the first one begins at the first cell
        page.keyboard.press(key)
    kernel_prints(page, "print(view.layer, view.head)", "1 1")
    heads.get_by_role("button", name="Means", exact=True).click()
    kernel_prints(page, "print(view.means)", "True")
    grid.hover(position={"x": 120, "y": 80})
    expect(heads.get_by_role("tooltip")).to_contain_text("layer")
    shoot("2-cell")

    # a word of art says what it means
    heads.locator(".ll-term").first.hover()
    expect(heads.locator(".ll-definition")).to_be_visible()

    # the strongest cell is one press away, and another text one Enter
    heads.get_by_title("Select this cell").click()
    kernel_prints(
        page,
        "e = abs(view.result.data['effect']); print((view.layer, view.head) == "
        "tuple(int(i) for i in divmod(int(e.values.argmax()), e.sizes['head'])))",
        "True",
    )
    heads.get_by_role("textbox").fill("The capital of Italy is")
    page.keyboard.press("Enter")
    kernel_prints(page, "print(view.wait().data.attrs['text'])", "The capital of Italy is")

    edges.scroll_into_view_if_needed()
    panel = edges.locator(".ll-panel").first
    panel.get_by_role("button", name="source capital").click()
    kernel_prints(page, "print(edges.hidden)", "['percent_change:1']")
    edges.get_by_label("Curves by layer.").focus()
    page.keyboard.press("End")
    kernel_prints(page, "print(edges.layer)", "29")
    expect(panel.locator("li .ll-num").first).not_to_be_empty()
    shoot("3-curves")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 3  # the notebook ate no key

    # the page comes back as it was
    save(page)
    page.reload(wait_until="domcontentloaded")
    finished(views.nth(0))
    expect(views.nth(0).get_by_role("textbox")).to_have_value("The capital of Italy is")
    kernel_prints(page, "print(edges.layer)", "29")
    shoot("4-reloaded")


def test_what_takes_long_waits_and_is_stopped(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    slow = run_cells(LOAD, LONG)
    slow.get_by_role("button", name="Run it").wait_for()
    shoot("1-waiting")
    kernel_prints(page, "print(slow.status['state'])", "waiting")
    slow.get_by_role("button", name="Run it").click()
    expect(slow.locator(".ll-progress .ll-num")).to_contain_text("of")
    shoot("2-running")
    slow.get_by_role("button", name="Cancel").click()
    kernel_prints(page, "print(slow.status['state'])", "cancelled")
    expect(slow.locator(".ll-status")).to_contain_text("ancelled")


def test_frozen_answers_without_kernel_or_network(
    views: Locator, page: Page, chrome: Browser, server: Server
) -> None:
    evaluate(page, "view.html('heads.html'); edges.html('edges.html')")
    with visit(chrome, offline=True) as opened:
        for name in ("heads", "edges"):
            opened.page.goto((server.folder / f"{name}.html").as_uri())
            finished(opened.page.locator(".ll-view"))
            opened.page.screenshot(path=SHOTS / f"frozen-{name}.png", full_page=True)
        opened.page.get_by_label("Curves by layer.").focus()
        opened.page.keyboard.press("Home")
        expect(opened.page.locator(".ll-panel li .ll-num").first).not_to_be_empty()
        assert opened.errors == []


def test_a_scatter_and_the_page_of_a_feature(
    run_cells: Callable[..., Locator], page: Page, shoot: Callable[[str], None]
) -> None:
    found = run_cells(TOY, PLANE, TAKEN_OUT, PAGE)
    for number in range(3):
        finished(found.nth(number))
    plane, heads, feature = (found.nth(number) for number in range(3))

    # the slider of a scatter moves what it is linked to, and is moved by it
    slider = plane.get_by_role("slider", name="Layer")
    slider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    kernel_prints(page, "print(plane.layer, heads.layer)", "0 0")
    expect(plane.locator(".ll-scatter-bar output")).to_have_text("layer 0")
    grid = heads.get_by_role("grid")
    grid.focus()
    page.keyboard.press("ArrowUp")
    kernel_prints(page, "print(plane.layer, heads.layer)", "1 1")
    expect(plane.locator(".ll-scatter-bar output")).to_have_text("layer 1")
    plane.scroll_into_view_if_needed()
    shoot("1-scatter")

    # another feature, more of it in the text, and a word for it
    feature.get_by_role("button", name="The next feature").click()
    kernel_prints(page, "print(page.wait().data.attrs['number'])", "4")
    written = feature.locator(".ll-feature-written dd[aria-live]")
    expect(written).not_to_be_empty()
    feature.get_by_role("slider", name="Strength").focus()
    page.keyboard.press("End")
    kernel_prints(page, "print(page.strength)", "4.0")
    told = evaluate(
        page,
        "ids = page.result.data.prompt_token.values.tolist(); "
        "step = 4 * float(page.result.data.scale) * sae['W_dec'][4]; "
        "edit = ll.edit('resid_post.0', 'add', step, always=True); "
        "print(''.join(map(toy.token_string, toy.generate(ids, 2, edit).new_ids)))",
    )
    expect(written).to_have_text(told)
    feature.get_by_role("textbox", name="What feature 4 means").fill("a word of ours")
    kernel_prints(page, "print(page.meanings)", "{'4': 'a word of ours'}")
    feature.scroll_into_view_if_needed()
    shoot("2-feature")
    assert page.locator(".jp-Notebook .jp-Cell").count() == 4  # the notebook ate no key


def test_tables_fill_while_an_analysis_runs(run_cells: Callable[..., Locator]) -> None:
    texts = "[[5, 9, 4, 7, 5], [3, 7, 1, 8, 9]]"
    toy = 'import layerlens as ll\nmodel = ll.load("toy:induction")'
    view = run_cells(toy, f'll.CurvesView(model, "neuron", {texts}, layer=1, number=7, k=2)').nth(0)
    finished(view)
    rows = view.locator(".ll-layer-table").first.locator("tbody tr")
    expect(rows).to_have_count(2)

    # a row opens what it is about, and that is in sight however far below the row is
    rows.last.get_by_role("button").click()
    expect(view.locator(".ll-cell h4")).to_contain_text("Neuron 7 of layer 1")
    expect(view.locator(".ll-cell h4")).to_be_in_viewport()
