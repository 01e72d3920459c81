"""Options that have an effect only where another one has a certain value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerlens.analyses.contract.options import plain
from layerlens.errors import InputError


@dataclass(frozen=True)
class When:
    """What another option has to be for an option to have an effect.

    Attributes
    ----------
    option
        The other one.
    words
        The same as words that go on after "has an effect only".
    holds
        From the other one's value to whether it is so.
    """

    option: str
    words: str
    holds: Callable[[Any], bool]


Effects = Mapping[str, When | Sequence[When]]
"""Option to what it needs for an effect; one that is not named always has one."""


def among(option: str, *values: Any) -> When:
    """Where another option has one of these values."""
    words = " or ".join(repr(value) for value in values)
    return When(option, f"with {option}={words}", lambda value: _among(value, values))


def holding(option: str, *values: str) -> When:
    """Where another option, a name or several, has one of these among its names."""
    words = " or ".join(map(repr, values))

    def holds(names: str | Sequence[str]) -> bool:
        return not set(values).isdisjoint([names] if isinstance(names, str) else names)

    return When(option, f"with {words} among {option}", holds)


def given(option: str) -> When:
    """Where another option is given: it is neither None, nor false, nor 0, nor empty."""
    return When(option, f"where {option} is given", _given)


def left_out(option: str) -> When:
    """Where another option is not given."""
    return When(option, f"where {option} is left out", lambda value: not _given(value))


def require_effect(
    options: Mapping[str, Any], defaults: Mapping[str, Any], effects: Effects, name: str
) -> None:
    """Refuse an option that was given and would change nothing.

    Parameters
    ----------
    options, defaults
        Of all options.
    name
        Of the analysis.

    Raises
    ------
    InputError
        Names the option, and what it needs.
    """
    for option, needed in effects.items():
        if plain(options[option]) == plain(defaults[option]):
            continue
        for when in (needed,) if isinstance(needed, When) else needed:
            if not when.holds(options[when.option]):
                raise InputError(
                    f"{option} of {name} has an effect only {when.words}: leave it out, or change "
                    f"{when.option}."
                )


def _given(value: Any) -> bool:
    # An array has no truth of its own.
    plain_kind = isinstance(value, (bool, int, str, tuple, list))
    return value is not None and (not plain_kind or bool(value))


def _among(value: Any, values: Sequence[Any]) -> bool:
    return any(type(value) is type(one) and bool(value == one) for one in values)
