"""Two lists of texts of which the first belongs to the first, and so on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.fitting.documents import text_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.corpus.rows import Row

Ids = Sequence[int]


def matched(
    first: Sequence[Row], second: Sequence[Row], one: str, other: str
) -> list[tuple[Ids, Ids]]:
    """The token ids of two lists, pair by pair.

    Parameters
    ----------
    first, second
        Their rows.
    one, other
        How the texts of each are called, for errors.

    Raises
    ------
    InputError
        There are not as many of both, or one is longer than a row.
    """
    sides = [{text_of(row): row.ids for row in rows} for rows in (first, second)]
    if len(sides[0]) != len(first) or len(sides[1]) != len(second):
        raise InputError("A text is split into several rows: give ll.texts a larger length.")
    if sides[0].keys() != sides[1].keys() or len(sides[0]) != 1 + max(sides[0], default=-1):
        raise InputError(
            f"There are {len(first)} {one} and {len(second)} {other} that hold tokens: give two "
            "lists of the same length, the first belonging to the first, without empty ones."
        )
    return [(sides[0][number], sides[1][number]) for number in range(len(first))]


def units_of(job: Job, groups: Sequence[Any] | None, count: int) -> np.ndarray:
    """``[pair]``: number of the group of each, from the call or the first list; else its own.

    Raises
    ------
    InputError
        Both have groups, or there are not as many as pairs.
    """
    own = job.groups()
    if groups is not None and own:
        raise InputError("The texts have groups of their own: leave groups out, or give a list.")
    given = groups if groups is not None else own
    if given is None:
        return np.arange(count)
    if len(given) != count:
        raise InputError(f"There are {len(given)} groups and {count} pairs: give one for each.")
    known: dict[Any, int] = {}
    return np.array([known.setdefault(group, len(known)) for group in given])
