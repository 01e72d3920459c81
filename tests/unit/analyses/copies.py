"""Models that are built once and handed out as copies, which a test may change."""

from __future__ import annotations

import copy

from layerlens.model.lensmodel import LensModel


def copy_of(model: LensModel) -> LensModel:
    """The same weights in modules of their own, and the anatomy, which was found once."""
    copied = LensModel(
        copy.deepcopy(model.hf), model.tokenizer, model.anatomy, model.name, model.feed
    )
    copied.bidirectional = model.bidirectional
    return copied
