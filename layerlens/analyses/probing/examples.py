"""What probes read: one state an example at each point, recorded in one pass over the texts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, rows_of, text_of
from layerlens.analyses.lenses.points import Point
from layerlens.corpus.shard import batches
from layerlens.errors import ActivationError, InputError
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

MEAN, EACH = "mean", "each"
Where = int | str | Sequence[tuple[int, int]]
"""A position of each text, the mean of all, each of them, or the mean from one to before another
of each text."""


@dataclass
class Examples:
    """The states of ``n`` examples at each point.

    Attributes
    ----------
    states
        For each point ``[n, d_model]`` float32; in a file where they would not fit into memory.
    text
        ``[n]``: the number of the text that each is of.
    type
        ``[n]``: the id of the token that it is read at; -1 for means.
    """

    states: list[np.ndarray]
    text: np.ndarray
    type: np.ndarray
    _folder: Any = field(default=None, repr=False)


def recorded(
    model: LensModel,
    texts: Tokens | Texts,
    points: Sequence[Point],
    where: Where,
    memory_limit: int,
    tick: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
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

    Raises
    ------
    InputError
        A text has no such position.
    ActivationError
        A state is not finite.
    """
    rows = sorted(rows_of(model, texts), key=lambda row: row.number)
    spans = [span_of(row, where) for row in rows]
    starts = np.concatenate([[0], np.cumsum([_count(span, where) for span in spans])])
    total = int(starts[-1])
    made = _made(total, points, model.d_model, memory_limit)
    places = {row.number: place for place, row in enumerate(rows)}
    done, fed = 0, sum(len(row.ids) for row in rows)
    for tokens, numbers in batches(model, rows, BATCH_TOKENS):
        chosen = [places[number] for number in numbers]
        _record(model, tokens, [(spans[place], int(starts[place])) for place in chosen],
                points, made.states, where, tick)  # fmt: skip
        done += int(tokens.mask.sum())
        progress(done, fed)
    made.text[:] = np.repeat([text_of(row) for row in rows], np.diff(starts))
    if where != MEAN and not isinstance(where, list):
        ids = [row.ids[at] for row, (start, stop) in zip(rows, spans, strict=True)
               for at in range(start, stop)]  # fmt: skip
        made.type[:] = ids
    return made


def _made(total: int, points: Sequence[Point], width: int, limit: int) -> Examples:
    size = 4 * total * width * len(points)
    text, types = np.full(total, -1), np.full(total, -1)
    if size <= limit:
        return Examples([np.empty((total, width), np.float32) for _ in points], text, types)
    folder = tempfile.TemporaryDirectory(prefix="layerlens-")
    files = [Path(folder.name) / point.label for point in points]
    shape = (total, width)
    states: list[np.ndarray] = [np.memmap(file, np.float32, "w+", shape=shape) for file in files]
    return Examples(states, text, types, folder)


def span_of(row: Row, where: Where) -> tuple[int, int]:
    """From which position of a row on, and before which one."""
    length = len(row.ids)
    if where in (MEAN, EACH):
        return 0, length
    if isinstance(where, int):
        start, stop = where % length if -length <= where < length else length, 0
        stop = start + 1
    else:
        assert not isinstance(where, str)  # the two words were looked at above
        start, stop = where[text_of(row)]
    if not 0 <= start < stop <= length:
        raise InputError(
            f"Text {text_of(row)} has {length} tokens, and none at {where!r:.40}: choose a "
            "position or a span that every text has."
        )
    return start, stop


def _count(span: tuple[int, int], where: Where) -> int:
    return span[1] - span[0] if where == EACH else 1


def _record(
    model: LensModel,
    tokens: Tokens,
    wanted: Sequence[tuple[tuple[int, int], int]],
    points: Sequence[Point],
    states: Sequence[np.ndarray],
    where: Where,
    tick: Callable[[], None],
) -> None:
    """Keep the states of one pass: of each row its span, and where its examples begin."""
    first = [int(np.flatnonzero(mask)[0]) for mask in tokens.mask.numpy()]
    at_site = {point.site: place for place, point in enumerate(points)}

    def see(site: Any, value: Tensor) -> None:
        tick()
        if not bool(torch.isfinite(value[tokens.mask.to(value.device)]).all()):
            raise ActivationError(
                f"The model's activations hold NaN or infinity at {site}: check its weights and "
                "dtype (float16 overflows where bfloat16 or float32 do not)."
            )
        kept = states[at_site[site]]
        for row, ((start, stop), begin) in enumerate(wanted):
            own = value[row, first[row] + start : first[row] + stop].float()
            found = own if where == EACH else own.mean(0, keepdim=True)
            kept[begin : begin + len(found)] = found.cpu().numpy()

    forward(model, tokens, list(at_site), see, logits=None)
