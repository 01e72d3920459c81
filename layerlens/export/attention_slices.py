"""The attention of one layer as a few bytes: what a page draws of all heads.

Each head is scaled by itself to 0-255, weights by their square roots: over a long text most are far
below the largest, which the first tokens always have, and would all round to zero. Where no query
looks ahead only the lower triangle travels, row by row. The exact numbers are asked for row by
row, or are in the result.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np

from layerlens.result.attention import AttentionData

if TYPE_CHECKING:
    import xarray as xr

PAGE_BYTES = 24 << 20
"""Slices of more bytes than this are not put into a page; those next to the layer looked at are."""


class Key(NamedTuple):
    """Which slice: number of the layer, part, weighting, whether of what lies beside."""

    layer: int
    part: str
    weighting: str
    other: bool

    def __str__(self) -> str:
        return f"{self.layer}/{self.part}/{self.weighting}/{int(self.other)}"


class SliceHeader(TypedDict):
    """How the bytes are read.

    A value is ``min + part * (max - min)`` of its head, where part is ``byte / 255``, or its square
    where `root`. Where `blank`, byte 0 is where nothing is seen, and part is ``(byte - 1) / 254``.
    """

    min: list[float]
    max: list[float]
    shape: list[int]
    causal: bool
    blank: bool
    root: bool


class Slice(NamedTuple):
    """A layer's attention as it travels."""

    header: SliceHeader
    data: bytes


def encode(values: np.ndarray, *, blank: bool = False) -> Slice:
    """Return the slice of a layer.

    Parameters
    ----------
    values : ndarray
        ``[head, query, key]``; NaN where a head is not there.
    blank : bool
        Whether -inf means that nothing is seen (scores), so that it keeps a byte of its own.
    """
    values = np.asarray(values, dtype=np.float32)
    seen = np.isfinite(values)
    lowest = values.min((1, 2), initial=np.inf, where=seen)
    low = np.where(np.isfinite(lowest), lowest if blank else np.minimum(lowest, 0), 0)
    high = values.max((1, 2), initial=-np.inf, where=seen)
    high = np.where(np.isfinite(high), high if blank else np.maximum(high, 0), 0)
    steps = 254 if blank else 255
    root = not blank and not low.any()
    span = np.where(high > low, high - low, 1)[:, None, None]
    part = np.clip((np.where(seen, values, 0) - low[:, None, None]) / span, 0, 1)
    scaled = np.rint((np.sqrt(part) if root else part) * steps)
    codes = (scaled + blank).astype(np.uint8) * seen
    causal = _looks_back(values, seen, blank=blank)
    packed = codes.reshape(len(codes), -1)
    if causal:
        packed = packed[:, _triangle(values.shape[1])]
    header = SliceHeader(
        min=low.astype(float).tolist(),
        max=high.astype(float).tolist(),
        shape=list(values.shape),
        causal=causal,
        blank=blank,
        root=root,
    )
    return Slice(header, np.ascontiguousarray(packed).tobytes())


def decode(piece: Slice) -> np.ndarray:
    """Return ``[head, query, key]`` float32 of a slice, as a page reads it."""
    header = piece.header
    heads, queries, keys = header["shape"]
    codes = np.frombuffer(piece.data, np.uint8).reshape(heads, -1)
    whole = np.zeros((heads, queries * keys), np.uint8)
    whole[:, _triangle(queries) if header["causal"] else slice(None)] = codes
    low, high = (np.array(header[name])[:, None] for name in ("min", "max"))
    blank = header["blank"]
    part = (whole.astype(np.float64) - blank) / (255 - blank)
    found = low + (part**2 if header["root"] else part) * (high - low)
    if header["causal"] and not blank:
        found[:, np.setdiff1d(np.arange(queries * keys), _triangle(queries))] = 0
    if blank:
        found[whole == 0] = -np.inf
    values: np.ndarray = found.reshape(heads, queries, keys).astype(np.float32)
    return values


def _looks_back(values: np.ndarray, seen: np.ndarray, *, blank: bool) -> bool:
    """Whether no query looks at a key behind it."""
    if values.shape[1] != values.shape[2]:
        return False
    ahead = np.triu_indices(values.shape[1], 1)
    if blank:
        return not seen[:, ahead[0], ahead[1]].any()
    return not np.nan_to_num(values[:, ahead[0], ahead[1]]).any()


@lru_cache(maxsize=8)
def _triangle(size: int) -> np.ndarray:
    """Flat indices of the lower triangle, row by row."""
    return np.flatnonzero(np.tril(np.ones((size, size), bool)))


def slice_of(data: xr.Dataset, key: Key) -> Slice | None:
    """Return a slice of the data of a result of one text; None where it was not computed.

    Raises
    ------
    ResultError
        There is no such layer, part or weighting.
    """
    values = AttentionData(data).square(key.layer, key.weighting, key.part, other=key.other)
    if np.isnan(values).all():
        return None
    return encode(values, blank=key.weighting == "scores")


def keys_of(meta: Mapping[str, Any], layer: int) -> list[Key]:
    """Return the slices that a page may ask for of a layer."""
    return [
        Key(layer, part, name, other)
        for part, other, layers in _rows(meta)
        if layer in layers
        for name in meta["weightings"]
    ]


def all_layers(meta: Mapping[str, Any]) -> list[int]:
    """Return the layers of all parts, and of what lies beside."""
    return sorted({layer for _, _, layers in _rows(meta) for layer in layers})


def _rows(meta: Mapping[str, Any]) -> list[tuple[str, bool, list[int]]]:
    """Each part, and what lies beside, with its layers."""
    first = meta["parts"][0]
    held = meta["by_part"] or {first: meta}
    beside = [(first, True, meta["other"]["layers"])] if meta["other"] else []
    return [(part, False, one["layers"]) for part, one in held.items()] + beside


def with_slices(
    meta: Mapping[str, Any],
    get: Callable[[Key], Slice | None],
    *,
    first: int = -1,
    most_bytes: int = PAGE_BYTES,
) -> dict[str, Any]:
    """Return the `meta` that a page without a kernel gets: with the slices in it.

    Parameters
    ----------
    meta : mapping
        From `layerlens.export.attention_meta`.
    get : callable
        Gives a slice, or None where it was never computed.
    first : int
        Layer that is looked at: its slices, and those nearest to it, are put in first.
    most_bytes : int
        Where to stop; the layer that is looked at is always in.
    """
    layers = all_layers(meta)
    slices: dict[str, dict[str, Any]] = {}
    kept: list[int] = []
    size = 0
    for layer in sorted(layers, key=lambda one: abs(one - first) if first in layers else one):
        found = {key: piece for key in keys_of(meta, layer) if (piece := get(key)) is not None}
        size += sum(len(piece.data) for piece in found.values())
        if kept and size > most_bytes:
            break
        kept += [layer] if found else []
        slices |= {str(key): _written(piece) for key, piece in found.items()}
    return {
        **meta,
        "slices": slices,
        "kept_layers": sorted(kept),
        "kept_words": _left_out(layers, kept),
    }


def _written(piece: Slice) -> dict[str, Any]:
    return {**piece.header, "data": base64.b64encode(piece.data).decode("ascii")}


def _left_out(layers: Sequence[int], kept: Sequence[int]) -> str:
    if len(kept) == len(layers):
        return ""
    which = f"layers {min(kept)} to {max(kept)}" if kept else "no layer"
    return (
        f"This page holds {which} of {len(layers)}, to stay small; the others are in the "
        "notebook and in the saved result."
    )
