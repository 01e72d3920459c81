"""What things are called on a figure: axes, curves that stand together, the figure itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerlens.result.layers import OTHER

if TYPE_CHECKING:
    import xarray as xr

_AXES = {
    "point": "after layer",
    "skipped": "skipped layer",
    "source": "from layer",
    "target": "to layer",
    "k": "rank",
}

_LINKS = ("of", "the", "a", "an", "in", "by", "with", "what")


def axis_words(data: xr.Dataset, dim: str) -> str:
    """Return what an axis is called; of two models' states, whose they are."""
    own = dim.removeprefix(OTHER)
    second = own.endswith("_other") or dim.startswith(OTHER)
    own = own.removesuffix("_other")
    words = _AXES.get(own, own.replace("_", " "))
    if own == "source" and "target" not in data.dims:
        words = own
    if "point_other" in data.dims and own == "point" and (other := _other_model(data)):
        return f"{words}, {other if second else data.attrs.get('model', 'this model')}"
    return words


def _other_model(data: xr.Dataset) -> str:
    other = data.attrs.get("other", "")
    return other if isinstance(other, str) else ""


def between_models(data: xr.Dataset) -> str:
    """Return the model that a result is about, and the other one where it compares two."""
    model, other = str(data.attrs.get("model", "")), _other_model(data)
    return f"{model} and {other}" if model and other else model


def apart(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the words that all names share, and of each those that set it apart.

    ``"MLP's share of the stream"`` and ``"block's share of the stream"`` share "share of the
    stream". Where the words do not say what each is, nothing is shared.
    """
    split = [name.split() for name in names]
    shared = [word for word in split[0] if all(word in words for words in split)]
    rest = [" ".join(w for w in words if w not in shared).removesuffix("'s") for words in split]
    told = all(rest) and len(set(rest)) == len(rest)
    if len(shared) < 2 or not told or set(shared) <= {*_LINKS}:
        return "", list(names)
    while shared[-1] in _LINKS:  # "norm of", where what follows is what differs
        shared.pop()
    return " ".join(shared), rest


def behind(name: str, title: str) -> str:
    """Return a name without the words that it begins with like a title; all where none is left.

    Examples
    --------
    >>> behind("mean silhouette of one cloud", "mean silhouette")
    'one cloud'
    """
    words, said = name.split(), title.split()
    same = 0
    while same < min(len(words), len(said)) and words[same] == said[same]:
        same += 1
    while 0 < same < len(words) and words[same] in _LINKS:
        same += 1
    return " ".join(words[same:]) or name


def capital(text: str) -> str:
    """Return `text` with a capital at its beginning."""
    return text[:1].upper() + text[1:]
