"""Lenses judged on the rows of texts: what one process, or one of several workers, does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from layerlens.analyses.lenses.fitting.documents import Seen, seen
from layerlens.analyses.lenses.fitting.judge import Judge, Tally, judge_all
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.lenses.readers import LOGIT, Lens, Reader, reader_of
from layerlens.errors import InputError
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel
    from layerlens.result.fitted import Fitted

Lenses = Lens | Sequence[Lens]


def readers_of(model: LensModel, lens: Lenses) -> dict[str, Reader]:
    """The lenses that were given, each by a name of its own; the logit lens is the first.

    Raises
    ------
    InputError
        One is no lens, or was fitted on another model.
    """
    given: list[Any] = list(lens) if isinstance(lens, list | tuple) else [lens]
    found = {LOGIT: reader_of(model)}
    for one in given:
        reader = reader_of(model, one)
        number = sum(name.split(" ")[0] == reader.name for name in found)
        if reader.fitted is not None:
            found[reader.name if not number else f"{reader.name} {number + 1}"] = reader
    return found


def points_of(
    model: LensModel, readers: dict[str, Reader], points: str | Sequence[str] | None
) -> list[Point]:
    """The points that are asked for; where none are, those that every fitted lens has a map for.

    Raises
    ------
    InputError
        A lens has no map for one, or there is none that all have.
    """
    if points is not None:
        chosen = lens_points(model, points)
        for reader in readers.values():
            reader.require(chosen)
        return chosen
    chosen = lens_points(model, ("embed", "mid", "post", "attn_out", "mlp_out"))
    for reader in readers.values():
        if reader.labels is not None:
            chosen = [point for point in chosen if point.label in reader.labels]
    if len(readers) == 1:
        chosen = lens_points(model, ("embed", "post"))
    if not chosen:
        raise InputError("There is no point that all of these lenses read: give them one by one.")
    return chosen


@dataclass
class Judged:
    """What came of some rows.

    Attributes
    ----------
    tally
        Sums over tokens for each lens and point; the control is the last lens.
    moved
        The same of the maps of one lens, each at every point; None where that is not asked for.
    lowest
        The smallest divergence of a token, nats.
    tokens
        How many counted.
    """

    tally: Tally
    moved: Tally | None
    lowest: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, lenses: int, points: int, *, transfer: bool) -> Self:
        """What nothing came of yet."""
        return cls(Tally(lenses, points), Tally(points, points) if transfer else None)

    def merge(self, other: Judged) -> None:
        """Take in what came of other rows."""
        self.tally.merge(other.tally)
        if self.moved is not None and other.moved is not None:
            self.moved.merge(other.moved)
        self.lowest = min(self.lowest, other.lowest)
        self.tokens += other.tokens


@dataclass(frozen=True)
class JudgeRows:
    """Judges lenses on rows; see `layerlens.corpus.spread`.

    Attributes
    ----------
    lenses
        Those that were fitted.
    labels
        Of the points.
    skipped, transfer, memory_limit
        As the analysis is given them.
    """

    lenses: tuple[Fitted, ...]
    labels: tuple[str, ...]
    skipped: int
    transfer: bool
    memory_limit: int

    def __call__(
        self,
        model: LensModel,
        rows: Sequence[Row],
        tick: Callable[[], None],
        on_pass: Callable[[int], None],
    ) -> Judged:
        """Judge them on some rows."""
        readers = readers_of(model, self.lenses)
        points = points_of(model, readers, self.labels)
        head = Head.of(model, self.memory_limit // 2)
        judged = Judged.empty(len(readers) + 1, len(points), transfer=self.transfer)
        for found in seen(model, rows, points, self.skipped, tick):
            judge = Judge(model, head, found.final, found.target, tick)
            lowest = judge_all(judged.tally, judge, readers, points, found)
            judged.lowest = min(judged.lowest, lowest)
            if judged.moved is not None:
                _transfer(judged.moved, judge, list(readers.values())[-1], points, found)
            judged.tokens += len(found.final)
            on_pass(len(found.final))
        return judged


def _transfer(
    tally: Tally, judge: Judge, reader: Reader, points: Sequence[Point], found: Seen
) -> None:
    """Let the map of each point read the states at every other."""
    for row, fitted_at in enumerate(points):
        for place in range(len(points)):
            measured = judge.measure(reader.decode(fitted_at, found.states[place]))
            tally.add((row, place), measured, found.text)
