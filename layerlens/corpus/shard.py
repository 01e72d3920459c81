"""Measure one shard: all of it, or all but the texts that break the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerlens.corpus.rows import Row
from layerlens.errors import ActivationError
from layerlens.metrics.runner import run_metrics

if TYPE_CHECKING:
    from layerlens.metrics.batch import Numbered
    from layerlens.metrics.collection import MetricSet
    from layerlens.model.lensmodel import LensModel


@dataclass
class Measured:
    """What came of some rows.

    Attributes
    ----------
    metrics
        What was seen of them, and of nothing else.
    passes
        Passes that count.
    broken
        Numbers of the rows with NaN or infinity in their activations; they do not count.
    tokens
        How many tokens these have.
    reason
        What was said of the first of them.
    """

    metrics: MetricSet
    passes: int = 0
    broken: tuple[int, ...] = ()
    tokens: int = 0
    reason: str = ""

    def merge(self, other: Measured) -> None:
        """Take in what came of other rows."""
        self.metrics.merge(other.metrics)
        self.passes += other.passes
        self.broken += other.broken
        self.tokens += other.tokens
        self.reason = self.reason or other.reason


@dataclass(frozen=True)
class MeasureRows:
    """Metrics over the rows of a shard, see :func:`measure_rows`: a task of workers."""

    metrics: MetricSet
    batch_tokens: int

    def __call__(
        self,
        model: LensModel,
        rows: Sequence[Row],
        tick: Callable[[], None],
        on_pass: Callable[[int], None],
    ) -> Measured:
        """Measure the rows."""
        return measure_rows(model, rows, self.metrics, self.batch_tokens, tick, on_pass)


def measure_rows(
    model: LensModel,
    rows: Sequence[Row],
    metrics: MetricSet,
    batch_tokens: int,
    tick: Callable[[], None] = lambda: None,
    on_pass: Callable[[int], None] = lambda tokens: None,
) -> Measured:
    """Run a model over rows and let metrics made like ``metrics`` see every layer.

    Where the activations of a pass are not finite, the rows are halved until those at fault are
    alone; all others count.

    Parameters
    ----------
    metrics
        Is not changed.
    batch_tokens
        Most tokens in one pass, padding included.
    tick
        Called at each layer; may raise to stop.
    on_pass
        Called after each pass with its number of tokens.
    """
    found = Measured(metrics.empty())
    try:
        found.passes = run_metrics(
            model,
            batches(model, rows, batch_tokens),
            found.metrics,
            tick=tick,
            on_batch=lambda batch: on_pass(len(batch.every)),
        )
    except ActivationError as error:
        if len(rows) == 1:
            row = rows[0]
            return Measured(metrics.empty(), 0, (row.number,), len(row.ids), str(error))
        half = len(rows) // 2
        found = measure_rows(model, rows[:half], metrics, batch_tokens, tick)
        found.merge(measure_rows(model, rows[half:], metrics, batch_tokens, tick))
    return found


def batches(model: LensModel, rows: Sequence[Row], batch_tokens: int) -> Iterator[Numbered]:
    """Put rows of like length into passes of at most so many tokens, padding included.

    Each is made when its turn comes: the text of every token takes more than the row itself.
    """
    made: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: len(row.ids)):
        # Rows come in ascending length, so each is the longest of its batch.
        if made and (len(made[-1]) + 1) * len(row.ids) <= batch_tokens:
            made[-1].append(row)
        else:
            made.append([row])
    for batch in made:
        yield model.tokens([row.ids for row in batch]), [row.number for row in batch]
