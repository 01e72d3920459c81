"""Record the picture that moves at the top of the README: ``python docs/moving.py``.

The page of a lens, without a kernel, while somebody walks up through its layers and then pins a
token; it takes Chromium, as the tests of the browser do.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

import layerlens as ll

HERE = Path(__file__).parent
WIDTH, HEIGHT, COLOURS = 860, 700, 32
STEP, REST = 220, 2500
"""Milliseconds that a layer is shown, and the last picture."""


def main() -> None:
    """Write ``docs/tour.gif``."""
    lens = ll.logit_lens(ll.load(), "The capital of France is", points=["embed", "post"])
    chromium = os.environ.get("LAYERLENS_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = lens.html(Path(folder) / "lens.html")
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(path.as_uri())
        frames = _walk(page)
        browser.close()
    first, *others = (frame.quantize(COLOURS) for frame in frames)
    times = [STEP] * len(others) + [REST]
    first.save(HERE / "tour.gif", save_all=True, append_images=others, duration=times, loop=0)


def _walk(page: Page) -> list[Image.Image]:
    """Up from the embedding by the keys, then the answer is pinned."""
    slider = page.get_by_role("slider", name="Layer", exact=True)
    slider.focus()
    page.keyboard.press("Home")
    frames = [_shot(page)]
    while (before := slider.input_value()) != slider.get_attribute("max"):
        page.keyboard.press("ArrowRight")
        frames.append(_shot(page))
        if slider.input_value() == before:
            break
    table = page.get_by_role("grid").first
    table.focus()
    page.keyboard.press("p")
    frames.append(_shot(page))
    return frames


def _shot(page: Page) -> Image.Image:
    page.wait_for_timeout(60)
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


if __name__ == "__main__":
    main()
