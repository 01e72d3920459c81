"""What a user says of tokens or spans, as units that scores can be held against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Unit:
    """A token or a span with its label.

    Attributes
    ----------
    text
        Number of its text.
    positions
        Its tokens.
    positive
        Whether it is of the kind that scores should be high for.
    """

    text: int
    positions: list[int]
    positive: bool


def units_of(
    model: LensModel, tokens: Tokens, labels: Any, counted: Sequence[np.ndarray]
) -> list[Unit]:
    """The labelled tokens and spans of all texts.

    Parameters
    ----------
    labels
        Of a text, a mapping of a span (its text, or positions as ``model.positions`` takes them)
        to 0 or 1, or a list with one for each token and None where nothing is said; for several
        texts a list of these.
    counted
        Of each text ``[T]`` bool, the tokens that have scores.

    Raises
    ------
    InputError
        A label is neither 0 nor 1, a span is not there or has no token that counts, or all
        labels are the same.
    """
    each = one_each(labels, len(tokens.ids), "labels", alone=tokens.single)
    units = [
        unit
        for text, given in enumerate(each)
        for unit in _of_text(model, row_of(tokens, text), text, given, counted[text])
    ]
    if len({unit.positive for unit in units}) < 2:
        raise InputError(
            f"labels hold {len(units)} tokens or spans that count, all with the same label: give "
            "some of either kind, 1 for what is wrong and 0 for what is right."
        )
    return units


def _of_text(
    model: LensModel, tokens: Tokens, text: int, given: Any, counted: np.ndarray
) -> list[Unit]:
    if isinstance(given, Mapping):
        units = []
        for span, label in given.items():
            places = [at for at in model.positions(tokens, span) if counted[at]]
            if not places:
                raise InputError(
                    f"The span {span!r} has no token with a score: a text's first token has none, "
                    "and where tokens are written only those count."
                )
            units.append(Unit(text, places, _positive(label)))
        return units
    length = len(counted)
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != length:
        raise InputError(
            f"labels are {given!r}; expected a span to 0 or 1 for each of some spans, or a list "
            f"of {length}, one for each token (None where nothing is said)."
        )
    said = [(at, label) for at, label in enumerate(given) if label is not None and counted[at]]
    return [Unit(text, [at], _positive(label)) for at, label in said]


def _positive(label: Any) -> bool:
    if not isinstance(label, bool | np.bool_ | int | np.integer) or int(label) not in (0, 1):
        raise InputError(f"A label is {label!r}; expected 1 (wrong), 0 (right) or None.")
    return bool(label)
