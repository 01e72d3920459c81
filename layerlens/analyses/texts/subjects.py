"""The subject of a prompt: where it stands, and the positions of a prompt grouped by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError
from layerlens.model.integers import is_whole
from layerlens.run.answer_place import answer_place

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

GROUPS = (
    "first subject token",
    "middle subject tokens",
    "last subject token",
    "first subsequent token",
    "further tokens",
    "last token",
)
"""Positions of a prompt as Meng et al. (2022) group them."""

Where = Sequence[int]


def each(value: Any, texts: int, single: bool, name: str) -> list[Any]:
    """What names positions, for every text.

    Parameters
    ----------
    value
        For one text, anything that names positions. For several, a list of texts or of lists is
        one each; anything else, a tuple of positions too, is the same in every text.
    name
        The option, for the error.

    Raises
    ------
    InputError
        For several texts and a list of bare positions, which could mean either, or a list that
        does not have one entry for each text.

    Examples
    --------
    >>> each([[1], [2, 3]], 2, False, "subject")
    [[1], [2, 3]]
    >>> each((1, 2), 2, False, "subject")
    [(1, 2), (1, 2)]
    """
    value = value.tolist() if hasattr(value, "tolist") else value
    if single or not isinstance(value, list):
        return [value] * texts
    if all(map(is_whole, value)):
        apart = ", ".join(f"[{item}]" for item in value)
        raise InputError(
            f"{name}={value} for {texts} texts may mean one position each, or all of them in every "
            f"text: write [{apart}] for one each, or {tuple(value)} for the same in every text."
        )
    if len(value) != texts:
        raise InputError(
            f"{name} has {len(value)} entries for {texts} texts: give one for all of them, or a "
            "list with one each."
        )
    return list(value)


def subject_positions(model: LensModel, tokens: Tokens, subject: Any) -> tuple[int, ...]:
    """Positions of the subject of one text, in order.

    Parameters
    ----------
    subject
        The text of a span, positions, or None for everything but the token that is answered at.

    Raises
    ------
    InputError
        If it is not in the text, or leaves nothing.
    """
    length = tokens.ids.shape[1]
    if subject is None:
        answered = answer_place(model, tokens)
        found = [place for place in range(length) if place != answered]
    else:
        found = model.positions(tokens, subject)
    if not found:
        raise InputError(
            "The text is one token long, so there is no subject before its end: name one with "
            "subject=."
            if subject is None
            else f"The subject {subject!r} names no position."
        )
    return tuple(sorted(found))


def position_groups(subject: Where, length: int) -> dict[str, list[int]]:
    """Positions of one prompt by group; a group may be empty.

    A subject of one token is its own first and last one, as in the authors' code; a token right
    after the subject that ends the prompt is both the first subsequent and the last.

    Examples
    --------
    >>> position_groups((1, 2, 3), 7)["further tokens"]
    [5]
    """
    after = list(range(subject[-1] + 1, length))
    found = (
        [subject[0]],
        list(subject[1:-1]),
        [subject[-1]],
        after[:1],
        after[1:-1],
        [length - 1],
    )
    return dict(zip(GROUPS, found, strict=True))
