"""A model where one is wanted, or a sentence that says how to get one."""

from __future__ import annotations

import os
from typing import Any

from layerlens.errors import InputError


def require_model(model: Any, what: str = "The first argument") -> None:
    """Raise an ``InputError`` for anything that is not from ``ll.load``.

    Parameters
    ----------
    model
        What was given.
    what
        What it was given as, for the sentence.
    """
    if hasattr(model, "anatomy"):
        return
    if isinstance(model, str | os.PathLike):
        how = f"write ll.load({os.fspath(model)!r})"
    elif model is None:
        how = "write ll.load() for the default one"
    elif hasattr(model, "labels") and hasattr(model, "running"):
        how = "ll.Runs are for ll.information_plane"
    elif hasattr(model, "get_input_embeddings"):
        how = "write ll.load(hf_model, tokenizer) for one that is in memory already"
    elif _is_square(model[0] if isinstance(model, tuple) and model else model):
        how = (
            "give one from ll.load; attention that is there already is shown by "
            "ll.AttentionView.from_attention"
        )
    else:
        how = "give one from ll.load"
    raise InputError(f"{what} is a model from ll.load, not {type(model).__name__}: {how}.")


def _is_square(given: Any) -> bool:
    """Whether an array has rows and columns, as attention has."""
    return int(getattr(given, "ndim", 0)) > 1
