"""Several unedited runs in one pass, each as if it had been alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.base import Base, base_sites, record_base, wanted_logits
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.record import Trace
from layerlens.run.replay import STREAM, BlockCall, watch_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_SHARED = (type(None), bool, int, float, str, torch.dtype, torch.device, type(STREAM))
"""Arguments of a block that are the same for every row of a batch."""


class _InseparableError(Exception):
    """What belongs to which text cannot be told from the arguments of a block."""


def record_bases(
    model: LensModel, texts: Sequence[Tokens], sites: Iterable[Site] = ()
) -> list[Base]:
    """Run several texts, and keep of each what :func:`layerlens.run.base.record_base` keeps.

    Texts of equal length share one pass, which reads every weight once, where it is plain which
    of the arguments of the blocks belong to which text.

    Parameters
    ----------
    texts
        One text each, without padding.
    sites
        What to keep besides the states before the blocks.

    Raises
    ------
    InputError
        If one of them holds several texts, or padding.
    """
    sites = list(sites)
    shapes = {text.ids.shape for text in texts}
    if len(texts) > 1 and len(shapes) == 1 and all(text.mask.all() for text in texts):
        try:
            return _together(model, texts, sites)
        except _InseparableError:
            pass  # seen before the first block, so that little was done in vain
    return [record_base(model, text, sites) for text in texts]


def _together(model: LensModel, texts: Sequence[Tokens], sites: Sequence[Site]) -> list[Base]:
    batch, length = len(texts), texts[0].ids.shape[1]
    forms = {tuple((name, value.shape) for name, value in text.given.items()) for text in texts}
    if batch in (length, model.n_heads) or texts[0].ids.shape[0] != 1 or len(forms) > 1:
        raise _InseparableError
    tokens = texts[0].joined(texts[1:])
    trace = Trace(model, tokens, None)
    wanted = base_sites(model, sites)
    one = partial(_row, batch=batch, length=length)
    own: list[list[BlockCall]] = [[] for _ in texts]

    def split(layer: int, state: Tensor, volatile: bool) -> None:
        for row, kept in enumerate(own):
            call = calls[layer]
            args = tuple(one(value, row) for value in call.args)
            kwargs = {name: one(value, row) for name, value in call.kwargs.items()}
            kept.append(replace(call, args=args, kwargs=kwargs))

    with ExitStack() as stack:
        calls = watch_calls(model, Gate(), stack, split)
        logits = forward(model, tokens, wanted, trace._put, logits=wanted_logits(model))
    return [_base(trace, text, row, own[row], logits) for row, text in enumerate(texts)]


def _base(
    trace: Trace, text: Tokens, row: int, calls: list[BlockCall], logits: Tensor | None
) -> Base:
    """What one row of a pass recorded."""
    alone = Trace(trace.model, text, None)
    for site in trace.sites:
        alone._put(site, trace[site][row : row + 1])
    alone.logits = None if logits is None else logits[row : row + 1]
    last = Site("resid_post", trace.model.n_layers - 1)
    return Base(text, alone, calls, alone[last][0])


def _row(value: Any, row: int, batch: int, length: int) -> Any:
    """The part of an argument that belongs to one row of the batch.

    Raises
    ------
    _InseparableError
        If it is of no shape that leaves just one meaning.
    """
    if isinstance(value, tuple | list):
        return type(value)(_row(item, row, batch, length) for item in value)
    if isinstance(value, dict):
        return {key: _row(item, row, batch, length) for key, item in value.items()}
    if isinstance(value, _SHARED):
        return value
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] == 1 or (len(value) == length and value.dim() < 3):
            return value
        if len(value) == batch:
            return value[row : row + 1]
    raise _InseparableError
