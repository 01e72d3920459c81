"""Routes of the server extension: list the tutorials, copy one into the user's folder."""

from __future__ import annotations

import json
from typing import Any

from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import ensure_async, url_path_join
from tornado import web

from layerlens.jupyter.tutorials import read, tutorials


class TutorialsHandler(APIHandler):
    """``GET`` lists the tutorials; ``POST {"name", "folder"}`` copies one."""

    @web.authenticated
    async def get(self) -> None:
        """Answer ``[{"name", "title"}, ...]``."""
        self.finish(json.dumps([tutorial._asdict() for tutorial in tutorials()]))

    @web.authenticated
    async def post(self) -> None:
        """Copy a tutorial and answer ``{"path"}``, relative to the server's root.

        The contents manager writes it, so that its root, its permissions and its kind of storage
        hold. An existing file is never touched: the copy gets the next free name.
        """
        body = self.get_json_body()
        if not isinstance(body, dict):
            raise web.HTTPError(400, 'Send {"name": ...}, the name of a tutorial.')
        name, folder = body.get("name"), body.get("folder", "")
        notebook = read(name) if isinstance(name, str) else None
        if notebook is None:
            known = ", ".join(tutorial.name for tutorial in tutorials())
            raise web.HTTPError(400, f"No tutorial is called {name!r}; there are: {known}.")
        self.set_status(201)
        file = f"{str(name).rpartition('/')[2]}.ipynb"
        self.finish(json.dumps({"path": await self._copy(notebook, file, folder)}))

    async def _copy(self, notebook: dict[str, Any], file: str, folder: Any) -> str:
        manager = self.contents_manager
        if not isinstance(folder, str) or not await self._is_folder(folder):
            raise web.HTTPError(400, f"{folder!r} is not a folder of this server.")
        free = await ensure_async(manager.increment_filename(file, folder, insert="-"))
        model = {"type": "notebook", "format": "json", "content": notebook}
        saved = await ensure_async(manager.new(model, url_path_join(folder, free)))
        return str(saved["path"])

    async def _is_folder(self, path: str) -> bool:
        try:
            return bool(await ensure_async(self.contents_manager.dir_exists(path)))
        except web.HTTPError:  # the manager's answer to a path outside its root
            return False


def routes(base_url: str) -> list[tuple[str, type[APIHandler]]]:
    """The routes under `base_url`, which a JupyterHub sets."""
    return [(url_path_join(base_url, "layerlens", "tutorials"), TutorialsHandler)]
