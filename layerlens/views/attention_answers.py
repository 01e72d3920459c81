"""What a page asks about a picture of attention: the bytes of a layer, and exact rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from layerlens.errors import InputError
from layerlens.export.attention_slices import Key, all_layers, keys_of
from layerlens.result.attention import AttentionData
from layerlens.views.attention_stream import AttentionStream
from layerlens.views.base import Reply


class Shown(NamedTuple):
    """The picture on screen, and the layer and the part that are looked at."""

    stream: AttentionStream
    meta: Mapping[str, Any]
    layer: int
    part: str


def slice_of_layer(shown: Shown, params: Mapping[str, Any]) -> Reply:
    """Answer with all heads of a layer.

    Raises
    ------
    InputError
        The picture has no such slice, or not yet.
    """
    key = _key(shown, params)
    found = shown.stream.get(key)
    if found is None:
        raise _unfinished(shown.stream, key)
    return dict(found.header), [found.data]


def exact_row(shown: Shown, params: Mapping[str, Any]) -> Reply:
    """Answer with what one query of one head looks at, float32.

    Raises
    ------
    InputError
        The picture has no such row, or not yet.
    """
    key = _key(shown, params)
    data = shown.stream.data
    if data is None:
        raise _unfinished(shown.stream, key)
    values = AttentionData(data).square(key.layer, key.weighting, key.part, other=key.other)
    head, query = int(params.get("head", -1)), int(params.get("query", -1))
    if not (0 <= head < values.shape[0] and 0 <= query < values.shape[1]):
        raise InputError(
            f"There is no row of head {head} and query {query}; there are {values.shape[0]} heads "
            f"and {values.shape[1]} queries, counted from 0."
        )
    if np.isnan(values).all():
        raise _unfinished(shown.stream, key)
    return {}, [values[head, query].astype("<f4").tobytes()]


def _key(shown: Shown, params: Mapping[str, Any]) -> Key:
    """Return what is asked about; what is not named is what is looked at."""
    meta = shown.meta
    key = Key(
        int(params.get("layer", shown.layer)),
        str(params.get("part") or shown.part),
        str(params.get("weighting") or "pattern"),
        bool(params.get("other")),
    )
    if key not in keys_of(meta, key.layer):
        beside = " of the other" if key.other else ""
        raise InputError(
            f"The picture has no {key.weighting} of layer {key.layer}, part '{key.part}'{beside}; "
            f"it has layers {all_layers(meta)}, parts {meta['parts']} and {meta['weightings']}."
        )
    return key


def _unfinished(stream: AttentionStream, key: Key) -> InputError:
    if stream.ended and stream.data is not None:
        return InputError(f"Layer {key.layer} was not computed before the run was stopped.")
    return InputError(f"not yet: layer {key.layer} is not finished; ask again when more are done.")
