"""What a call of ``ll.probe`` asks for, checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.options import nearest
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.probing.examples import EACH, MEAN, Where
from layerlens.analyses.probing.readers import KINDS
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

SITES = {
    "resid_post": ("embed", "post"),
    "resid_mid": ("mid",),
    "attn_out": ("attn_out",),
    "mlp_out": ("mlp_out",),
}
"""Kinds of points by the name of the site."""
SPAN = "span"
CONTROLS = ("shuffle", "types")
MEASURES = ("accuracy", "mdl")


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
        A position is none, or spans lack where they are asked for.
    """
    if position == SPAN:
        if spans is None:
            raise InputError(
                "position='span' needs spans=: for each text its first position and the one "
                "behind its last."
            )
        return [(int(start), int(stop)) for start, stop in spans]
    if position in (MEAN, EACH) or (isinstance(position, int) and not isinstance(position, bool)):
        where: Where = position
        return where
    raise InputError(
        f"position is {position!r}; expected an index, 'mean' (of all), 'each' (a label for each "
        "token), or 'span' with spans=."
    )


def task_of(
    labels: Sequence[Any], groups: Sequence[Any] | None, text: np.ndarray, where: Where
) -> tuple[Task, np.ndarray]:
    """Labels and units of examples, and which examples have a label.

    Parameters
    ----------
    labels, groups
        Of each text; of each of its tokens where every token is an example, None for none.
    text
        ``[n]``: the text of each example.

    Raises
    ------
    InputError
        Their number does not fit, or there is nothing to tell apart.
    """
    texts = int(text.max()) + 1
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != texts:
            raise InputError(f"There are {len(given)} {name} and {texts} texts: give one for each.")
    if where == EACH:
        flat = [label for own in labels for label in own]
        if len(flat) != len(text):
            raise InputError(
                f"There are {len(flat)} labels and {len(text)} tokens (one that is put in front "
                "counts): give one for each token, None for those that do not count."
            )
    else:
        flat = [labels[number] for number in text]
    kept = np.array([label is not None for label in flat])
    known = [label for label in flat if label is not None]
    unit = text if groups is None else _numbered([groups[number] for number in text])
    numbers = all(isinstance(label, float | np.floating) for label in known)
    if numbers:
        return Task(np.array(known, dtype=np.float64), unit[kept], True, ()), kept
    classes = tuple(sorted(set(known), key=str))
    if len(classes) < 2:
        raise InputError(
            f"All labels are {classes[0]!r}: there is nothing to tell apart."
            if classes
            else "There are no labels: give labels=[...], or ll.texts(texts, label=[...])."
        )
    index = {label: place for place, label in enumerate(classes)}
    return Task(np.array([index[label] for label in known]), unit[kept], False, classes), kept


def _numbered(groups: Sequence[Any]) -> np.ndarray:
    known: dict[Any, int] = {}
    return np.array([known.setdefault(group, len(known)) for group in groups])


def require(kind: str, control: str, measure: str, folds: int, strength: float) -> None:
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
    if not 0 < strength < float("inf"):
        raise InputError(f"strength is {strength}; expected a number above 0.")
