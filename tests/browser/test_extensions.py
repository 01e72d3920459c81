"""The launcher card, the palette and the tour, from a plain server."""

from __future__ import annotations

from collections.abc import Callable

from driver import EVERYWHERE, Server, open_notebook, run_all
from playwright.sync_api import Page, expect

_COMMANDS = """() => window.jupyterapp
  && window.jupyterapp.commands.listCommands().filter(c => c.startsWith('layerlens')).length >= 2"""


@EVERYWHERE
def test_the_tour_runs(server: Server, page: Page, shoot: Callable[[str], None]) -> None:
    open_notebook(page, server, "00_tour.ipynb", own_kernel=True)
    run_all(page, timeout=180_000)
    view = page.locator(".layerlens .ll-view").first
    expect(view.locator(".ll-side li").first).to_contain_text("Paris", timeout=60_000)
    view.evaluate("element => element.scrollIntoView({block: 'center'})")
    expect(view.get_by_role("grid")).to_be_in_viewport()
    page.wait_for_timeout(500)  # the notebook paints what was scrolled to
    shoot("tour")


@EVERYWHERE
def test_commands_are_there(server: Server, page: Page, shoot: Callable[[str], None]) -> None:
    page.goto(f"{server.url}/{'lab' if server.app == 'lab' else 'tree'}?token={server.token}")
    page.wait_for_function(_COMMANDS, timeout=60_000)
    if server.app == "lab":
        card = page.locator(".jp-LauncherCard", has_text="layerlens")
        expect(card.first).to_be_visible(timeout=30_000)
        shoot("launcher")
        card.first.click()
        expect(page.locator(".jp-Notebook .jp-Cell").first).to_be_visible(timeout=60_000)
        shoot("opened")
