"""Edges between parts: run a model so that one part's change reaches one place only.

Four runs define an edge (Wang et al. 2022; Goldowsky-Dill et al. 2023). Two are plain: the run
that is changed, and the one the sender's activation is taken from. A sender is a head, or all
that an attention or an MLP adds to the stream. In the third run every head is held at what it was
in the first, except for the sender, so that only the residual stream and the MLPs (unless they
are held too) carry the change on; what the receiver would read is kept. In the fourth, nothing is
held, and the receiver reads that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layerlens.analyses.contract.options import nearest
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.model.sites import Site
from layerlens.run.base import Base, record_base
from layerlens.run.cell import Cell
from layerlens.run.changes import Change
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.analyses.texts.text_pair import Pair
    from layerlens.model.anatomy import BlockAnatomy
    from layerlens.model.lensmodel import LensModel

WHOLE = ("attn_out", "mlp_out")
"""Senders that are not heads: what a whole sublayer adds to the stream."""

BATCH_TOKENS = 1024
"""Tokens that one batched pass may hold."""


def parse_senders(model: LensModel, sender: Any) -> list[Site]:
    """The places that send: heads, each a ``z`` with a head, or outputs of sublayers.

    Parameters
    ----------
    sender
        ``(layer, head)`` or ``(layer, "attn_out" | "mlp_out")``, a list of these; one of the two
        words for that sublayer of every layer; None for all heads.

    Raises
    ------
    InputError
        If a head or sublayer does not exist, or both kinds are named.
    """
    blocks = model.anatomy.blocks
    if sender is None:
        found = [
            Site("z", layer, head)
            for layer, block in enumerate(blocks)
            for head in range(block.n_heads)
        ]
        if not found:
            model.anatomy.tap(Site("z", 0))  # raises, and says why
        return found
    if isinstance(sender, str):
        if sender not in WHOLE:
            raise nearest(sender, WHOLE, "sender:")
        return [Site(sender, layer) for layer, block in enumerate(blocks) if sender in block.taps]
    given = [sender] if isinstance(sender, tuple) else list(sender)
    found = list(dict.fromkeys(_sender(model, place) for place in given))
    if len({site.kind == "z" for site in found}) > 1:
        raise InputError(
            "sender names heads and whole sublayers: ask for them in two calls, each has a grid."
        )
    return found


def _sender(model: LensModel, place: Any) -> Site:
    if isinstance(place, tuple | list) and len(place) == 2 and isinstance(place[1], str):
        layer = model.layers(whole(place[0], "The layer of a sender"))[0]
        if place[1] not in WHOLE or place[1] not in model.anatomy.blocks[layer].taps:
            known = [kind for kind in WHOLE if kind in model.anatomy.blocks[layer].taps]
            raise nearest(place[1], known, f"Sender in layer {layer}:")
        return Site(place[1], layer)
    layer, head = _head(model, place, "sender")
    return Site("z", layer, head)


def parse_receivers(model: LensModel, receiver: Any) -> list[Site]:
    """The sites that receive; none of them for ``"logits"``.

    Parameters
    ----------
    receiver
        ``"logits"``, ``(layer, head, "q" | "k" | "v")``, or a list of these triples. Heads of k
        and v are key-value heads.

    Raises
    ------
    InputError
        If it is none of these, or does not exist.
    """
    if isinstance(receiver, str) and receiver == "logits":
        return []
    given = [receiver] if isinstance(receiver, tuple) else list(receiver)
    if not given or isinstance(receiver, str):
        raise InputError(f"receiver is 'logits' or (layer, head, 'q' | 'k' | 'v'), not {receiver}.")
    sites = []
    for place in given:
        if not isinstance(place, tuple) or len(place) != 3 or place[2] not in ("q", "k", "v"):
            raise InputError(
                f"A receiver is (layer, head, 'q' | 'k' | 'v'), not {place!r}; 'logits' stands "
                "alone, because a run has only one end."
            )
        layer, head = _head(model, place[:2], "receiver", kv=place[2] != "q")
        sites.append(Site(given_site(model.anatomy.blocks[layer], place[2]), layer, head))
    return sites


def given_site(block: BlockAnatomy, kind: str) -> str:
    """The site of a head's q, k or v: before rotation, where it is known there."""
    return f"rot_{kind}" if block.watched(f"rot_{kind}") and kind not in block.taps else kind


def _head(model: LensModel, place: Any, role: str, *, kv: bool = False) -> tuple[int, int]:
    if not isinstance(place, (tuple, list)) or len(place) != 2:
        more = " or (layer, 'attn_out' | 'mlp_out')" if role == "sender" else ""
        raise InputError(f"A {role} is (layer, head){more}, not {place!r}.")
    layer, head = (whole(number, f"The layer or head of a {role}") for number in place)
    layer += model.n_layers if layer < 0 else 0
    if not 0 <= layer < model.n_layers:
        raise InputError(
            f"Layer {place[0]} of the {role} does not exist: there are {model.n_layers} layers."
        )
    block = model.anatomy.blocks[layer]
    count = block.n_kv_heads if kv else block.n_heads
    if not 0 <= head < count:
        kind = "key-value heads" if kv else "heads"
        raise InputError(
            f"Head {head} of the {role} does not exist: layer {layer} has {count} {kind}."
        )
    return layer, head


@dataclass(frozen=True)
class Edges:
    """The two plain runs of a pair, and edges between them.

    Attributes
    ----------
    base, source
        The run that is changed, and the one whose activations the senders get.
    positions
        Where senders are changed (columns of the changed run), and from where in the other run.
    """

    model: LensModel
    pair: Pair
    receivers: tuple[Site, ...]
    freeze_mlps: bool
    base: Base
    source: Base
    positions: tuple[tuple[int, int], ...]

    @classmethod
    def make(
        cls,
        model: LensModel,
        pair: Pair,
        receivers: Sequence[Site],
        senders: Sequence[Site],
        *,
        freeze_mlps: bool,
        where: Any,
    ) -> Edges:
        """Run both texts and keep what edges from these senders need."""
        layers, blocks = range(model.n_layers), model.anatomy.blocks
        heads = [Site("z", layer) for layer in layers if blocks[layer].n_heads]
        # What else moves something between positions (a recurrence) is held like a head.
        mixers = [
            Site("attn_out", layer)
            for layer in layers
            if not blocks[layer].n_heads and blocks[layer].mixer is not None
        ]
        whole = [i for i in layers if blocks[i].layout != "single" or "mlp_out" in blocks[i].taps]
        mlps = [Site("mlp_out", layer) for layer in whole] if freeze_mlps else []
        chosen = model.positions(pair.base, where)
        linked = [(here, pair.partner[here]) for here in chosen]
        places = tuple((here, there) for here, there in linked if there is not None)
        if not places:
            raise InputError(f"No position of {where!r} has a partner in the other text.")
        sent = list(dict.fromkeys(site.whole for site in senders))
        base = record_base(model, pair.base, [*heads, *mixers, *mlps, *receivers, *sent])
        source = record_base(model, pair.source, sent)
        return cls(model, pair, tuple(receivers), freeze_mlps, base, source, places)

    @property
    def length(self) -> int:
        """Positions of the changed run."""
        return int(self.pair.base.ids.shape[1])

    @property
    def end(self) -> int:
        """First layer whose heads cannot reach any receiver."""
        if not self.receivers:
            return self.model.n_layers
        return max(site.block for site in self.receivers)

    def sent(self, sender: Site, *, own: bool = False, row: int | None = None) -> Change:
        """The sender at its value in the other run, or at its own."""
        here, there = zip(*self.positions, strict=True)
        run, columns = (self.base, here) if own else (self.source, there)
        value = _at(run, sender, list(columns))
        return Change(sender, "set", value, positions=here, row=row)

    def moved(self, sender: Site) -> Tensor:
        """How far the sender is in the other run from its own value, ``[position, width]``."""
        here, there = zip(*self.positions, strict=True)
        return _at(self.source, sender, list(there)) - _at(self.base, sender, list(here))

    def held(self, after: int, columns: Sequence[int]) -> list[Change]:
        """Every head above a layer as in the changed run; the MLPs from that layer on, too."""
        columns = tuple(columns)
        later = range(after + 1, self.model.n_layers)
        sites = [Site(kind, layer) for layer in later for kind in ("z", "attn_out")]
        if self.freeze_mlps:
            sites += [Site("mlp_out", layer) for layer in range(max(after, 0), self.model.n_layers)]
        present = set(self.base.trace.sites)
        return [
            Change(site, "set", self.base.trace[site][0, list(columns)], positions=columns)
            for site in sites
            if site in present
        ]

    def cells(self, senders: Sequence[Site], *, own: bool = False) -> list[Cell]:
        """The run that is measured for each sender.

        With ``own`` the senders keep their own values, so that nothing changes.
        """
        if self.receivers:
            return list(self._carried(senders, own))
        return [self._straight(place, own) for place in senders]

    def _straight(self, sender: Site, own: bool) -> Cell:
        """The third run, for the logits: its end is what is measured.

        Heads are held, so nothing moves between positions: only the one that is measured counts.
        """
        last = self.base.at
        partner = dict(self.positions).get(last)
        run, place = (self.base, last) if own or partner is None else (self.source, partner)
        change = Change(sender, "set", _at(run, sender, place), positions=(last,))
        # A sender that is held as well (a frozen MLP) is changed after that.
        return Cell((*self.held(sender.block, [last]), change))

    def _carried(self, senders: Sequence[Site], own: bool) -> Iterator[Cell]:
        """The fourth run of each sender; makes the third ones in batches."""
        size = max(1, BATCH_TOKENS // self.length)
        for start in range(0, len(senders), size):
            batch = senders[start : start + size]
            read = self._third(batch, own)
            for row in range(len(batch)):
                yield Cell(
                    tuple(
                        Change(site, "set", value[row], positions=tuple(range(self.length)))
                        for site, value in read.items()
                    )
                )

    def _third(self, senders: Sequence[Site], own: bool) -> dict[Site, Tensor]:
        """What each receiver would read: ``[sender, position, width]``."""
        # Below its sender a row is as in the changed run, so holding it there changes nothing.
        lowest = min(sender.block for sender in senders)
        held = self.held(lowest - 1, range(self.length))
        changes = [change for change in held if change.site.block < self.end]
        changes += [self.sent(sender, own=own, row=row) for row, sender in enumerate(senders)]
        read: dict[Site, Tensor] = {}

        def keep(site: Site, value: Tensor) -> None:
            read[site] = value.clone()
            if len(read) == len(self.receivers):
                raise _Enough

        try:
            tokens = self.pair.base.repeated(len(senders))
            forward(self.model, tokens, self.receivers, keep, logits=None, changes=changes)
        except _Enough:
            pass
        return read

    def plainly(self, *senders: Site) -> Tensor:
        """State ``[d_model]`` at the end of the fourth run, by whole passes, without shortcuts.

        Several senders are changed together. ``resid_pre`` of the first layer is what the tokens
        themselves send.
        """
        columns = range(self.length)
        after = min(-1 if site.kind == "resid_pre" else site.block for site in senders)
        changes = [*self.held(after, columns), *map(self.sent, senders)]
        last = Site("resid_post", self.model.n_layers - 1)
        found: dict[Site, Tensor] = {}
        self._pass(changes, self.receivers or (last,), found)
        if self.receivers:
            changes = [
                Change(site, "set", found[site][0], positions=tuple(columns))
                for site in self.receivers
            ]
            self._pass(changes, (last,), found)
        return found[last][0, self.base.at]

    def _pass(
        self, changes: Sequence[Change], sites: Sequence[Site], found: dict[Site, Tensor]
    ) -> None:
        def keep(site: Site, value: Tensor) -> None:
            found[site] = value.clone()

        forward(self.model, self.pair.base, sites, keep, logits=None, changes=changes)


def _at(run: Base, sender: Site, columns: int | list[int]) -> Tensor:
    """A sender's own value in a run at one position or several."""
    value = run.trace[sender.whole][0, columns]
    return value if sender.head is None else value[..., sender.head, :]


class _Enough(Exception):  # noqa: N818 - no error: ends a pass that has shown what it was run for
    """What was wanted of a pass has been read."""
