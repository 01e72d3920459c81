"""The arguments of an edit: read one by one, and refused where they do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal

import torch

from layerlens.errors import InputError
from layerlens.model.integers import wholes
from layerlens.model.sites import GLOBAL, HEADS
from layerlens.run.changes import SQUARE
from layerlens.run.values import Source, as_position, as_texts, as_value

#: Operation -> what its value is: nothing, numbers, directions, texts or a text.
VALUES = {
    "set": "numbers",
    "add": "numbers",
    "scale": "numbers",
    "zero": "nothing",
    "mean": "texts",
    "resample": "text",
    "project_out": "directions",
    "freeze": "nothing",
    "block": "nothing",
}

#: Generated tokens that an edit applies at: their numbers, every one, or none.
Steps = tuple[int, ...] | Literal["all"] | None


def require_op(op: str, kind: str) -> None:
    """Refuse an operation that does not exist, or that makes no sense at a site."""
    if op not in VALUES:
        near = get_close_matches(str(op), list(VALUES), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"{op!r} is no operation: {hint}There are {', '.join(VALUES)}.")
    if op == "block" and kind != "attn_scores":
        raise InputError(
            f"block cuts attention before the softmax, so its site is attn_scores, not {kind}."
        )
    if op in ("mean", "project_out") and kind in SQUARE:
        raise InputError(f"{op} makes no sense over the keys of {kind}: edit v or z instead.")


def value_of(op: str, value: Any, kind: str) -> Any:
    """The value of an edit, in a form that no one else can change."""
    wanted = VALUES[op]
    if wanted == "nothing":
        if value is not None:
            raise InputError(f"{op} takes no value, but one was given.")
        return None
    if value is None:
        raise InputError(f"{op} needs a value ({wanted}): see ll.edit.")
    if isinstance(value, Source):
        if wanted == "texts":
            raise InputError("mean takes reference texts or a tensor, not a source: use resample.")
        return value
    if wanted == "text":
        return Source(as_texts(value))
    if wanted == "texts":
        return as_texts(value, or_numbers=True)
    found = as_value(value)
    if wanted == "directions" and not isinstance(found, torch.Tensor):
        raise InputError("project_out takes a direction [width] or several [n, width].")
    return found


def layers_of(
    kind: str, named: int | None, layer: int | Iterable[int] | None
) -> tuple[int, ...] | None:
    """Layers, from the name of the site or from ``layer=``."""
    if kind in GLOBAL:
        if layer is not None:
            raise InputError(f"{kind} exists once in a model: leave out layer.")
        return None
    if named is not None and layer is not None:
        raise InputError(f"The layer of {kind} is given twice, as {named} and as {layer}.")
    if named is None and layer is None:
        raise InputError(f"{kind} needs a layer: write '{kind}.0', or give layer=.")
    return (named,) if layer is None and named is not None else wholes(layer, "layer")


def heads_of(
    kind: str, named: int | None, head: int | Iterable[int] | None
) -> tuple[int, ...] | None:
    """Heads, from the name of the site or from ``head=``; None for all."""
    if head is None:
        return None if named is None else (named,)
    if kind not in HEADS:
        raise InputError(f"{kind} has no heads; only {', '.join(HEADS)} have.")
    if named is not None:
        raise InputError(f"The head of {kind} is given twice, as {named} and as {head}.")
    return wholes(head, "head", least=0)


def neurons_of(kind: str, neuron: int | Iterable[int] | None) -> tuple[int, ...] | None:
    """Entries of the last axis; None for all."""
    if neuron is not None and kind in SQUARE:
        raise InputError(f"The last axis of {kind} is that of keys: name them with key=.")
    return None if neuron is None else wholes(neuron, "neuron", least=0)


def key_of(kind: str, key: Any) -> Any:
    """Key positions as given; None for all."""
    if key is not None and kind not in SQUARE:
        raise InputError(f"{kind} has no keys; only {' and '.join(sorted(SQUARE))} have.")
    return as_position(key)


def steps_of(steps: int | Iterable[int] | str | None) -> Steps:
    """Numbers of generated tokens, ``"all"``, or None."""
    if steps is None or steps == "all":
        return None if steps is None else "all"
    if isinstance(steps, str):
        raise InputError(f"steps is a number, a list of numbers or 'all', not {steps!r}.")
    return tuple(sorted(wholes(steps, "steps", least=0)))
