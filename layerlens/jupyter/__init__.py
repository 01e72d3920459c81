"""The Jupyter server's side of layerlens: a launcher card, palette commands, tutorials.

The server often lives in another environment than the kernel, so nothing here may need torch, and
importing this package needs no Jupyter either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

__all__ = [
    "_jupyter_labextension_paths",
    "_jupyter_server_extension_points",
    "_load_jupyter_server_extension",
]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell jupyter_server which module to load."""
    return [{"module": "layerlens.jupyter"}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Tell ``jupyter labextension develop`` where the prebuilt extension is."""
    return [{"src": "labextension", "dest": "layerlens"}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    """Add the routes of layerlens to a running server."""
    from layerlens.jupyter.handlers import routes

    server.web_app.add_handlers(".*$", routes(server.base_url))
    server.log.info("layerlens: tutorials are at %slayerlens/tutorials", server.base_url)
