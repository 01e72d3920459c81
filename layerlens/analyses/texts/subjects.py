"""The subject of a prompt: where it stands, and the positions of a prompt grouped by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError

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


def subject_positions(model: LensModel, tokens: Tokens, subject: Any) -> tuple[int, ...]:
    """Positions of the subject of one text, in order.

    Parameters
    ----------
    subject
        The text of a span, positions, or None for everything but the last token.

    Raises
    ------
    InputError
        If it is not in the text, or leaves nothing.
    """
    length = tokens.ids.shape[1]
    found = range(length - 1) if subject is None else model.positions(tokens, subject)
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
