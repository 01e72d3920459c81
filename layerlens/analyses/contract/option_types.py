"""Options are what the signature says: numbers where it says numbers, words where it says words."""

from __future__ import annotations

import inspect
import math
import os
import reprlib
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

import numpy as np

from layerlens.errors import InputError
from layerlens.model.integers import is_whole

LEAST = {"verify": 0, "seed": 0, "generate": 0, "memory_limit": 0}
"""The smallest value of options that mean the same in every analysis."""
READ_LATER = ("answer", "wrong", "site")
"""Options that name tokens or sites, which are read by what knows those."""

Kind = tuple[str, Callable[[Any], bool]]
"""What is expected, in words, and whether a value is that."""


def kinds(function: Callable[..., Any]) -> dict[str, tuple[Kind, ...]]:
    """What each keyword-only parameter may be; those of types of our own are left out."""
    found: dict[str, tuple[Kind, ...]] = {"add_bos": (_KINDS["bool"], _KINDS["None"])}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.name in READ_LATER:
            continue
        written = parameter.annotation
        if not isinstance(written, str):
            written = inspect.formatannotation(written)
        # A union within brackets leaves parts that are no name of the table.
        parts = [_KINDS.get(part.strip()) for part in written.split("|")]
        if None not in parts:
            found[parameter.name] = tuple(part for part in parts if part is not None)
    return found


def require_kinds(
    options: Mapping[str, Any], allowed: Mapping[str, tuple[Kind, ...]], name: str
) -> None:
    """Refuse an option of another type than the signature says.

    Parameters
    ----------
    allowed
        From :func:`kinds`.
    name
        Of the analysis.

    Raises
    ------
    InputError
        Names the option, and what is expected of it.
    """
    for option in options.keys() & allowed.keys():
        value, expected = options[option], allowed[option]
        least = LEAST.get(option) if is_whole(value) else None
        if any(holds(value) for _, holds in expected) and (least is None or value >= least):
            continue
        words = " or ".join(words for words, _ in expected)
        bound = "" if option not in LEAST else f" from {LEAST[option]}"
        said = reprlib.repr(value)
        raise InputError(f"{option} of {name} is {said}; expected {words}{bound}.")


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return is_whole(value) or (isinstance(value, Real) and not math.isnan(value))


_KINDS: dict[str, Kind] = {
    "int": ("a whole number", is_whole),
    "float": ("a number", _is_number),
    "bool": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    "str": ("a word", lambda value: isinstance(value, str)),
    "None": ("None", lambda value: value is None),
    "os.PathLike[str]": ("a path", lambda value: isinstance(value, os.PathLike)),
}
