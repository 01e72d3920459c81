"""One clean pass of a batch, from whose states disturbed runs go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError, LayerLensError
from layerlens.metrics.batch import GROUPS, Batch, accumulate, split
from layerlens.metrics.means import bootstrap, ratio
from layerlens.model.sites import Site
from layerlens.run.block_rows import RowCalls
from layerlens.run.forward import forward
from layerlens.run.replay import capture_calls
from layerlens.run.skip import mute, skip_hooks

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

OUTPUT_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Nats, and shares of a state's size, by which two ways of one computation may differ; other
dtypes have half precision's."""
HALF_TOLERANCE = 0.1


class Pass:
    """What one pass of a batch leaves for runs that begin at its states.

    Attributes
    ----------
    batch
        The texts, and which of their tokens count.
    rows
        The blocks, for any number of copies of these texts; where they were asked for.
    states
        ``[batch, position, d_model]`` each: before every block, and after the last.
    """

    def __init__(
        self, model: LensModel, batch: Batch, tick: Callable[[], None], *, copies: bool = False
    ) -> None:
        self._model = model
        self._tick = tick
        self.batch = batch
        self.states: list[Tensor] = []

        def see(layer: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self.rows = RowCalls(model, batch.tokens, see) if copies else None
        if self.rows is None:
            self.calls, _ = capture_calls(model, batch.tokens, see, logits=None)
        else:
            self.calls = self.rows.calls
        if not bool(batch.every.take(self.states[-1]).isfinite().all()):
            raise LayerLensError(
                "The model's activations hold NaN or infinity: check its weights and dtype "
                "(float16 overflows where bfloat16 or float32 do not)."
            )

    def run(self, state: Tensor, layers: Sequence[int]) -> Tensor:
        """The state after these blocks, from ``state`` on."""
        for layer in layers:
            self._tick()
            state = self.calls[layer](state)
        return state

    def without(
        self, layers: Sequence[int] = (), sublayers: Sequence[tuple[int, str]] = ()
    ) -> Tensor:
        """The last state of a pass of the whole model with hooks that leave something out.

        Parameters
        ----------
        layers
            Blocks that give what they are given.
        sublayers
            Layer and part (``attn`` or ``mlp``) of those that add nothing.
        """
        texts, length = self.batch.tokens.ids.shape
        final: list[Tensor] = []
        with ExitStack() as stack:
            skip_hooks(self._model, layers, "block", tuple(range(texts * length)), stack)
            for layer, part in sublayers:
                mute(self._model, layer, part, tuple(range(length)), texts, stack)
            last = Site("resid_post", self._model.n_layers - 1)
            forward(
                self._model,
                self.batch.tokens,
                [last],
                lambda _, state: final.append(state.clone()),
                logits=None,
            )
        return final[0]

    def taken(self, state: Tensor) -> Tensor:
        """Rows of the tokens that count, ``[n, d_model]``."""
        return self.batch.kept.take(state)


def passes(
    model: LensModel,
    tokens: Tokens,
    skip_first: bool | int,
    batch_size: int | None,
    tick: Callable[[], None],
    *,
    copies: bool = False,
) -> Iterator[Pass]:
    """A clean pass of each batch, one after the other; with ``copies`` their ``rows``, too."""
    for part, numbers in split(tokens, batch_size):
        yield Pass(model, Batch(part, numbers, int(skip_first)), tick, copies=copies)


def require_tokens(tokens: Tokens, skip_first: bool | int) -> None:
    """Raise InputError where no token counts."""
    if int(skip_first) < 0 or int(skip_first) >= max(tokens.lengths):
        raise InputError(
            f"No token counts: the longest text has {max(tokens.lengths)} and skip_first is "
            f"{skip_first}. Give longer texts, or skip_first=False."
        )


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows ``[n, width]``: ``[n]`` float64, NaN where one of them is zero."""
    a, b = a.cpu().double(), b.cpu().double()
    found: Tensor = torch.linalg.vecdot(a, b) / (a.norm(dim=-1) * b.norm(dim=-1))
    return found.clamp(-1, 1)


def tolerance(model: LensModel) -> float:
    """By how much two ways of one computation may differ in this model's dtype."""
    return OUTPUT_TOLERANCE.get(model.dtype, HALF_TOLERANCE)


class TokenMeans:
    """Means over the tokens of all texts, one a cell, with intervals over texts.

    Parameters
    ----------
    shape
        Of the cells.
    """

    def __init__(self, *shape: int) -> None:
        self.arrays = {name: np.zeros((GROUPS, *shape)) for name in ("sum", "count")}

    def add(self, cell: tuple[int, ...], values: Tensor, batch: Batch) -> None:
        """Count one number [n] for each kept token; NaN does not count."""
        values = values.detach().to("cpu", torch.float64)
        known = values.isfinite()
        sums = batch.kept.by_text(values.where(known, 0.0))
        accumulate(self.arrays["sum"], batch.groups, cell, sums)
        accumulate(self.arrays["count"], batch.groups, cell, batch.kept.by_text(known.double()))

    def add_texts(self, cell: tuple[int, ...], values: Tensor, batch: Batch) -> None:
        """Count one number for each text, ``[batch]``, so that the mean is one over texts."""
        accumulate(self.arrays["sum"], batch.groups, cell, values)
        accumulate(self.arrays["count"], batch.groups, cell, torch.ones_like(values))

    def add_number(self, cell: tuple[int, ...], value: float, text: int) -> None:
        """Count one number of a text (or of what else has this number); NaN does not count."""
        if np.isfinite(value):
            self.arrays["sum"][(text % GROUPS, *cell)] += value
            self.arrays["count"][(text % GROUPS, *cell)] += 1

    def mean(self, *cell: int) -> np.ndarray:
        """The means so far, of all cells or of those that begin so; NaN where nothing came."""
        at: tuple[int | slice, ...] = (slice(None), *cell)
        return ratio({name: array[at].sum(0) for name, array in self.arrays.items()})

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % intervals over texts; NaN with a single text."""
        return bootstrap(ratio, self.arrays)
