"""One value of an option for each text."""

from __future__ import annotations

from typing import Any

from layerlens.errors import InputError


def one_each(given: Any, texts: int, name: str, *, alone: bool = False) -> list[Any]:
    """One value for each text.

    Parameters
    ----------
    given
        A value for all texts, or a list with one for each.
    texts
        How many there are.
    name
        The option, for the error.
    alone
        Whether one text was given by itself, where a list may be a value too (several positions);
        then it is the value.

    Raises
    ------
    InputError
        When a list has not one entry for each text.

    Examples
    --------
    >>> one_each(" Paris", 2, "answer")
    [' Paris', ' Paris']
    >>> one_each([3, 4], 1, "subject", alone=True)
    [[3, 4]]
    """
    if alone:
        return [given] * texts
    if hasattr(given, "tolist"):
        given = given.tolist()
    if not isinstance(given, list | tuple):
        return [given] * texts
    if len(given) != texts:
        raise InputError(
            f"{name} has {len(given)} entries for {texts} text{'s' * (texts > 1)}: give one value "
            "for all of them, or one each."
        )
    return list(given)
