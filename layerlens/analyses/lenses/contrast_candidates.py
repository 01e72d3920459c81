"""Which earlier layers may be held against the final one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

BUCKETS = ("low", "high")
DEEP = 40
"""Blocks above which DoLa's code looks at 20 states at either end."""

WINDOW = 20


def bucket(blocks: int, which: str, *, tied: bool) -> list[int]:
    """States that DoLa's code looks at: 0 is the embedding, n what block n - 1 leaves.

    With tied embeddings the first ones are left out: they read the token that stands there.

    Examples
    --------
    >>> bucket(30, "low", tied=True), bucket(30, "high", tied=True)
    ([2, 4, 6, 8, 10, 12, 14], [15, 17, 19, 21, 23, 25, 27, 29])
    """
    deep = blocks > DEEP
    if which == "high":
        return list(range(blocks - WINDOW if deep else blocks // 2, blocks, 2))
    start = min(2, blocks - 1) if tied else 0
    # In a tied model of three blocks its window is empty; the first state is taken, as with four.
    return list(range(start, WINDOW if deep else blocks // 2, 2)) or [start]


def candidates(model: LensModel, method: str, layers: Any) -> list[Point]:
    """The points after which an earlier answer is read.

    Raises
    ------
    InputError
        One does not exist, is the final one, or has no state between its sublayers.
    """
    found = _points(model, method, layers)
    last = model.n_layers - 1
    if any(point.layer == last or not point.is_state for point in found):
        raise InputError(
            f"layers names {last}, the final one, or a sublayer's output: a contrast needs states "
            "of earlier layers."
        )
    if method == "fused":
        mids = {point.layer for point in lens_points(model, [*_mids(model)])}
        if any(point.layer not in mids or point.label.endswith("_mid") for point in found):
            raise InputError(
                "method='fused' compares a block's state before and after its MLP: name layers "
                "whose blocks have both, one after the other."
            )
    return found


def _points(model: LensModel, method: str, layers: Any) -> list[Point]:
    if layers is None and method == "fused":
        blocks = range((model.n_layers + 1) // 2, model.n_layers - 1)
        if not blocks:
            raise InputError(
                f"A model of {model.n_layers} blocks has none in its latter half before the last: "
                "name layers."
            )
        return lens_points(model, [f"{layer}_post" for layer in blocks])
    if layers is None or (isinstance(layers, str) and layers in BUCKETS):
        tied = bool(getattr(model.hf.config, "tie_word_embeddings", False))
        states = bucket(model.n_layers, layers or "low", tied=tied)
        return lens_points(model, [f"{one - 1}_post" if one else "embed" for one in states])
    if isinstance(layers, str) or _has_words(layers):
        if isinstance(layers, str) and layers != "embed" and "_" not in layers:
            raise InputError(
                f"layers is {layers!r}; expected 'low', 'high', numbers of blocks, or labels such "
                "as 'embed', '3_post'."
            )
        return lens_points(model, layers)
    return lens_points(model, [f"{layer}_post" for layer in model.layers(layers)])


def _has_words(layers: Any) -> bool:
    return isinstance(layers, Sequence) and any(isinstance(one, str) for one in layers)


def _mids(model: LensModel) -> list[str]:
    """Labels of the states between the sublayers."""
    return [label for label, _, _ in model.anatomy.points(("mid",))]
