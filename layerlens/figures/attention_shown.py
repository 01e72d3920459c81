"""Which weights a figure of attention draws: of the first text or model, of the other, of both."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from layerlens.errors import ResultError
from layerlens.figures.fonts import drawable
from layerlens.model.integers import whole
from layerlens.result.attention import AttentionData
from layerlens.result.roles import Role, most_telling, roles_of

if TYPE_CHECKING:
    import xarray as xr

COMPARED = ("first", "second", "beside", "difference")


@dataclass(frozen=True)
class Shown:
    """What is drawn: `values` are ``[head, query, key]`` of one layer.

    `said` is what a difference adds to the words of its weighting, "" for the weights themselves.
    """

    layer: int
    head: int
    values: np.ndarray
    weighting: str
    queries: list[str]
    keys: list[str]
    names: list[str]
    said: str = ""


def compared(
    data: xr.Dataset,
    layer: int | None,
    head: int | None,
    weighting: str,
    part: str | None,
    compare: str,
) -> Shown:
    """Return what to draw.

    Raises
    ------
    ResultError
        There is nothing of that kind, or the two have different numbers of tokens.
    """
    if compare not in COMPARED:
        raise ResultError(f"compare is {compare!r}; expected one of {', '.join(COMPARED)}.")
    if compare == "second":
        return _chosen(data, layer, head, weighting, part, other=True)
    first = _chosen(data, layer, head, weighting, part, other=False)
    if compare == "first":
        return first
    held = AttentionData(data)
    theirs = held.layers(held.parts[0], other=True)
    nearest = min(theirs, key=lambda each: abs(each - first.layer))
    second = _chosen(data, nearest, None, weighting, part, other=True)
    heads = min(len(first.values), len(second.values))
    if first.head >= heads:
        raise ResultError(
            f"There is no head {first.head} beside it; the other has {heads}, from 0."
        )
    first = replace(first, values=first.values[:heads], names=first.names[:heads])
    second = replace(second, values=second.values[:heads])
    return _beside(first, second) if compare == "beside" else _difference(first, second)


def _difference(first: Shown, second: Shown) -> Shown:
    if first.values.shape != second.values.shape:
        raise ResultError(
            f"The two have {len(first.queries)} and {len(second.queries)} tokens: a difference "
            "needs as many in both; draw them with compare='beside'."
        )
    return replace(
        first,
        values=second.values - first.values,
        queries=_both(first.queries, second.queries),
        keys=_both(first.keys, second.keys),
        said=", second minus first",
    )


def _beside(first: Shown, second: Shown) -> Shown:
    """Return one square beside the other, with a column between that is not drawn."""
    heads, rows = len(first.values), max(first.values.shape[1], second.values.shape[1])
    wide = first.values.shape[2] + 1
    values = np.full((heads, rows, wide + second.values.shape[2]), np.nan, dtype=np.float32)
    values[:, : first.values.shape[1], : wide - 1] = first.values
    values[:, : second.values.shape[1], wide:] = second.values
    queries = _both(first.queries, second.queries)
    return replace(first, values=values, queries=queries, keys=[*first.keys, "", *second.keys])


def _both(one: list[str], two: list[str]) -> list[str]:
    """Return the tokens of two texts, place by place; both where they differ."""
    length = max(len(one), len(two))
    pairs = zip(*(texts + [""] * (length - len(texts)) for texts in (one, two)), strict=True)
    return [a if a == b else f"{a}/{b}".strip("/") for a, b in pairs]


def headline(data: xr.Dataset, shown: Shown, compare: str) -> str:
    """Return which layer and head is drawn, what it does, and whose it is."""
    name = str(data.attrs.get("other_model" if compare == "second" else "model", ""))
    of = f" of {name}" if name else ""
    label = str(data.attrs.get("other_label", ""))
    beside = {"beside": f", beside {label}", "difference": f": {label}, less the first"}
    head, _, role = shown.names[shown.head].partition(": ")
    what = f"Layer {shown.layer}, head {head}{f' ({role})' if role else ''}"
    return f"{what}{of}{beside.get(compare, '')}"


def _chosen(
    data: xr.Dataset,
    layer: int | None,
    head: int | None,
    weighting: str,
    part: str | None,
    *,
    other: bool,
) -> Shown:
    """Return what to draw."""
    held = AttentionData(data)
    part = held.parts[0] if part is None else part
    roles = [] if other or part != held.parts[0] else roles_of(data)
    layers = held.layers(part, other=other)
    if layer is None:
        best = most_telling(roles)
        layer = layers[0] if best is None else best["layer"]
    values = held.square(layer, weighting, part, other=other)
    there = ~np.isnan(values).all((1, 2))
    values = values[: int(np.flatnonzero(there).max(initial=-1)) + 1]
    if not len(values):
        raise ResultError(f"Layer {layer} was not computed; choose one of {layers}.")
    if head is None:
        best = most_telling(roles, layer)
        head = 0 if best is None else best["head"]
    if not 0 <= whole(head, "head") < len(values):
        raise ResultError(f"There is no head {head}; layer {layer} has {len(values)}, from 0.")
    prefix = held.prefix(part, other=other)
    queries, keys = (
        [drawable(str(token)) or "⋯" for token in data[prefix + name].values]
        for name in ("token", "key_token")
    )
    given = json.loads(data.attrs.get("head_names", "[]"))
    names = [_name(index, given, roles, layer) for index in range(len(values))]
    return Shown(layer, head, values, weighting, queries, keys, names)


def _name(head: int, given: list[str], roles: list[Role], layer: int) -> str:
    """Return what stands above a head: its number or name, and what it does."""
    own = given[head] if given else str(head)
    best = most_telling([one for one in roles if one["head"] == head], layer)
    return own if best is None else f"{own}: {best['role'].replace('_', ' ')}"
