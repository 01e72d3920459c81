"""Texts that are measured together, as a front end shows them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from layerlens.corpus.texts import Texts
from layerlens.views.question import readable

if TYPE_CHECKING:
    import xarray as xr

    from layerlens.model.lensmodel import LensModel

MOST_CHARACTERS = 200_000
"""More are not shown: they would be a part of the notebook file."""


def written(model: LensModel | None, texts: Any) -> list[str]:
    """Return texts that were given in any way as a list of strings."""
    if isinstance(texts, Texts):
        return [texts.code]
    if not isinstance(texts, list | tuple):
        return [readable(model, texts)]
    if texts and all(isinstance(text, str) for text in texts):
        if sum(map(len, texts)) > MOST_CHARACTERS:
            return [f"{len(texts)} texts, the first of them: {texts[0][:200]}"]
        return [str(text) for text in texts]
    if texts and all(isinstance(text, list | tuple) for text in texts):
        return [readable(model, list(text)) for text in texts]
    return [readable(model, texts)]


def texts_of(data: xr.Dataset) -> list[str]:
    """Return the texts that a result is about."""
    text = str(data.attrs.get("text", ""))
    if int(data.attrs.get("texts", 1)) > 1 and not of_corpus(data):
        return [str(one) for one in json.loads(text)]
    return [text]


def of_corpus(data: xr.Dataset) -> bool:
    """Whether a result is about a corpus, of which it holds only how it was read."""
    return "rows" in data.attrs
