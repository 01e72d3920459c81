"""What the attributes of a stored result have to be, so that whoever reads one need not ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from layerlens.result.checks import Checks

if TYPE_CHECKING:
    import xarray as xr

WORDS = (
    *("analysis", "code", "cost", "created", "dtype", "model", "model_type"),
    *("finds", "lead", "opens", "question", "source", "text", "view"),
)
NUMBERS = ("complete", "d_vocab", "n_layers", "passes", "seconds")
OBJECTS = ("missing", "options", "versions", "vocab")
LISTS = ("doses", "inputs", "metrics", "notes", "several", "variables")
OF_A_TEXT = ("ids", "tokens", "continues")
"""What an analysis of several texts keeps of each, as lists."""


def require_sound(data: xr.Dataset) -> None:
    """Look at every attribute that layerlens itself reads; those that are absent are sound.

    Raises
    ------
    ValueError
        Naming the attribute and what it should be.
    """
    attrs = data.attrs
    for name in WORDS:
        _require(attrs, name, lambda value: isinstance(value, str), "a text")
    for name in NUMBERS:
        _require(attrs, name, _is_number, "a number")
    for name in OBJECTS:
        _require(attrs, name, lambda value: isinstance(_plain(value), dict), "a JSON object")
    for name in LISTS:
        _require(attrs, name, lambda value: isinstance(_plain(value), list), "a JSON list")
    _require(attrs, "vocab", _is_vocabulary, "a JSON object from token ids to texts")
    _require(attrs, "inputs", _is_names, "a JSON list of names")
    _require(attrs, "variables", _is_names, "a JSON list of names")
    _require(attrs, "several", _is_names, "a JSON list of names")
    _require(attrs, "metrics", _is_names, "a JSON list of names")
    _require(attrs, "checks", _is_checks, "a JSON list of checks")
    for name in _plain(attrs.get("inputs", "[]")):
        for what in OF_A_TEXT:
            _require(attrs, f"{name}_{what}", _is_list, "a JSON list")
    if "batch" in data.dims and str(attrs.get("text", "")).startswith("["):
        _require(attrs, "text", _is_list, "a JSON list, of several texts")


def _require(
    attrs: Mapping[str, Any], name: str, sound: Callable[[Any], bool], expected: str
) -> None:
    if name in attrs and not sound(attrs[name]):
        raise ValueError(f"its attribute {name!r} is {attrs[name]!r:.60}; expected {expected}")


def _plain(value: Any) -> Any:
    """What a JSON text stands for; None where it is none."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_list(value: Any) -> bool:
    return isinstance(_plain(value), list)


def _is_names(value: Any) -> bool:
    return _is_list(value) and all(isinstance(name, str) for name in _plain(value))


def _is_vocabulary(value: Any) -> bool:
    found = _plain(value)
    return isinstance(found, dict) and all(
        key.isdigit() and isinstance(text, str) for key, text in found.items()
    )


def _is_checks(value: Any) -> bool:
    try:
        checks = Checks.from_json(value)
    except (TypeError, ValueError, AttributeError):
        return False
    return all(
        isinstance(check.name, str) and _is_number(check.error) and _is_number(check.limit)
        for check in checks
    )
