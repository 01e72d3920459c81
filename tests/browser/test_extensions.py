"""The launcher card, the palette and the tour, from a plain server."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from driver import BOTH, Place, Visit, open_notebook, run_all
from playwright.sync_api import Page, expect
from serving import Server

_COMMANDS = """() => window.jupyterapp
  && window.jupyterapp.commands.listCommands().filter(c => c.startsWith('layerlens')).length >= 2"""


@pytest.fixture
def page(visited: Visit) -> Page:
    """A page of its own, as a person opens one."""
    return visited.page


def test_the_tour_runs(server: Server, page: Page, shoot: Callable[[str], None]) -> None:
    open_notebook(page, server, "lab", "00_tour.ipynb")  # which starts a kernel for it
    run_all(page, timeout=180_000)
    view = page.locator(".layerlens .ll-view").first
    expect(view.locator(".ll-side li").first).to_contain_text("Paris")
    view.evaluate("element => element.scrollIntoView({block: 'center'})")
    expect(view.get_by_role("grid")).to_be_in_viewport()
    shoot("tour")


@BOTH
def test_commands_are_there(
    server: Server, place: Place, page: Page, shoot: Callable[[str], None]
) -> None:
    app = place[0]
    page.goto(server.address(app, "lab" if app == "lab" else "tree"))
    page.wait_for_function(_COMMANDS)
    if app == "lab":
        card = page.locator(".jp-LauncherCard", has_text="layerlens")
        expect(card.first).to_be_visible()
        shoot("launcher")
        card.first.click()
        expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible()
        shoot("opened")
