"""The call that loads a model again, as a person would write it."""

from __future__ import annotations

import os
from typing import Any

import torch


def load_code(source: Any, tokenizer: Any, options: dict[str, Any], *, proven: bool) -> str:
    """Return the call of ``ll.load``; what was left at its default is not written.

    Parameters
    ----------
    source, tokenizer
        As `layerlens.load` was given them. A tokenizer that is an object is written as a variable.
    options
        The other keywords by name.
    proven
        Whether the anatomy was to be proven.

    Returns
    -------
    str
        Empty for a model in memory, which no call can load.
    """
    if source is not None and not isinstance(source, str | os.PathLike):
        return ""
    arguments = [] if source is None else [repr(os.fspath(source))]
    if tokenizer is not None:
        path = isinstance(tokenizer, str | os.PathLike)
        arguments.append(f"tokenizer={os.fspath(tokenizer)!r}" if path else "tokenizer=tokenizer")
    for name, value in options.items():
        if value:
            arguments.append(f"{name}={_literal(value)}")
    if not proven:
        arguments.append("prove=False")
    return f"ll.load({', '.join(arguments)})"


def _literal(value: Any) -> str:
    if isinstance(value, torch.dtype | torch.device):
        return repr(str(value).removeprefix("torch."))
    return repr(value)
