"""Drive JupyterLab 4 and Notebook 7 in headless Chromium.

Every request that would leave this machine is blocked and recorded.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from serving import Server

LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
Place = tuple[str, str]
"""An app, ``lab`` or ``notebook``, and a theme."""

LAB: Place = ("lab", LIGHT)
NOTEBOOK: Place = ("notebook", LIGHT)
PLACES: list[Place] = [LAB, ("lab", DARK), NOTEBOOK]
EVERYWHERE = pytest.mark.parametrize("place", PLACES, ids=["lab-light", "lab-dark", "notebook"])
"""For tests that run in JupyterLab, light and dark, and in Notebook 7."""
BOTH = pytest.mark.parametrize("place", [LAB, NOTEBOOK], ids=["lab", "notebook"])
"""For tests in which colours are not looked at."""

LOAD = "import layerlens as ll\nmodel = ll.load()"
"""The first cell of most notebooks; the second time the kernel has the weights already."""

PATIENCE = 60.0
"""Seconds after which what is waited for has failed; a loaded machine is slow, not wrong."""

CHECKED = re.compile(r"\bchecks? passed")
"""What a view says of its checks once they have passed."""

_LOCAL = (
    "http://127.0.0.1",
    "http://localhost",
    "ws://127.0.0.1",
    "data:",
    "blob:",
    "file:",
    "about:",
)


def chromium() -> str:
    """Path of the browser; a missing one is named with the package that has it."""
    found = os.environ.get("LAYERLENS_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        raise RuntimeError(
            "No Chromium was found for the browser tests: install Debian's package chromium, "
            "or name the program in LAYERLENS_CHROMIUM."
        )
    return found


@dataclass
class Visit:
    """One page, what it logged and what it tried to fetch from elsewhere."""

    page: Page
    context: BrowserContext
    external: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@contextlib.contextmanager
def visit(browser: Browser, *, offline: bool = False, **options: object) -> Iterator[Visit]:
    """A fresh browser context whose requests stay on this machine."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 1000}, accept_downloads=True, offline=offline, **options
    )
    opened = Visit(context.new_page(), context)

    def block(route: object) -> None:
        opened.external.append(route.request.url)
        route.abort()

    context.route(lambda url: not url.startswith(_LOCAL), block)
    opened.page.on("pageerror", lambda error: opened.errors.append(str(error)))
    try:
        yield opened
    finally:
        context.close()


_READY = """() => { const app = window.jupyterapp; if (!app) return false;
  const widget = app.shell.currentWidget; const context = widget && widget.context;
  const session = context && context.sessionContext && context.sessionContext.session;
  const kernel = session && session.kernel;
  return !!(context && context.isReady && kernel && kernel.connectionStatus === 'connected'
            && kernel.status === 'idle'); }"""

_IDLE = """() => { const widget = window.jupyterapp.shell.currentWidget;
  const kernel = widget.context.sessionContext.session.kernel;
  const prompts = widget.content.widgets.map(
    c => c.prompt || (c.inputArea && c.inputArea.promptNode.textContent) || '');
  return kernel.status === 'idle' && !prompts.some(p => String(p).includes('*')); }"""

_EVALUATE = """async (code) => {
  const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
  let out = '';
  const future = kernel.requestExecute({code, store_history: false, stop_on_error: true});
  future.onIOPub = m => {
    if (m.header.msg_type === 'stream') out += m.content.text;
    if (m.header.msg_type === 'error') out += `ERROR ${m.content.ename}: ${m.content.evalue}`; };
  await future.done; return out; }"""


def open_notebook(page: Page, server: Server, app: str, name: str) -> None:
    """Open a notebook by itself and wait until its kernel is idle."""
    path = f"doc/tree/{name}" if app == "lab" else f"notebooks/{name}"
    page.goto(server.address(app, path), wait_until="domcontentloaded")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(state="visible", timeout=90_000)
    page.wait_for_function(_READY, timeout=90_000)


def read_again(page: Page) -> None:
    """Show the notebook as it is on disk now, and wait until its kernel is idle."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.revert()")
    page.wait_for_function(_READY, timeout=90_000)


def run_all(page: Page, timeout: float = 120_000) -> None:
    """Run all cells, wait for the end and raise what a cell raised."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(_IDLE, timeout=timeout)
    raised = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    if raised.count():
        raise AssertionError(f"a cell raised:\n{raised.first.inner_text()[-1500:]}")


def evaluate(page: Page, code: str) -> str:
    """Run code in the page's kernel without a cell; returns what it printed."""
    return page.evaluate(_EVALUATE, code).strip()


def kernel_prints(page: Page, code: str, expected: str) -> None:
    """Wait until the kernel prints this: what is done on the page arrives a moment later."""
    found = ""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if (found := evaluate(page, code)) == expected:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{code} gave {found!r} instead of {expected!r}")


def save(page: Page) -> None:
    """Save the notebook, again where a picture came while it was written."""
    clean = "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        if page.evaluate(clean):
            return
        page.wait_for_timeout(100)
    raise AssertionError("the notebook could not be saved")


def finished(view: Locator) -> None:
    """Wait until a view has its result, and its checks have passed."""
    expect(view.locator(".ll-checks > summary")).to_contain_text(CHECKED)
