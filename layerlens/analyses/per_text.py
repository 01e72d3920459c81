"""Options that may be given once for all texts, or one for each."""

from __future__ import annotations

from typing import Any

from layerlens.errors import InputError


def one_each(given: Any, texts: int, name: str) -> list[Any]:
    """One value for each text.

    Parameters
    ----------
    given
        A value for all texts, or a list with one for each.
    name
        The option, for the error.

    Raises
    ------
    InputError
        When a list has not one entry for each text.

    Examples
    --------
    >>> one_each(" Paris", 2, "answer")
    [' Paris', ' Paris']
    """
    if not isinstance(given, list | tuple):
        return [given] * texts
    if len(given) != texts:
        raise InputError(
            f"{name} has {len(given)} entries for {texts} texts: give one value for all of them, "
            "or one each."
        )
    return list(given)
