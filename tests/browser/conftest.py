"""One server for each app and theme, one browser for all; screenshots go to ``shots/``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from driver import LIGHT, Server, Visit, chromium, serve, visit
from playwright.sync_api import Browser, Page, sync_playwright

SHOTS = Path(__file__).with_name("shots")
TOUR = Path(__file__).parents[2] / "notebooks" / "00_tour.ipynb"


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
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Server]]:
    """The server of an app and a theme, started when it is first asked for."""
    with ExitStack() as stack:

        @cache
        def running(app: str, theme: str) -> Server:
            folder = tmp_path_factory.mktemp("work")
            shutil.copy(TOUR, folder)
            return stack.enter_context(serve(folder, tmp_path_factory.mktemp("home"), app, theme))

        yield running


@pytest.fixture
def server(
    request: pytest.FixtureRequest, servers: Callable[[str, str], Server]
) -> Iterator[Server]:
    """JupyterLab in light colours, or what ``everywhere`` asks for."""
    running = servers(*getattr(request, "param", ("lab", LIGHT)))
    yield running
    running.end_other_kernels()


@pytest.fixture
def visited(chrome: Browser) -> Iterator[Visit]:
    with visit(chrome) as opened:
        yield opened
        assert opened.external == [], "something was asked for from outside this machine"


@pytest.fixture
def page(visited: Visit) -> Page:
    return visited.page


@pytest.fixture
def shoot(request: pytest.FixtureRequest, page: Page):
    """Save a screenshot under the test's name."""
    SHOTS.mkdir(exist_ok=True)
    name = request.node.name.replace("test_", "").replace("[", "-").replace("]", "")

    def take(state: str) -> None:
        page.screenshot(path=SHOTS / f"{name}-{state}.png")

    return take
