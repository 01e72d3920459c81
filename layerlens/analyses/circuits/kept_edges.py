"""Runs of a model in which only the edges of a graph carry what they carry in the run itself.

Every part reads a stream of its own: the sum of what each earlier part sends, from this run where
the edge between them is in the graph, and from elsewhere (the other text, or zeros) where it is
not. So a layer is called once for each of its heads, with that head's input, and once more for its
MLP; what a part sends is what its output changes with all other parts of the layer held as they
were. All edges at once, as graphs are tried in Conmy et al. (2023), Towards Automated Circuit
Discovery for Mechanistic Interpretability, and Hanna et al. (2024), Have Faith in Faithfulness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.circuits.edge_nodes import Part
from layerlens.model.sites import Site
from layerlens.run.block_rows import RowCalls
from layerlens.run.changes import Change
from layerlens.run.forward import forward, read_taps
from layerlens.run.gate import Gate
from layerlens.run.hooks import install, plain_rows

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric
    from layerlens.analyses.tracing.head_edges import Edges
    from layerlens.model.lensmodel import LensModel

BYTES = 64_000_000
"""What graphs that are run together may hold of all parts' outputs; one graph always runs."""


def can_keep(model: LensModel) -> bool:
    """Whether all that moves something between positions is a part: there is no recurrence."""
    return all(block.n_heads or block.mixer is None for block in model.anatomy.blocks)


def graph_passes(model: LensModel) -> float:
    """Passes over the text that one graph takes: a call of a layer for each part of it."""
    blocks = model.anatomy.blocks
    return sum((block.n_kv_heads or 0) + 1 for block in blocks) / len(blocks)


class KeptEdges:
    """The metric with all edges but some taken from elsewhere.

    Parameters
    ----------
    edges
        The two runs; all parts' sites are kept of them.
    parts
        From the tokens up to the answer, those of a layer together, its MLP last.
    metric
        What is measured.
    zero
        Whether edges that are not kept carry nothing, and not what they carry in the other text.

    Attributes
    ----------
    passes
        Passes used so far.
    """

    def __init__(
        self,
        edges: Edges,
        parts: Sequence[Part],
        metric: Metric,
        tick: Callable[[], None],
        *,
        zero: bool = False,
    ) -> None:
        self.edges, self.metric, self.tick, self.zero = edges, metric, tick, zero
        self.model: LensModel = edges.model
        self.parts, self.senders = list(parts), [part for part in parts if part.sends]
        self._rows = RowCalls(self.model, edges.base.tokens)
        self._own = self._outputs()
        self.passes = 4.0  # twice the rows in one of those three, and the outputs
        shape = (len(self.senders), edges.length, self.model.d_model)
        self._other = torch.zeros(shape, device=self.model.device)
        for layer in range(-1, self.model.n_layers):
            self._elsewhere(layer)

    def values(self, graphs: np.ndarray) -> np.ndarray:
        """The metric of each graph, float64 ``[graph]``.

        Parameters
        ----------
        graphs
            bool ``[graph, sender, receiver]``: which edges are kept; both axes are all parts.
        """
        size = max(1, BYTES // (4 * self._other.numel()))
        found = []
        for start in range(0, len(graphs), size):
            kept = torch.from_numpy(graphs[start : start + size]).to(self.model.device)
            found += self._run(kept.float()).tolist()
        return np.array(found)

    def _outputs(self) -> dict[Site, Tensor]:
        """What each sublayer adds in the run as it is, ``[position, d_model]``."""
        found: dict[Site, Tensor] = {}
        sites = [
            Site(kind, layer)
            for layer, block in enumerate(self.model.anatomy.blocks)
            for kind in ("attn_out", "mlp_out")
            if kind in block.taps
        ]
        forward(
            self.model, self.edges.base.tokens, sites,
            lambda site, value: found.__setitem__(site, value[0].clone()), logits=None,
        )  # fmt: skip
        return found

    def _layer(self, layer: int) -> tuple[list[int], int | None]:
        """The numbers of a layer's heads, and that of its MLP."""
        own = [i for i, part in enumerate(self.senders) if part.layer == layer]
        mlp = [i for i in own if self.senders[i].is_mlp]
        return [i for i in own if i not in mlp], mlp[0] if mlp else None

    def _elsewhere(self, layer: int) -> None:
        """What parts of a layer send where they are not kept, less what they send in the run."""
        heads, mlp = self._layer(layer)
        if layer < 0 or mlp is not None:
            number = heads[0] if layer < 0 else mlp
            assert number is not None
            [site] = self.senders[number].sends
            self._other[number] = self._moved(site)
        if layer >= 0 and heads:
            state = self.edges.base.state(layer).to(self.model.device)
            given = [
                [Change(site, "add", self._moved(site)) for site in self.senders[i].sends]
                for i in heads
            ]
            states = state.expand(len(heads), *state.shape)
            self._other[heads] = self._heads(layer, states, heads, given)

    def _moved(self, site: Site) -> Tensor:
        """How far a site is from its value elsewhere, ``[position, width]``."""
        own = self.edges.base.trace[site.whole][0]
        own = own if site.head is None else own[:, site.head]
        if self.zero:
            return -own.to(self.model.device).float()
        found = torch.zeros_like(own, dtype=torch.float32)
        found[[here for here, _ in self.edges.positions]] = self.edges.moved(site).float()
        return found.to(self.model.device)

    def _run(self, kept: Tensor) -> Tensor:
        """The metric of some graphs, ``[graph, sender, receiver]`` of ones and zeros."""
        last, place = self.edges.base.last, [self.edges.base.at]
        with self.model.running():
            # What is sent, from what is sent elsewhere; parts that were not run yet: their own.
            apart = (-self._other).repeat(len(kept), 1, 1, 1)
            for layer in range(self.model.n_layers):
                self.tick()
                self._step(layer, kept, apart)
            every = slice(0, len(self.senders))
            brought = self._brought(kept[..., -1:], apart[:, :, place], every, place)
            return self.metric((last[place].float() + brought[:, 0])[:, 0].to(last.dtype))

    def _step(self, layer: int, kept: Tensor, apart: Tensor) -> None:
        """What the parts of a layer send in each graph, from what the parts below it do."""
        heads, mlp = self._layer(layer)
        below = slice(0, [*heads, *([] if mlp is None else [mlp])][0]) if heads or mlp else None
        if below is None:
            return
        state = self.edges.base.state(layer).to(self.model.device).float()
        if heads:
            given = state + self._brought(kept[..., heads], apart, below)
            sent = self._heads(layer, given.flatten(0, 1), heads * len(kept))
            apart[:, heads] += sent.unflatten(0, (len(kept), len(heads)))
        if mlp is not None:
            given = state + self._brought(kept[..., [mlp]], apart, below)
            beside = self._brought(kept[..., [mlp]], apart, slice(below.stop, mlp))
            apart[:, mlp] += self._mlp(layer, given[:, 0], beside[:, 0])

    def _brought(
        self, kept: Tensor, apart: Tensor, which: slice, at: Sequence[int] | None = None
    ) -> Tensor:
        """What some senders bring to receivers beyond the run's own, ``[graph, receiver, ...]``."""
        other = self._other[which] if at is None else self._other[which][:, at]
        return other.sum(0) + torch.einsum("gsr,gstd->grtd", kept[:, which], apart[:, which])

    def _heads(
        self,
        layer: int,
        states: Tensor,
        numbers: Sequence[int],
        given: Sequence[list[Change]] | None = None,
    ) -> Tensor:
        """What one part of a layer adds in each row beyond what it adds in the run as it is."""
        z = self.edges.base.trace[Site("z", layer)][0]
        every = range(z.shape[1])
        found = []
        for start in range(0, len(states), self._rows.at_once):
            some = range(start, min(start + self._rows.at_once, len(states)))
            changes: list[Change] = []
            for row, i in enumerate(some):
                own = {site.head for site in self.senders[numbers[i]].sends}
                changes += [
                    Change(Site("z", layer, head), "set", z[:, head], row=row)
                    for head in every
                    if head not in own
                ]
                changes += [replace(one, row=row) for one in given[i]] if given else []
            found.append(self._called(layer, states[some.start : some.stop], changes, "attn_out"))
        return torch.cat(found)

    def _mlp(self, layer: int, states: Tensor, beside: Tensor) -> Tensor:
        """The same of the MLP, which reads what the heads of its layer bring beside the stream."""
        out = Site("attn_out", layer)
        found = []
        for start in range(0, len(states), self._rows.at_once):
            some = slice(start, min(start + self._rows.at_once, len(states)))
            changes = [
                Change(out, "set", self._own[out].float() + one, row=row)
                for row, one in enumerate(beside[some])
                if out in self._own
            ]
            found.append(self._called(layer, states[some], changes, "mlp_out"))
        return torch.cat(found)

    def _called(self, layer: int, states: Tensor, changes: Sequence[Change], kind: str) -> Tensor:
        """Call a layer on some rows, and return what a sublayer adds beyond the run's own."""
        site, kept = Site(kind, layer), list[Tensor]()
        rows = len(states)
        with self.model.running(), ExitStack() as stack:
            installed = install(self.model, changes, plain_rows, Gate(), stack, batch=rows)
            read_taps(
                self.model, [site], rows, lambda _, value: kept.append(value.clone()), Gate(), stack
            )
            self._rows(layer, states.to(self.edges.base.last.dtype))
        installed.require_all()
        self.passes += rows / self.model.n_layers
        return kept[0].float() - self._own[site].float()
