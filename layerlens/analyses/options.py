"""Options of an analysis: their names are checked, and a call can be written down again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from layerlens.errors import InputError


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of an analysis and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def nearest(word: str, known: Sequence[str], what: str) -> InputError:
    """Return the error for a misspelt word, naming the nearest valid one."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"{what} {word!r} is not known: {hint}Valid are {', '.join(known)}.")


def complete(options: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Given options over the defaults.

    Raises
    ------
    InputError
        For an unknown option; names the nearest valid one.
    """
    for option in options:
        if option not in known:
            raise nearest(option, list(known), f"Option of {name}:")
    return {**known, **options}


def plain(value: Any) -> Any:
    """Make a value fit for JSON and literal Python: tensors and arrays become lists."""
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, slice):
        return f"slice({value.start}, {value.stop}, {value.step})"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def code(name: str, text: Any, options: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Write the call that makes a result again, with the options that differ from defaults."""
    ids = getattr(text, "ids", None)  # Tokens: their ids, which are exact
    if ids is not None:
        rows = [row[keep].tolist() for row, keep in zip(text.ids, text.mask, strict=True)]
        texts = list(text.texts)
        text = rows[0] if text.single else (texts if all(texts) else rows)
    arguments = [_literal(text)]
    arguments += [
        f"{key}={_literal(value)}"
        for key, value in options.items()
        if plain(value) != plain(known[key])
    ]
    return f"ll.{name}(model, {', '.join(arguments)})"


def _literal(value: Any) -> str:
    if isinstance(value, slice):
        return repr(value)
    if isinstance(value, tuple):
        return repr(tuple(plain(item) for item in value))
    return repr(plain(value))
