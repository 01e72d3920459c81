"""The server extension: lists tutorials, copies them, and does nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from tornado.httpclient import HTTPClientError

from layerlens.course.places import chapters, guide
from layerlens.jupyter.tutorials import tutorials

Fetch = Callable[..., Any]
TOUR = "00_tour"


async def copy(fetch: Fetch, **body: object) -> dict[str, Any]:
    """Ask the server for a copy; return its answer."""
    answer = await fetch("layerlens", "tutorials", method="POST", body=json.dumps(body))
    assert answer.code == 201
    result: dict[str, Any] = json.loads(answer.body)
    return result


async def refusal(fetch: Fetch, body: str) -> tuple[int, str]:
    """Send a body that must be refused; return the code and the message."""
    with pytest.raises(HTTPClientError) as caught:
        await fetch("layerlens", "tutorials", method="POST", body=body)
    assert caught.value.response is not None
    return caught.value.code, json.loads(caught.value.response.body)["message"]


async def test_lists_the_tutorials_with_their_titles(jp_fetch: Fetch) -> None:
    answer = await jp_fetch("layerlens", "tutorials")
    listed = json.loads(answer.body)
    assert listed[0] == {"name": TOUR, "title": "A look inside a transformer"}
    assert [entry["name"] for entry in listed] == [t.name for t in tutorials()]


async def test_copies_the_tour_into_the_root(jp_fetch: Fetch, jp_root_dir: Path) -> None:
    assert await copy(jp_fetch, name=TOUR) == {"path": f"{TOUR}.ipynb"}
    written = nbformat.read(jp_root_dir / f"{TOUR}.ipynb", as_version=4)
    packaged = nbformat.read(guide() / f"{TOUR}.ipynb", as_version=4)
    assert [cell.source for cell in written.cells] == [cell.source for cell in packaged.cells]


async def test_copies_a_chapter_as_students_get_it(jp_fetch: Fetch, jp_root_dir: Path) -> None:
    chapter = next(path for path in chapters() if "BEGIN SOLUTION" in path.read_text())
    assert await copy(jp_fetch, name=f"course/{chapter.stem}") == {"path": chapter.name}
    written = (jp_root_dir / chapter.name).read_text()
    assert "raise NotImplementedError()" in written
    assert "BEGIN SOLUTION" not in written


async def test_copies_into_the_folder_that_is_open(jp_fetch: Fetch, jp_root_dir: Path) -> None:
    (jp_root_dir / "course").mkdir()
    assert await copy(jp_fetch, name=TOUR, folder="course") == {"path": f"course/{TOUR}.ipynb"}
    assert (jp_root_dir / "course" / f"{TOUR}.ipynb").is_file()


async def test_never_overwrites(jp_fetch: Fetch, jp_root_dir: Path) -> None:
    mine = jp_root_dir / f"{TOUR}.ipynb"
    mine.write_text("my own work", encoding="utf-8")
    first, second = await copy(jp_fetch, name=TOUR), await copy(jp_fetch, name=TOUR)
    assert [first["path"], second["path"]] == [f"{TOUR}-1.ipynb", f"{TOUR}-2.ipynb"]
    assert mine.read_text(encoding="utf-8") == "my own work"


@pytest.mark.parametrize(
    "name", ["../00_tour", "/etc/passwd", "00_tour.ipynb", "..", "", None, 3, ["00_tour"]]
)
async def test_refuses_a_name_that_is_no_tutorial(
    jp_fetch: Fetch, jp_root_dir: Path, name: object
) -> None:
    code, message = await refusal(jp_fetch, json.dumps({"name": name}))
    assert code == 400
    assert TOUR in message
    assert list(jp_root_dir.glob("**/*.ipynb")) == []


@pytest.mark.parametrize("where", ["..", "../..", "/../elsewhere", "absent", None, 3])
async def test_refuses_a_folder_outside_the_root(
    jp_fetch: Fetch, jp_root_dir: Path, where: object
) -> None:
    code, message = await refusal(jp_fetch, json.dumps({"name": TOUR, "folder": where}))
    assert code == 400
    assert "is not a folder" in message
    assert list(jp_root_dir.parent.glob(f"**/{TOUR}.ipynb")) == []


async def test_refuses_a_body_that_is_no_object(jp_fetch: Fetch) -> None:
    assert (await refusal(jp_fetch, '"00_tour"'))[0] == 400


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_needs_a_login(jp_serverapp: Any, http_server_client: Any, method: str) -> None:
    url = f"{jp_serverapp.base_url}layerlens/tutorials"
    body = json.dumps({"name": TOUR}) if method == "POST" else None
    with pytest.raises(HTTPClientError) as caught:
        await http_server_client.fetch(url, method=method, body=body, follow_redirects=False)
    assert caught.value.code == 403


async def test_works_with_a_synchronous_contents_manager(
    jp_configurable_serverapp: Callable[..., Any], jp_fetch: Fetch, jp_root_dir: Path
) -> None:
    name = "jupyter_server.services.contents.largefilemanager.LargeFileManager"
    jp_configurable_serverapp(config={"ServerApp": {"contents_manager_class": name}})
    assert await copy(jp_fetch, name=TOUR) == {"path": f"{TOUR}.ipynb"}


def test_a_tutorial_without_a_heading_is_called_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "01_plain.ipynb").write_text('{"cells": []}', encoding="utf-8")
    assert tutorials(tmp_path) == [("01_plain", "01_plain")]


def test_the_folder_holds_the_tour() -> None:
    assert (guide() / f"{TOUR}.ipynb").is_file()


def test_the_server_side_needs_neither_torch_nor_a_server_to_import() -> None:
    code = (
        "import sys, layerlens.jupyter, layerlens.jupyter.tutorials;"
        "assert 'jupyter_server' not in sys.modules;"
        "import layerlens; layerlens._jupyter_server_extension_points();"
        "import layerlens.jupyter.handlers;"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
