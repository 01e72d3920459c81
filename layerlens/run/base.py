"""The unedited run that a sweep starts from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.model.text import Tokens
from layerlens.run.answer_place import answer_place
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.record import Trace
from layerlens.run.replay import BlockCall, watch_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class Base:
    """One recorded run.

    Attributes
    ----------
    tokens
        One text without padding.
    trace
        ``resid_pre`` of every layer; where the attention interface shows them, the keys that
        scores are made of (``rot_k`` in rotary families, else ``k``) and ``v``; and the sites
        that were asked for.
    calls
        How the model called each block.
    last
        State after the last block, ``[position, d_model]``.
    changes
        Edits of this run itself, which every cell keeps.
    asked
        Position whose prediction is measured; None: where the model answers the text.
    """

    tokens: Tokens
    trace: Trace
    calls: list[BlockCall]
    last: Tensor
    changes: tuple[Change, ...] = ()
    asked: int | None = None

    @cached_property
    def at(self) -> int:
        """Position whose prediction is measured, see :func:`answer_place`.

        Raises
        ------
        InputError
            If a model that reads in both directions has no one mask token to answer at.
        """
        return answer_place(self.trace.model, self.tokens) if self.asked is None else self.asked

    @property
    def final(self) -> Tensor:
        """State after the last block at the position that is measured, ``[d_model]``."""
        return self.last[self.at]

    @property
    def logits(self) -> Tensor | None:
        """The model's own there, ``[vocabulary]`` float32; None without a head."""
        own = self.trace.logits
        head = self.trace.model.anatomy.head
        if own is not None and head is not None and head.pool is not None:
            return own[0, 0].float()
        # Counted from the end, so that it does not matter whether earlier ones were computed.
        return None if own is None else own[0, self.at - self.length].float()

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.tokens.ids.shape[1]

    def state(self, layer: int) -> Tensor:
        """State before a block, ``[position, d_model]``; after the last one for ``n_layers``."""
        if layer == self.trace.model.n_layers:
            return self.last
        return self.trace[Site("resid_pre", layer)][0]


def record_base(
    model: LensModel,
    tokens: Tokens,
    sites: Iterable[Site] = (),
    changes: Sequence[Change] = (),
    asked: int | None = None,
) -> Base:
    """Run one text once and keep what a sweep needs of it.

    Parameters
    ----------
    tokens
        One text without padding.
    sites
        What to keep besides the states before the blocks.
    changes
        Edits of this run itself: the sweep's cells are then compared with the edited run.
    asked
        Position whose prediction is measured; None: where the model answers the text.

    Raises
    ------
    InputError
        If there are several texts.
    """
    if tokens.ids.shape[0] != 1 or not tokens.mask.all():
        raise InputError("A sweep starts from one text without padding: give the texts one by one.")
    wanted = base_sites(model, sites)
    trace = Trace(model, tokens, None)
    with ExitStack() as stack:
        calls = watch_calls(model, Gate(), stack)
        trace.logits = forward(
            model, tokens, wanted, trace._put, changes=changes, logits=wanted_logits(model)
        )
    last = Site("resid_post", model.n_layers - 1)
    return Base(tokens, trace, calls, trace[last][0], tuple(changes), asked)


def wanted_logits(model: LensModel) -> Literal["all", "last"]:
    """Which logits hold a text's answer."""
    return "all" if model.bidirectional else "last"


def base_sites(model: LensModel, sites: Iterable[Site]) -> list[Site]:
    """What is recorded of a run that cells start from, besides the sites asked for."""
    wanted = [Site("resid_pre", layer) for layer in range(model.n_layers)]
    wanted += [
        Site(kind, layer)
        for layer, block in enumerate(model.anatomy.blocks)
        for kind in (block.scored[1], "v")
        if block.attention == "interface"
    ]
    last = Site("resid_post", model.n_layers - 1)
    return list(dict.fromkeys((*wanted, *sites, last)))
