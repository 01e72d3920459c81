"""The lenses that one call names: how each reads, at which points, and what is known of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import (
    LOGIT,
    SUBLAYER,
    Lens,
    Reader,
    SublayerReader,
    reader_of,
)
from layerlens.errors import InputError
from layerlens.model.fingerprint import fingerprint_of_arrays

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

DEFAULT_POINTS = ("embed", "mid", "post")
"""Kinds of points that a lens which reads any is asked for."""


class Given:
    """One lens, or a list of several, and the points that are read through each.

    Parameters
    ----------
    model
        Whose states are read.
    lens
        What ``reader_of`` takes, or a list of it.
    points
        Kinds or labels; None for those that every lens has a map for, and the last state.
    against
        Name of the one that the others are compared with; None for the first.

    Attributes
    ----------
    readers
        One for each lens.
    names
        What each is called, a second one of a kind with its number behind it; None where `lens`
        is no list.
    points
        As a pass reaches them.
    against
        Index of the one that the others are compared with.

    Raises
    ------
    InputError
        The list is empty, one is no lens of this model or lacks a point, or there is no such name.
    """

    def __init__(
        self,
        model: LensModel,
        lens: Lens | Sequence[Lens],
        points: str | Sequence[str] | None,
        against: str | None = None,
    ) -> None:
        several = isinstance(lens, Sequence) and not isinstance(lens, str)
        wanted: list[Any] = list(lens) if several else [lens]  # type: ignore[arg-type]
        if not wanted:
            raise InputError("lens is an empty list; expected at least one lens, such as 'logit'.")
        self.readers = [_reader(model, one) for one in wanted]
        self.names = _apart([reader.name for reader in self.readers]) if several else None
        self.points = lens_points(model, self._common(model) if points is None else points)
        for reader in self.readers:
            reader.require(self.points)
        self.against = 0 if against is None else self._named(against)

    def _named(self, against: str) -> int:
        names = self.names or []
        if against not in names:
            known = f"one of {', '.join(names)}" if names else "a list of lenses to compare"
            raise InputError(f"against is {against!r}; expected {known}.")
        return names.index(against)

    def _common(self, model: LensModel) -> Sequence[str]:
        """The points that every lens can read: those that all have, and the last state."""
        known = [set(reader.labels) for reader in self.readers if reader.labels is not None]
        if not known:
            return DEFAULT_POINTS
        return [*set.intersection(*known), f"{model.n_layers - 1}_post"]

    def cost(self, rows: int) -> tuple[int, int]:
        """Bytes above the model's own, and operations, of reading `rows` states of each point."""
        each = [reader.cost(self.points, rows) for reader in self.readers]
        return sum(size for size, _ in each), sum(operations for _, operations in each)

    def told(self) -> list[dict[str, Any]]:
        """What the result says of each: its name, and of what was fitted where it comes from."""
        names = self.names or [reader.name for reader in self.readers]
        return [
            {"name": name, **_origin(reader)}
            for name, reader in zip(names, self.readers, strict=True)
        ]

    def heldout(self) -> np.ndarray | None:
        """KL from the final answer on the texts that were set apart, ``[lens, point + 1]`` nats.

        That of the logit lens is known from the first fitted lens that was compared with it. NaN
        where there is none, and in the final row; None where nothing is known.
        """
        rows = []
        for reader in self.readers:
            measure = "kl_logit" if reader.name == LOGIT else "kl"
            known = self._measured(reader)
            rows.append([known.get(f"{measure}/{point.label}", np.nan) for point in self.points])
        table = np.array([[*row, np.nan] for row in rows], dtype=np.float32)
        return table if np.isfinite(table).any() else None

    def uniform(self) -> np.ndarray:
        """KL of a uniform guess from the final answer on the same texts, ``[lens]`` nats.

        It is the same at all points; NaN where it was not measured.
        """
        found = []
        for reader in self.readers:
            known = self._measured(reader).items()
            guess = next((kl for name, kl in known if name.startswith("kl_uniform/")), np.nan)
            found.append(guess)
        return np.array(found, dtype=np.float32)

    def _measured(self, reader: Reader) -> dict[str, float]:
        """What was measured of a lens on texts set apart; of the logit lens beside the fitted."""
        own = [] if reader.fitted is None else [reader.fitted]
        fitted = [other.fitted for other in self.readers if other.fitted is not None]
        known: dict[str, float] = {}
        for source in reversed(fitted if reader.name == LOGIT else own):
            known |= source.scores.get("test", {})
        return known


def _reader(model: LensModel, lens: Lens) -> Reader:
    """What a lens reads with; here also the one that reads sublayers."""
    if isinstance(lens, str) and lens == SUBLAYER:
        return SublayerReader(model)
    return reader_of(model, lens)


def _apart(names: Sequence[str]) -> list[str]:
    """Names of which no two are the same."""
    count: Counter[str] = Counter()
    found = []
    for name in names:
        count[name] += 1
        found.append(name if count[name] == 1 else f"{name} {count[name]}")
    return found


def _origin(reader: Reader) -> dict[str, Any]:
    """Where what was fitted comes from."""
    fitted = reader.fitted
    if fitted is None:
        return {}
    return {
        "kind": fitted.kind,
        "points": list(reader.labels or ()),
        "fingerprint": fingerprint_of_arrays(fitted.arrays.items()),
        "data": fitted.data,
        "created": fitted.created,
        "code": fitted.code,
    }
