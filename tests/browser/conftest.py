"""One server, one browser and mostly one page for all; screenshots go to ``shots/``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from driver import (
    LAB,
    PATIENCE,
    PLACES,
    Place,
    Visit,
    chromium,
    open_notebook,
    read_again,
    run_all,
    visit,
)
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from serving import Server, serve

SHOTS = Path(__file__).with_name("shots")
TOUR = Path(__file__).parents[2] / "notebooks" / "00_tour.ipynb"
NAME = "desk.ipynb"
"""The notebook that is written anew for each test."""

expect.set_options(timeout=1000 * PATIENCE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put those next to each other that are in one place, which then is gone to once."""

    def where(item: pytest.Item) -> int:
        asked = getattr(item, "callspec", None) and item.callspec.params.get("place")
        return PLACES.index(asked) if asked in PLACES else 0

    items.sort(key=where)


def notebook(*cells: str) -> str:
    """The text of a notebook with these code cells."""
    return json.dumps(
        {
            "cells": [
                {
                    "cell_type": "code",
                    "id": f"cell-{number}",
                    "metadata": {},
                    "source": source,
                    "outputs": [],
                    "execution_count": None,
                }
                for number, source in enumerate(cells)
            ],
            "metadata": {
                "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
            },
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    )


@pytest.fixture(scope="session")
def chrome() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("work")
    shutil.copy(TOUR, folder)
    with serve(folder, tmp_path_factory.mktemp("home")) as running:
        yield running


class Desk:
    """The one page on which notebooks are shown, one after the other.

    Loading JupyterLab takes longer than most of what is tested, so a page stays until another app
    or theme is asked for, or a test has failed on it.
    """

    def __init__(self, chrome: Browser, server: Server) -> None:
        self.chrome = chrome
        self.server = server
        self.place: Place | None = None
        self.visit: Visit | None = None
        self.stack = ExitStack()

    def at(self, place: Place) -> Visit:
        """The page in an app and a theme."""
        if self.visit is not None and self.place == place:
            return self.visit
        self.leave()
        self.server.dress(place[1])
        self.write("")
        self.visit = self.stack.enter_context(visit(self.chrome))
        open_notebook(self.visit.page, self.server, place[0], NAME)
        self.place = place
        return self.visit

    def write(self, *cells: str) -> None:
        """Write the notebook anew and empty its kernel."""
        (self.server.folder / NAME).write_text(notebook(*cells))
        self.server.lend_kernel(NAME)

    def leave(self) -> None:
        """Close the page."""
        self.stack.close()
        self.visit = self.place = None


@pytest.fixture(scope="session")
def desk(chrome: Browser, server: Server) -> Iterator[Desk]:
    found = Desk(chrome, server)
    yield found
    found.leave()


@pytest.fixture
def place() -> Place:
    """JupyterLab in light colours, where ``everywhere`` does not ask for another."""
    return LAB


@pytest.fixture
def page(request: pytest.FixtureRequest, desk: Desk, place: Place) -> Iterator[Page]:
    """The page of most tests, which ``run_cells`` fills; what a failed one has left is gone."""
    failed = request.session.testsfailed
    visited = desk.at(place)
    yield visited.page
    external = visited.external.copy()
    if external or request.session.testsfailed > failed:
        desk.leave()
        desk.server.lent.clear()
        desk.server.end_other_kernels()
    assert external == [], "something was asked for from outside this machine"


@pytest.fixture
def run_cells(desk: Desk, page: Page) -> Callable[..., Locator]:
    """Run a notebook with these code cells; returns the views that it shows."""

    def run(*cells: str) -> Locator:
        page.mouse.move(0, 0)
        desk.write(*cells)
        read_again(page)
        run_all(page)
        return page.locator(".layerlens .ll-view")

    return run


@pytest.fixture
def visited(chrome: Browser, server: Server, place: Place) -> Iterator[Visit]:
    """A page of its own, on which nothing has been loaded."""
    server.dress(place[1])
    with visit(chrome) as opened:
        yield opened
        server.end_other_kernels()
        assert opened.external == [], "something was asked for from outside this machine"


@pytest.fixture
def shoot(request: pytest.FixtureRequest, page: Page):
    """Save a screenshot under the test's name."""
    SHOTS.mkdir(exist_ok=True)
    name = request.node.name.replace("test_", "").replace("[", "-").replace("]", "")

    def take(state: str) -> None:
        page.screenshot(path=SHOTS / f"{name}-{state}.png")

    return take
