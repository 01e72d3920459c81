"""A Jupyter server for the browser tests, and the kernel that it lends to their notebooks.

It has a home of its own, so that no user's settings leak in or out.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
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

from jupyter_client import BlockingKernelClient


@dataclass(frozen=True)
class Server:
    """A running Jupyter server, which serves JupyterLab and Notebook 7."""

    url: str
    token: str
    folder: Path
    home: Path
    lent: list[str] = field(default_factory=list)

    def address(self, app: str, path: str) -> str:
        """Where a page of an app is."""
        return f"{self.url}/{path}?token={self.token}{'&reset' if app == 'lab' else ''}"

    def dress(self, theme: str) -> None:
        """Choose the theme of pages that are loaded from now on."""
        settings = self.home / "settings" / "@jupyterlab" / "apputils-extension"
        settings.mkdir(parents=True, exist_ok=True)
        chosen = {"theme": theme, "adaptive-theme": False}
        (settings / "themes.jupyterlab-settings").write_text(json.dumps(chosen))
        quiet = {"fetchNews": "false", "checkForUpdates": False}
        (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))

    def lend_kernel(self, name: str) -> None:
        """Connect a notebook with the kernel that this server keeps, emptied of what was in it.

        Starting one, importing torch and reading a model take longer than most of what is tested.
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
import functools, ipywidgets, layerlens
ipywidgets.Widget.close_all()
if not hasattr(layerlens.load, "cache_info"):
    layerlens.load = functools.cache(layerlens.load)
get_ipython().reset()
"""


def empty(connection: Path) -> None:
    """Close the widgets of a kernel and forget its names; models that were loaded are kept."""
    client = BlockingKernelClient()
    client.load_connection_file(str(connection))
    client.start_channels(hb=False)  # a kernel on a busy machine misses a beat
    try:
        reply = client.execute(_EMPTY, store_history=False, reply=True, timeout=120)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()


@contextlib.contextmanager
def serve(folder: Path, home: Path) -> Iterator[Server]:
    """Run ``jupyter lab`` on a folder; it serves Notebook 7 as well."""
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
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
    }
    command = [
        *(sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"),
        *("--expose-app-in-browser", "--JupyterNotebookApp.expose_app_in_browser=True"),
        "--ServerApp.terminals_enabled=False",
    ]
    url = f"http://127.0.0.1:{port}"
    log = home / "server.log"
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
            yield Server(url, token, folder, home)
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
