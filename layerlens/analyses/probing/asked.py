"""What a call of ``ll.probe`` asks for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.probing.examples import (
    EACH,
    MEAN,
    Examples,
    Pair,
    Span,
    Where,
    spans_each,
)
from layerlens.analyses.probing.readers import KINDS
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.spread import Workers
    from layerlens.model.lensmodel import LensModel

SITES = {
    "resid_post": ("embed", "post"),
    "resid_mid": ("mid",),
    "attn_out": ("attn_out",),
    "mlp_out": ("mlp_out",),
}
"""Kinds of points by the name of the site."""
SPAN, PAIR = "span", "pair"
SPANS = {
    SPAN: "its first position and the one behind its last.",
    PAIR: "two spans, or a list of such pairs, each span by its first position and the one behind "
    "its last.",
}
"""What is given for each text where states are read at spans."""
CONTROLS = ("shuffle", "types")
MEASURES = ("accuracy", "mdl")
CV = "cv"
"""A strength that is chosen by cross-validation inside the training folds."""


@dataclass(frozen=True)
class Task:
    """Labels of examples, and which of them must not stand on both sides of a fold.

    Attributes
    ----------
    labels
        ``[n]``: classes as they were given, or numbers.
    unit
        ``[n]``: the group of each, else its text.
    numbers
        Whether labels are numbers to be predicted.
    classes
        What classes there are, in order; empty for numbers.
    """

    labels: np.ndarray
    unit: np.ndarray
    numbers: bool
    classes: tuple[Any, ...]

    @property
    def majority(self) -> float:
        """Share of the commonest class; 0 for numbers, whose mean explains nothing."""
        if self.numbers:
            return 0.0
        return float(np.unique(self.labels, return_counts=True)[1].max() / len(self.labels))


@dataclass(frozen=True)
class Asked:
    """Options of `layerlens.probe`; ``send`` is whether labels are sent by the online code too."""

    kind: str
    strength: float | str
    folds: int
    control: str
    types: Sequence[Any] | None
    untrained: bool
    send: bool
    seed: int
    limit: int
    workers: Workers = None


def points_of(model: LensModel, site: str, layers: Any) -> list[Point]:
    """The points of a site, after some layers.

    Raises
    ------
    InputError
        There is no such site or layer.
    """
    if site not in SITES:
        raise nearest(site, tuple(SITES), "Site")
    chosen = set(model.layers(layers))
    found = lens_points(model, SITES[site])
    return [p for p in found if p.layer in chosen or (p.layer < 0 and layers is None)]


def where_of(position: Any, spans: Sequence[Any] | None) -> Where:
    """Where states are read.

    Raises
    ------
    InputError
        A position is none, or spans lack where they are asked for, or are none.
    """
    if position in (SPAN, PAIR):
        if spans is None:
            raise InputError(f"position={position!r} needs spans=: for each text {SPANS[position]}")
        try:
            return [_span(own) for own in spans] if position == SPAN else list(map(_pairs, spans))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"spans are none of position={position!r} ({error}): give for each text "
                f"{SPANS[position]}"
            ) from error
    if position in (MEAN, EACH) or (isinstance(position, int) and not isinstance(position, bool)):
        where: Where = position
        return where
    raise InputError(
        f"position is {position!r}; expected an index, 'mean' (of all), 'each' (a label for each "
        "token), or 'span' or 'pair' with spans=."
    )


def _span(given: Any) -> Span:
    start, stop = given
    return int(start), int(stop)


def _pairs(given: Any) -> list[Pair]:
    """The pairs of a text, from one or a list of them."""
    one = len(given) == 2 and all(np.ndim(span) == 1 for span in given)
    found = []
    for first, second in [given] if one else given:
        found.append((_span(first), _span(second)))
    return found


def flat_labels(labels: Sequence[Any], found: Examples, where: Where) -> list[Any]:
    """The label of each example, None where it has none.

    Parameters
    ----------
    labels
        Of each text; a list for each of its tokens or pairs where these are examples.

    Raises
    ------
    InputError
        Their number does not fit.
    """
    if len(labels) != found.texts:
        raise InputError(
            f"There are {len(labels)} labels and {found.texts} texts: give one for each."
        )
    if where == EACH:
        flat = [label for own in labels for label in own]
        what = "tokens (one that is put in front counts)"
    elif spans_each(where) == 2:
        flat = [label for own in labels for label in (own if isinstance(own, list) else [own])]
        what = "pairs"
    else:
        return [labels[number] for number in found.text]
    if len(flat) != len(found.text):
        raise InputError(
            f"There are {len(flat)} labels and {len(found.text)} {what}: give one for each, None "
            "for those that do not count."
        )
    return flat


def task_of(
    labels: Sequence[Any], groups: Sequence[Any] | None, found: Examples, where: Where
) -> tuple[Task, np.ndarray]:
    """Labels and units of examples, and which examples have a label.

    Parameters
    ----------
    labels, groups
        Of each text; labels also of each of its tokens or pairs.

    Raises
    ------
    InputError
        Their number does not fit, or there is nothing to tell apart.
    """
    flat = flat_labels(labels, found, where)
    kept = np.array([label is not None for label in flat])
    known = [label for label in flat if label is not None]
    unit = numbered_units(groups, found)[kept]
    if all(isinstance(label, float | np.floating) for label in known):
        return Task(np.array(known, dtype=np.float64), unit, True, ()), kept
    classes = tuple(sorted(set(known), key=str))
    if len(classes) < 2:
        raise InputError(
            f"All labels are {classes[0]!r}: there is nothing to tell apart."
            if classes
            else "There are no labels: give labels=[...], or ll.texts(texts, label=[...])."
        )
    index = {label: place for place, label in enumerate(classes)}
    return Task(np.array([index[label] for label in known]), unit, False, classes), kept


def numbered_units(groups: Sequence[Any] | None, found: Examples) -> np.ndarray:
    """``[n]``: number of the group of each example, where there are none of its text.

    Raises
    ------
    InputError
        There are not as many groups as texts.
    """
    if groups is None:
        return found.text
    if len(groups) != found.texts:
        raise InputError(
            f"There are {len(groups)} groups and {found.texts} texts: give one for each."
        )
    known: dict[Any, int] = {}
    return np.array([known.setdefault(groups[number], len(known)) for number in found.text])


def require(kind: str, control: str, measure: str, folds: int, strength: Any) -> None:
    """Refuse options that are none.

    Raises
    ------
    InputError
        Names the option and what it may be.
    """
    for name, given, known in (
        ("Kind of probe", kind, KINDS),
        ("Control", control, CONTROLS),
        ("Measure", measure, MEASURES),
    ):
        if given not in known:
            raise nearest(given, known, name)
    if folds < 3:
        raise InputError(
            f"folds is {folds}; expected a number from 3: one is judged, one chooses the layer, "
            "and the others teach."
        )
    if strength == CV:
        if measure == "mdl":
            raise InputError(
                "The online code sends labels by a probe that is agreed on before: give strength a "
                "number, or leave measure='mdl' out."
            )
    elif isinstance(strength, str) or not 0 < strength < float("inf"):
        raise InputError(f"strength is {strength!r}; expected a number above 0, or 'cv'.")
