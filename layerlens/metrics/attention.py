"""Where each head looks: at the first token, at the token before, at repeats.

Heads are query heads. With grouped-query attention several of them share keys and values, but
each has a pattern of its own. All means are over queries; the first token of a text, which has
nothing to choose from, is among them only with ``skip_first=False``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.base import Arrays, ModelShape, Output
from layerlens.metrics.batch import GROUPS, Batch, accumulate
from layerlens.metrics.layer import Layer
from layerlens.metrics.means import Mean, bootstrap, ratio
from layerlens.metrics.registry import register

DETECTOR = "Nanda and Bloom (2022), TransformerLens, head detector"
_HEADS = ("layer", "head")


class OverQueries(Mean):
    """The mean over queries of one number for each head."""

    axes = _HEADS
    parts = ("pattern",)
    cost = "1 pass for all metrics, half as long again for the patterns"

    @abstractmethod
    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """What texts of one length add.

        Parameters
        ----------
        pattern
            [text, head, query, key] float32, the queries that count and all keys.
        batch, rows
            Of the texts.

        Returns
        -------
        sum, count
            [text, head] each.
        """

    def update(self, layer: Layer) -> None:
        """Add the pattern of one layer."""
        if not layer.has(*self.parts):
            return
        sums = torch.zeros(len(layer.batch), layer.n_heads, dtype=torch.float64)
        counts = torch.zeros_like(sums)
        for rows, pattern in layer.patterns():
            pattern = pattern[:, :, layer.batch.skip_first :]
            found = self.measure(pattern, layer.batch, rows)
            sums[rows], counts[rows] = (part.to(sums) for part in found)
        cell = (layer.number, slice(0, layer.n_heads))
        self.add_texts(cell, sums, counts, layer.batch)


@register
class SinkMass(OverQueries):
    """How much each head looks at the first token.

    Parameters
    ----------
    threshold
        A head is a sink head in a text when it gives the first token more than this on average.
    """

    name = "sink_mass"
    question = "How much attention goes to the first token, whatever it is?"
    formula = "mean over queries t of a_t0; rate: share of heads and texts where it is > threshold"
    units = "1"
    source = (
        "Xiao et al. (2023), Efficient Streaming Language Models with Attention Sinks, arXiv "
        "2309.17453; rate: Gu et al. (2024), When Attention Sink Emerges, arXiv 2410.10781"
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        "sink_mass": Output(_HEADS, units, "attention to the first token"),
        "sink_mass_rate": Output(("layer",), units, "share of heads that are sink heads"),
    }

    def __init__(self, shape: ModelShape, *, threshold: float = 0.3) -> None:
        if not 0 <= threshold < 1:
            raise InputError(f"threshold is {threshold}; expected a share from 0 to below 1.")
        super().__init__(shape, threshold=threshold)
        self.zeros("sinks", GROUPS, shape.n_layers)
        self.zeros("looks", GROUPS, shape.n_layers)

    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Attention of each text's queries to its first token."""
        mass = pattern[..., 0].sum(-1, dtype=torch.float64)
        return mass, torch.full_like(mass, pattern.shape[2])

    def add_texts(
        self, cell: tuple[int | slice, ...], sums: Tensor, counts: Tensor, batch: Batch
    ) -> None:
        """Count the mass, and the texts in which a head is a sink head."""
        super().add_texts(cell, sums, counts, batch)
        some = counts > 0
        sinks = some & (sums > self.options["threshold"] * counts)
        accumulate(self.arrays["sinks"], batch.groups, cell[:1], sinks.sum(-1))
        accumulate(self.arrays["looks"], batch.groups, cell[:1], some.sum(-1))

    def value(self, intervals: bool = True) -> Arrays:
        """The mass of each head, and the share of sink heads of each layer."""
        rate = {"sum": self.arrays["sinks"], "count": self.arrays["looks"]}
        return super().value(intervals) | mean_of(f"{self.name}_rate", rate, intervals)


class Detector(OverQueries):
    """Share of a head's attention that goes to keys of one kind.

    Parameters
    ----------
    exclude_first
        Leave attention to the first token out of both sums, as it often is where a head rests.
    exclude_current
        Leave attention to the query's own token out of both sums.
    only_possible
        Count only queries that have such a key: in texts without repetition there is nothing to
        find, and the plain score says so by being small.
    """

    formula = "sum of a_tj over the wanted (t, j) / sum of a_tj over all"
    units = "1"
    source = DETECTOR

    def __init__(
        self,
        shape: ModelShape,
        *,
        exclude_first: bool = False,
        exclude_current: bool = False,
        only_possible: bool = False,
    ) -> None:
        super().__init__(
            shape,
            exclude_first=bool(exclude_first),
            exclude_current=bool(exclude_current),
            only_possible=bool(only_possible),
        )
        self._found: WeakKeyDictionary[Batch, list[tuple[Tensor, Tensor]]] = WeakKeyDictionary()

    @staticmethod
    @abstractmethod
    def wanted(ids: Tensor) -> Tensor:
        """The keys that a perfect head looks at: [query, key] bool, for token ids [query]."""

    def update(self, layer: Layer) -> None:
        """Add the pattern of one layer; the keys of each text are found once for all layers."""
        if layer.batch not in self._found:
            tokens = layer.batch.tokens
            rows = [ids[mask] for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
            self._found[layer.batch] = [self._keys(ids, layer.batch.skip_first) for ids in rows]
        super().update(layer)

    def _keys(self, ids: Tensor, skip: int) -> tuple[Tensor, Tensor]:
        """Wanted and counted keys of the queries that count, [query, key] bool each."""
        wanted = self.wanted(ids)
        counted = torch.ones_like(wanted)
        if self.options["only_possible"]:
            counted &= wanted.any(-1, keepdim=True)
        if self.options["exclude_first"]:
            counted[:, 0] = False
        if self.options["exclude_current"]:
            counted.fill_diagonal_(False)
        return (wanted & counted)[skip:], counted[skip:]

    def measure(self, pattern: Tensor, batch: Batch, rows: list[int]) -> tuple[Tensor, Tensor]:
        """Attention to the wanted keys, and to all that count."""
        keys = zip(*(self._found[batch][row] for row in rows), strict=True)
        wanted, counted = (within(pattern, torch.stack(chosen)) for chosen in keys)
        return wanted, counted


@register
class PreviousToken(Detector):
    """Share of a head's attention that goes to the token before."""

    name = "previous_token"
    question = "Which heads look at the token before?"
    long_name = "attention to the token before"

    @staticmethod
    def wanted(ids: Tensor) -> Tensor:
        """The key before each query."""
        return torch.eye(len(ids), dtype=torch.bool).roll(1, 0).tril(-1)


@register
class DuplicateToken(Detector):
    """Share of a head's attention that goes to earlier occurrences of the same token."""

    name = "duplicate_token"
    question = "Which heads look at earlier occurrences of the same token?"
    long_name = "attention to earlier occurrences of the token"

    @staticmethod
    def wanted(ids: Tensor) -> Tensor:
        """Earlier keys that are the query's token."""
        return (ids[:, None] == ids).tril(-1)


@register
class Induction(Detector):
    """Share of a head's attention that goes to what followed the same token before.

    On texts it counts every earlier occurrence; ``ll.head_scores`` is the standard test on
    random tokens that repeat.
    """

    name = "induction"
    question = "Which heads look at what followed the same token earlier?"
    long_name = "attention to the token after an earlier occurrence"

    @staticmethod
    def wanted(ids: Tensor) -> Tensor:
        """Keys that come after an earlier occurrence of the query's token."""
        found = DuplicateToken.wanted(ids).roll(1, 1)
        found[:, 0] = False
        return found


def within(pattern: Tensor, chosen: Tensor) -> Tensor:
    """Sum [text, head] float64 of patterns [text, head, query, key] over chosen [..., query, key].

    ``chosen`` is of each text, or of all of them.
    """
    # Within a row, which sums to 1, float32 is enough; over rows it is not.
    rows = (pattern * chosen.to(pattern.device, pattern.dtype).unsqueeze(-3)).sum(-1)
    return rows.sum(-1, dtype=torch.float64)


def mean_of(name: str, sums: Arrays, intervals: bool) -> Arrays:
    """A mean by the name of its output, with its interval."""
    found: dict[str, np.ndarray] = {name: ratio({key: array.sum(0) for key, array in sums.items()})}
    if intervals:
        found[f"{name}_low"], found[f"{name}_high"] = bootstrap(ratio, sums)
    return found
