"""What was fed is shown as it was fed, each position where it lies."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
from PIL import Image

import layerlens as ll
from layerlens.model.grid import Grid
from layerlens.model.shown import shown
from tests.unit.model.test_kinds import built


def test_a_picture_is_shown_with_its_own_pixels() -> None:
    model = built("vit")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(16, 16, 3), dtype=np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255  # the range, by which it is scaled where nothing says how
    tokens = model.tokens(ll.images(pixels.transpose(2, 0, 1).astype(np.float32)))
    found = shown(model, tokens)
    assert found is not None
    assert (found["rows"], found["columns"], found["first"]) == (4, 4, 1)
    data = base64.b64decode(found["source"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)


def test_a_sound_is_shown_by_its_frames() -> None:
    model = built("wav2vec2")
    sound = np.zeros(1000)
    sound[500] = 1
    tokens = model.tokens(ll.audio(sound))
    found = shown(model, tokens)
    assert found is not None
    loud = [frame for frame, (_, high) in enumerate(found["wave"]) if high > 0]
    assert loud == [len(found["wave"]) // 2]


def test_a_result_carries_it_and_a_text_does_not() -> None:
    model = built("vit")
    picture = ll.images(np.zeros((3, 16, 16), dtype=np.float32))
    lens = ll.logit_lens(model, picture)
    assert json.loads(lens.data.attrs["picture"])["kind"] == "images"
    assert lens.code == "ll.logit_lens(model, ll.images(image))"
    assert "picture" not in ll.logit_lens(built("sentence"), [5, 6]).data.attrs


def test_where_a_patch_lies() -> None:
    grid = Grid(2, 3, 4, 5, first=1)
    assert grid.box(0) is None
    assert grid.box(5) == (4, 5, 8, 10)
    assert grid.labels[5] == "r1c1"
