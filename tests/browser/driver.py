"""Drive JupyterLab 4 and Notebook 7 in headless Chromium.

Every server has a home of its own, so that no user's settings leak in or out; every
request that would leave this machine is blocked and recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient
from playwright.sync_api import Browser, BrowserContext, Locator, Page

LIGHT, DARK = "JupyterLab Light", "JupyterLab Dark"
#: For tests that run in JupyterLab, light and dark, and in Notebook 7.
EVERYWHERE = pytest.mark.parametrize(
    "server",
    [("lab", LIGHT), ("lab", DARK), ("notebook", LIGHT)],
    ids=["lab-light", "lab-dark", "notebook"],
    indirect=True,
)

#: What a view says of its checks once they have passed.
CHECKED = re.compile(r"\bchecks? passed")

_LOCAL = (
    "http://127.0.0.1",
    "http://localhost",
    "ws://127.0.0.1",
    "data:",
    "blob:",
    "file:",
    "about:",
)


@dataclass(frozen=True)
class Server:
    """A running Jupyter server."""

    url: str
    token: str
    app: str
    folder: Path

    home: Path
    lent: list[str] = field(default_factory=list)

    def lend_kernel(self, name: str) -> None:
        """Connect a notebook with the kernel that this server keeps, emptied of what was in it.

        Starting one and importing torch takes longer than most of what is tested.
        """
        if not self.lent:
            self.lent.append(
                self._ask("POST", "/api/kernels", {"name": "python3", "path": ""})["id"]
            )
        (kernel,) = self.lent
        empty(self.home / "runtime" / f"kernel-{kernel}.json")
        session = {"path": name, "name": name, "type": "notebook", "kernel": {"id": kernel}}
        self._ask("POST", "/api/sessions", session)

    def end_other_kernels(self) -> None:
        """Shut down all kernels but the one that is lent: each holds a model."""
        for kernel in self._ask("GET", "/api/kernels"):
            if kernel["id"] not in self.lent:
                self._ask("DELETE", f"/api/kernels/{kernel['id']}")

    def _ask(self, method: str, path: str, content: object = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            data=None if content is None else json.dumps(content).encode(),
            headers={"Authorization": f"token {self.token}"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None


_EMPTY = """
import ipywidgets
ipywidgets.Widget.close_all()
get_ipython().reset()
"""


def empty(connection: Path) -> None:
    """Close the widgets of a kernel and forget its names."""
    client = BlockingKernelClient()
    client.load_connection_file(str(connection))
    client.start_channels(hb=False)  # a kernel on a busy machine misses a beat
    try:
        reply = client.execute(_EMPTY, store_history=False, reply=True, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()


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


@contextlib.contextmanager
def serve(folder: Path, home: Path, app: str = "lab", theme: str = LIGHT) -> Iterator[Server]:
    """Run ``jupyter lab`` or ``jupyter notebook`` on a folder."""
    settings = home / "settings"
    apputils = settings / "@jupyterlab" / "apputils-extension"
    apputils.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (apputils / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    themes = {"theme": theme, "adaptive-theme": False}
    (apputils / "themes.jupyterlab-settings").write_text(json.dumps(themes))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    cache = os.environ.get("LAYERLENS_CACHE") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "layerlens"
    )
    environment = {
        **os.environ,
        "HOME": str(home),
        "LAYERLENS_CACHE": cache,
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [
        *(sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--expose-app-in-browser", "--ServerApp.terminals_enabled=False"),
    ]
    url = f"http://127.0.0.1:{port}"
    log = home / f"{app}.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait_for(f"{url}/api/status?token={token}", process, log)
            yield Server(url, token, app, folder, home)
        finally:
            process.send_signal(signal.SIGTERM)  # the server shuts its kernels down
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 90
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended:\n{log.read_text()[-3000:]}")
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


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


def open_notebook(page: Page, server: Server, name: str, *, own_kernel: bool = False) -> None:
    """Open a notebook by itself and wait until its kernel is idle.

    ``own_kernel``: start one for it, as a person does; else it gets the server's.
    """
    if not own_kernel:
        server.lend_kernel(name)
    path = f"doc/tree/{name}" if server.app == "lab" else f"notebooks/{name}"
    reset = "&reset" if server.app == "lab" else ""
    page.goto(f"{server.url}/{path}?token={server.token}{reset}", wait_until="domcontentloaded")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(state="visible", timeout=90_000)
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
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if (found := evaluate(page, code)) == expected:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"{code} gave {found!r} instead of {expected!r}")


def save(page: Page) -> None:
    """Save the notebook, again where a picture came while it was written."""
    clean = "() => !window.jupyterapp.shell.currentWidget.context.model.dirty"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_timeout(500)
        if page.evaluate(clean):
            return
    raise AssertionError("the notebook could not be saved")


def cell(page: Page, index: int) -> Locator:
    """A cell by its number in the notebook, from 0."""
    return page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')
