"""Whole numbers as users write them: Python's, NumPy's and torch's, and nothing else."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from layerlens.errors import InputError


def is_whole(value: Any) -> bool:
    """Whether a value is one whole number: no bool, no float, no text."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    if kind.removeprefix("torch.") == "bool" or isinstance(value, str):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True


def whole(value: Any, name: str) -> int:
    """One whole number.

    Parameters
    ----------
    name
        The option, for the error.

    Raises
    ------
    InputError
        For anything else: ``0.9`` is not 0 and ``True`` is not 1.

    Examples
    --------
    >>> import numpy as np
    >>> whole(np.int64(3), "layer")
    3
    """
    if not is_whole(value):
        raise InputError(f"{name} is a whole number, not {value!r}.")
    return operator.index(value)


def wholes(value: Any, name: str, least: int | None = None) -> tuple[int, ...]:
    """One whole number or several, each once.

    Parameters
    ----------
    value
        A number, or a list, range, array or tensor of them.
    name
        The option, for the error.
    least
        The smallest that there is.

    Raises
    ------
    InputError
        For anything else, for a number below ``least``, or for none at all.

    Examples
    --------
    >>> wholes(range(3, 6), "layers")
    (3, 4, 5)
    """
    given = value.tolist() if hasattr(value, "tolist") and not is_whole(value) else value
    several = isinstance(given, Iterable) and not isinstance(given, str) and not is_whole(given)
    items = list(given) if several else [given]
    for item in items:
        if not is_whole(item):
            raise InputError(f"{name} is a whole number or a list of them, not {value!r}.")
    found = dict.fromkeys(map(operator.index, items))
    if not found:
        raise InputError(f"{name} is empty: name at least one.")
    if least is not None and min(found) < least:
        raise InputError(f"{name} {min(found)} does not exist: they count from {least}.")
    return tuple(found)
