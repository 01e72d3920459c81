"""What probes read: one state an example at each point, recorded in one pass over the texts."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, read_rows, text_of
from layerlens.analyses.lenses.points import Point
from layerlens.analyses.probing.states import States
from layerlens.corpus.rows import SHARD_BATCHES, shards
from layerlens.corpus.shard import batches
from layerlens.corpus.spread import Spread, Workers
from layerlens.errors import ActivationError, InputError
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MEAN, EACH = "mean", "each"
Span = tuple[int, int]
"""First position, and the one behind the last."""
Pair = tuple[Span, Span]
Where = int | str | Sequence[Span] | Sequence[Sequence[Pair]]
"""A position of each text, the mean of all, each of them; or of each text the mean over a span, or
some pairs of spans, whose means are put one behind the other."""


@dataclass
class Examples:
    """The states of ``n`` examples at each point, in the order in which they are read.

    Attributes
    ----------
    states
        For each point ``[n, width]`` float32; `width` is that of a state, for pairs of two.
    text
        ``[n]``: the number of the text that each is of.
    type
        ``[n]``: the id of the token that it is read at; -1 where that is not one.
    texts
        How many texts there are, those without an example included.
    """

    states: States
    text: np.ndarray
    type: np.ndarray
    texts: int


def recorded(
    model: LensModel,
    texts: Tokens | Texts,
    points: Sequence[Point],
    where: Where,
    memory_limit: int,
    tick: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    workers: Workers = None,
) -> Examples:
    """Run the model over texts once and keep what is asked of each.

    Parameters
    ----------
    points
        Which states.
    where
        At which positions; see `Where`.
    memory_limit
        Bytes; what is larger goes to a file that is deleted with the examples.
    tick, progress
        Called at each point, and with tokens done and in all.
    workers
        Who runs the model: this process, or Ray workers, which send the states here.

    Raises
    ------
    InputError
        A text has no such position.
    ActivationError
        A state is not finite.
    """
    text, kind, count, fed = _counted(model, texts, where)
    states = States(len(points), len(text), spans_each(where) * model.d_model, memory_limit)
    spread = Spread(model, ReadExamples(tuple(points), where), workers)
    start = done = 0

    def on_pass(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(done, fed)

    cut = shards(read_rows(model, texts), BATCH_TOKENS * (1 if where == EACH else SHARD_BATCHES))
    for shard, (own, found) in spread.run(cut, tick, on_pass):
        for place, examples, values in found:
            states.write(place, start + examples, values)
        start += own
        if workers is not None:
            on_pass(shard.tokens)
    return Examples(states, text, kind, count)


def _counted(
    model: LensModel, texts: Tokens | Texts, where: Where
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Text and type of each example, ``[n]`` each; how many texts and tokens there are.

    Raises
    ------
    InputError
        A text has no such position, or there are more or fewer spans than texts.
    """
    text, kind, fed, count = array("q"), array("q"), 0, 0
    spans = None if isinstance(where, int | str) else len(where)
    for row in read_rows(model, texts):
        number = text_of(row)
        count, fed = max(count, number + 1), fed + len(row.ids)
        if spans is None or number < spans:
            own = examples_of(row, where)
            text.extend([number] * len(own))
            kind.extend(_type(row, one) for one in own)
    if spans not in (None, count):
        raise InputError(f"There are {spans} spans and {count} texts: give one for each.")
    return np.array(text, dtype=np.int64), np.array(kind, dtype=np.int64), count, fed


def spans_each(where: Where) -> int:
    """How many spans an example has."""
    if isinstance(where, int | str):
        return 1
    return next((1 if isinstance(own[0], int) else 2 for own in where if own), 1)


def numbers_each(rows: Sequence[Row], where: Where, width: int) -> int:
    """How many numbers all examples hold at one point, whose states have `width`."""
    return sum(len(examples_of(row, where)) for row in rows) * spans_each(where) * width


def examples_of(row: Row, where: Where) -> list[tuple[Span, ...]]:
    """The examples of a row, each by its spans.

    Raises
    ------
    InputError
        A row has no such position.
    """
    length = len(row.ids)
    if where == EACH:
        return [((at, at + 1),) for at in range(length)]
    found: list[tuple[Span, ...]]
    if where == MEAN:
        found = [((0, length),)]
    elif isinstance(where, int):
        at = where % length if -length <= where < length else length
        found = [((at, at + 1),)]
    else:
        assert not isinstance(where, str)  # the two words were looked at above
        own: Any = where[text_of(row)]
        found = [(own,)] if spans_each(where) == 1 else list(own)
    for start, stop in (span for one in found for span in one):
        if not 0 <= start < stop <= length:
            asked = where if isinstance(where, int) else (start, stop)
            raise InputError(
                f"Text {text_of(row)} has {length} tokens, and none at {asked}: choose a "
                "position or a span that every text has."
            )
    return found


def _type(row: Row, example: tuple[Span, ...]) -> int:
    """The token of an example that is read at one."""
    start, stop = example[0]
    return row.ids[start] if len(example) == 1 and stop == start + 1 else -1


Part = tuple[int, np.ndarray, np.ndarray]
"""A point, the numbers ``[k]`` of some examples, and their states ``[k, width]`` there."""


@dataclass(frozen=True)
class ReadExamples:
    """Reads the states of the examples of some rows; see `layerlens.corpus.spread`.

    Attributes
    ----------
    points, where
        As :func:`recorded` is given them.
    """

    points: tuple[Point, ...]
    where: Where

    def __call__(
        self,
        model: LensModel,
        rows: Sequence[Row],
        tick: Callable[[], None],
        on_pass: Callable[[int], None],
    ) -> tuple[int, list[Part]]:
        """How many examples these rows have, counted from 0, and their states pass by pass."""
        wanted = [examples_of(row, self.where) for row in rows]
        counts = np.array([len(own) for own in wanted])
        starts = np.cumsum(counts) - counts
        places = {row.number: place for place, row in enumerate(rows)}
        found: list[Part] = []
        for tokens, numbers in batches(model, rows, BATCH_TOKENS):
            chosen = [places[number] for number in numbers]
            own = [np.arange(counts[place]) + starts[place] for place in chosen]
            asked = [wanted[place] for place in chosen]
            found += self._pass(model, tokens, asked, np.concatenate(own), tick)
            on_pass(int(tokens.mask.sum()))
        return int(counts.sum()), found

    def _pass(
        self,
        model: LensModel,
        tokens: Tokens,
        wanted: Sequence[Sequence[tuple[Span, ...]]],
        numbers: np.ndarray,
        tick: Callable[[], None],
    ) -> list[Part]:
        """States of one pass: those that are wanted of each row, under their numbers."""
        first = [int(np.flatnonzero(mask)[0]) for mask in tokens.mask.numpy()]
        spans = [
            (row, first[row] + start, first[row] + stop)
            for row, own in enumerate(wanted)
            for one in own
            for start, stop in one
        ]
        at_site = {point.site: place for place, point in enumerate(self.points)}
        found: list[Part] = []

        def see(site: Any, value: Tensor) -> None:
            tick()
            if not bool(torch.isfinite(value[tokens.mask.to(value.device)]).all()):
                raise ActivationError(
                    f"The model's activations hold NaN or infinity at {site}: check its weights "
                    "and dtype (float16 overflows where bfloat16 or float32 do not)."
                )
            own = means(value, spans).reshape(len(numbers), -1)
            found.append((at_site[site], numbers, own))

        if spans:
            forward(model, tokens, list(at_site), see, logits=None)
        return found


def means(value: Tensor, spans: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """``[span, d]`` float32: mean of ``value [row, position, d]`` over spans of its rows."""
    rows, starts, stops = torch.tensor(spans).T.to(value.device)
    if bool((stops == starts + 1).all()):
        return value[rows, starts].float().cpu().numpy()
    own = [value[row, start:stop].float().mean(0) for row, start, stop in spans]
    return torch.stack(own).cpu().numpy()
