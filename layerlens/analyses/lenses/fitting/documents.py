"""The texts that a lens is fitted on or judged by: their rows, and the states of their tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.corpus.rows import PIECE, Row, Rows
from layerlens.corpus.shard import batches
from layerlens.corpus.texts import Texts
from layerlens.errors import ActivationError, InputError
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

BATCH_TOKENS = 1024
"""Tokens in one pass, padding included: the states of all points of it are held at once."""


@dataclass(frozen=True)
class Seen:
    """The states of ``n`` tokens of one pass.

    Attributes
    ----------
    states
        ``[n, d_model]`` at each point, in the model's dtype.
    final
        ``[n, d_model]`` after the last block.
    token
        ``[n]`` int64 on the CPU: the tokens themselves.
    target
        ``[n]`` int64 on the CPU: the next token, -1 where there is none.
    text
        ``[n]`` int64 on the CPU: the number of its text among all.
    position
        ``[n]`` int64 on the CPU: its place in its row.
    """

    states: list[Tensor]
    final: Tensor
    token: Tensor
    target: Tensor
    text: Tensor
    position: Tensor


def rows_of(model: LensModel, texts: Tokens | Texts) -> list[Row]:
    """All rows that a model is fed at once; see :func:`read_rows`."""
    return list(read_rows(model, texts))


def read_rows(model: LensModel, texts: Tokens | Texts) -> Iterator[Row]:
    """The rows that a model is fed one after the other, each with the number of its text.

    Raises
    ------
    InputError
        For packed texts, whose rows belong to several.
    """
    if isinstance(texts, Texts):
        if texts.reading.pack:
            raise InputError(
                "Packed rows hold several texts, and what is learned is judged on texts that it "
                "was not learned from: leave pack out."
            )
        yield from Rows(texts, model, BATCH_TOKENS)
        return
    for number, (ids, mask) in enumerate(zip(texts.ids, texts.mask, strict=True)):
        yield Row(number, ids[mask].tolist())


def text_of(row: Row) -> int:
    """Number of the text that a row is, or is a piece of."""
    return row.number % PIECE


def count_kept(rows: Sequence[Row], skipped: int) -> int:
    """Tokens of some rows without the first ones of each."""
    return sum(max(0, len(row.ids) - skipped) for row in rows)


def seen(
    model: LensModel,
    rows: Sequence[Row],
    points: Sequence[Point],
    skipped: int,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Seen]:
    """Run the model over rows, some at a time, and hand on the states of their tokens.

    Parameters
    ----------
    points
        Which states.
    skipped
        How many tokens at the beginning of each row are left out.
    tick
        Called at each point; may raise to stop.

    Raises
    ------
    ActivationError
        A state holds NaN or infinity.
    """
    for tokens, numbers in batches(model, rows, BATCH_TOKENS):
        kept = tokens.mask & (tokens.position_ids >= skipped)
        if kept.any():
            states, final = _states(model, tokens, kept, points, tick)
            text = torch.tensor([number % PIECE for number in numbers])
            of = text.unsqueeze(1).expand_as(kept)[kept]
            following = _next_tokens(model, tokens)[kept]
            here = tokens.ids[kept], following, of, tokens.position_ids[kept]
            yield Seen(states, final, *here)


def _states(
    model: LensModel,
    tokens: Tokens,
    kept: Tensor,
    points: Sequence[Point],
    tick: Callable[[], None],
) -> tuple[list[Tensor], Tensor]:
    """States of the kept tokens at each point, and after the last block."""
    found: dict[Site, Tensor] = {}
    at = torch.from_numpy(np.flatnonzero(kept.numpy()))

    def see(site: Site, value: Tensor) -> None:
        tick()
        rows = value.reshape(-1, value.shape[-1])[at.to(value.device)]
        if not bool(torch.isfinite(rows).all()):
            raise ActivationError(
                f"The model's activations hold NaN or infinity at {site}: check its weights and "
                "dtype (float16 overflows where bfloat16 or float32 do not)."
            )
        found[site] = rows

    last = Site("resid_post", model.n_layers - 1)
    sites = list(dict.fromkeys([*(point.site for point in points), last]))
    forward(model, tokens, sites, see, logits=None)
    return [found[point.site] for point in points], found[last]


def _next_tokens(model: LensModel, tokens: Tokens) -> Tensor:
    """``[batch, position]``: the token that comes next, -1 where none does or none can be said."""
    found = torch.full_like(tokens.ids, -1)
    if not model.bidirectional:
        following, there = tokens.ids[:, 1:], tokens.mask[:, 1:]
        sayable = there & (following < model.d_vocab)
        found[:, :-1] = following.where(sayable, -1)
    return found
