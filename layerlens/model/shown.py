"""What a model of pictures or sounds was really fed, small enough to be drawn beside a result."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.model.grid import Grid

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

LARGEST = 224
"""Pixels of the longer side of a picture that is kept."""


def shown(model: LensModel, tokens: Tokens) -> dict[str, Any] | None:
    """The first picture or sound that was fed, and where its positions lie in it.

    Returns
    -------
    dict or None
        Of a picture ``kind`` ``"images"``, ``rows``, ``columns``, ``first`` (the position of the
        patch at the top left) and ``source`` (a PNG as a data URL); of a sound ``"audio"`` and
        ``wave``, the least and the largest sample of each frame. None for what has neither, or
        whose positions lie in no known place.
    """
    grid = tokens.grid
    if grid is None:
        return None
    values = tokens.given[model.feed.main][0].numpy()
    if isinstance(grid, Grid):
        picture = _png(_pixels(model, values))
        place = {"rows": grid.rows, "columns": grid.columns, "first": grid.first}
        return {"kind": "images", **place, "source": picture}
    frames = np.array_split(values.reshape(-1) if values.ndim == 1 else values.mean(0), grid.count)
    wave = [[float(frame.min()), float(frame.max())] for frame in frames]
    return {"kind": "audio", "seconds": grid.seconds, "wave": np.round(wave, 4).tolist()}


def _pixels(model: LensModel, values: np.ndarray) -> np.ndarray:
    """``[height, width, 3]`` bytes: what was fed, before it was normalised."""
    mean, std = (getattr(model.processor, name, None) for name in ("image_mean", "image_std"))
    if mean is not None and std is not None and getattr(model.processor, "do_normalize", False):
        values = values * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    elif model.processor is None:
        low, high = float(values.min()), float(values.max())
        values = (values - low) / max(high - low, 1e-9)
    bytes_ = (values.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    return np.repeat(bytes_, 3, axis=-1) if bytes_.shape[-1] == 1 else bytes_


def _png(pixels: np.ndarray) -> str:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
