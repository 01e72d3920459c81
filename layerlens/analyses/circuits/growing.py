"""An attribution graph while it grows: from the outputs down, the most influential feature first.

Each target (an output, or a feature) has a row: what every source adds to it. Sources are tokens,
features that are on, and errors, in this order. Features whose own causes were not followed in the
end count among the errors of their layer and position, since the graph shows no causes of either;
so each row still adds up to its target. (A feature that writes into several layers counts with all
that it writes, among the errors of the layer where it reads.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, vstack
from torch import Tensor

from layerlens.analyses.circuits.graph import ERROR, FEATURE, OUTPUT, TOKEN, Nodes
from layerlens.analyses.circuits.held_model import HeldModel
from layerlens.analyses.circuits.influence import Links, node_influence
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.analyses.circuits.recorded import Recorded


@dataclass(frozen=True, eq=False)
class Outputs:
    """The logits that are explained, measured from the mean over the vocabulary.

    Attributes
    ----------
    tokens
        Their ids.
    probabilities
        float64 ``[output]``.
    directions
        ``[output, d_model]`` in the state after the last block.
    constants
        float64 ``[output]``: what is added to that state along the directions.
    """

    tokens: Sequence[int]
    probabilities: np.ndarray
    directions: Tensor
    constants: Tensor


@dataclass(eq=False)
class Growing:
    """Rows that were found so far.

    Attributes
    ----------
    followed
        Features that have a row, in the order of their rows, after those of the outputs.
    """

    run: Recorded
    held: HeldModel
    outputs: Outputs
    followed: list[int] = field(default_factory=list)
    rows: list[csr_array] = field(default_factory=list)

    def __post_init__(self) -> None:
        run = self.run
        self.errors = {site: run.error(site.block) for site in run.writes}
        self.features = len(run.features.number)
        self.sources = run.length * (1 + len(run.writes)) + self.features

    def follow(self, most: int, tick: Callable[[], None], told: Callable[[int], None]) -> None:
        """Find the rows of the outputs, then of features, until there are so many.

        Parameters
        ----------
        most
            Features to follow.
        tick, told
            Asked whether to stop; told how many were followed.
        """
        place = self.run.place
        for some in range(0, len(self.outputs.tokens), self.held.rows):
            tick()
            directions = self.outputs.directions[some : some + self.held.rows]
            self._find([(self.run.last, place, one) for one in directions])
        told(0)
        while len(self.followed) < most:
            chosen = self._next(min(self.held.rows, most - len(self.followed)))
            if not chosen:
                return
            tick()
            self._find([self.target(feature) for feature in chosen])
            self.followed += chosen
            told(len(self.followed))

    def target(self, feature: int) -> tuple[Site, int, Tensor]:
        """What a feature reads: the state, the position, the direction."""
        all_, run = self.run.features, self.run
        layer, position = int(all_.layer[feature]), int(all_.position[feature])
        stand_in = run.stand_ins[layer]
        rate = run.rates[layer][position : position + 1]
        direction = stand_in.reads(all_.number[feature : feature + 1], rate)[0]
        return stand_in.read, position, direction

    def _next(self, count: int) -> list[int]:
        """The features without a row that carry most of the outputs by what is known."""
        start = self.run.length
        found = self._influence()[start : start + self.features]
        found[self.followed] = 0
        order = np.argsort(-found, kind="stable")[:count]
        return [int(feature) for feature in order if found[feature] > 0]

    def left_out(self) -> int:
        """How many features without a row carry some of the outputs."""
        return len(self._next(self.features))

    def _influence(self) -> np.ndarray:
        """Influence of all sources, then of the outputs, by the rows so far."""
        outputs = len(self.outputs.tokens)
        rows = vstack(self.rows).tocoo()
        targets = np.array(
            [self.sources + output for output in range(outputs)]
            + [self.run.length + feature for feature in self.followed]
        )
        links = Links(
            rows.col.astype(np.int64), targets[rows.row], rows.data.astype(np.float64),
            self.sources + outputs,
        )  # fmt: skip
        answers = np.zeros(links.nodes)
        answers[self.sources :] = self.outputs.probabilities
        return node_influence(links, answers)

    def _find(self, targets: Sequence[tuple[Site, int, Tensor]]) -> None:
        """Rows of some targets, kept without their zeros."""
        effects = {site: one.float().cpu() for site, one in self.held.effects(targets).items()}
        run = self.run
        tokens = torch.einsum("btd,td->bt", effects[run.first], run.values[run.first])
        features = torch.zeros(len(targets), self.features)
        errors = []
        for site in run.writes:
            found = effects[site]
            errors.append(torch.einsum("btd,td->bt", found, self.errors[site]))
            for part, decoder in run.writers(site.block):
                self._of_features(part, decoder, found, features)
        dense = torch.cat([tokens, features, *errors], 1)
        self.rows.append(csr_array(dense.numpy()))

    def _of_features(self, part: slice, decoder: Tensor, effects: Tensor, into: Tensor) -> None:
        """What features add to each target by what they write into one layer, by position."""
        all_ = self.run.features
        positions, counts = all_.position[part].unique_consecutive(return_counts=True)
        start = part.start
        for position, count in zip(positions.tolist(), counts.tolist(), strict=True):
            here = slice(start, start + count)
            rows = decoder[all_.number[here]] * all_.activation[here, None]
            into[:, here] += effects[:, position] @ rows.T
            start += count

    def sums(self) -> np.ndarray:
        """float64 ``[target]``: what all sources add to each target that has a row."""
        found: np.ndarray = vstack(self.rows).astype(np.float64).sum(1)
        return found

    def graph(self) -> tuple[Nodes, Links]:
        """Tokens, followed features, errors and outputs, with all links between them."""
        run, kept = self.run, sorted(self.followed)
        count, length = len(kept), run.length
        outputs, errors = len(self.outputs.tokens), len(run.writes) * length
        node = np.empty(self.sources, dtype=np.int64)
        node[:length] = np.arange(length)
        node[length + self.features :] = length + count + np.arange(errors)
        node[length : length + self.features] = self._error_of() + length + count
        node[length + np.array(kept, dtype=np.int64)] = length + np.arange(count)
        place = {feature: length + i for i, feature in enumerate(kept)}
        first = length + count + errors
        targets = [first + i for i in range(outputs)] + [place[one] for one in self.followed]
        rows = vstack(self.rows).tocoo()
        size = first + outputs
        ends = (np.array(targets)[rows.row], node[rows.col])
        joined = coo_array((rows.data.astype(np.float64), ends), shape=(size, size)).tocsr().tocoo()
        links = Links(joined.col.astype(np.int64), joined.row.astype(np.int64), joined.data, size)
        return self._nodes(kept), links

    def _error_of(self) -> np.ndarray:
        """``[feature]``: the error of each one's layer and position, counted from the first."""
        order = {site.block: i for i, site in enumerate(self.run.writes)}
        layers = np.array([order[layer] for layer in self.run.features.layer.tolist()], dtype=int)
        found: np.ndarray = layers * self.run.length + self.run.features.position.numpy()
        return found

    def _nodes(self, kept: Sequence[int]) -> Nodes:
        run, all_ = self.run, self.run.features
        chosen = torch.tensor(kept, dtype=torch.int64)
        length, blocks = run.length, [site.block for site in run.writes]
        outputs, text = len(self.outputs.tokens), run.tokens
        places, ids = np.arange(length), text.ids[0].numpy()
        layers, numbers = all_.layer[chosen].numpy(), all_.number[chosen].numpy()
        at = all_.position[chosen].numpy()
        parts = [
            (TOKEN, np.full(length, -1), places, ids),
            (FEATURE, layers, at, numbers),
            (ERROR, np.repeat(blocks, length), np.tile(places, len(blocks)), None),
            (OUTPUT, np.full(outputs, run.model.n_layers), np.full(outputs, run.place),
             np.array(self.outputs.tokens)),
        ]  # fmt: skip
        sizes = [len(layer) for _, layer, _, _ in parts]
        kind = np.repeat([kind for kind, *_ in parts], sizes)
        whole = [np.concatenate([part[i] for part in parts]) for i in (1, 2)]
        feature = np.concatenate(
            [np.full(size, -1) if part[3] is None else part[3]
             for part, size in zip(parts, sizes, strict=True)]
        )  # fmt: skip
        activation, probability = np.full(len(kind), np.nan), np.full(len(kind), np.nan)
        activation[kind == FEATURE] = all_.activation[chosen].numpy()
        probability[kind == OUTPUT] = self.outputs.probabilities
        words = [
            *text.strings[0], *[""] * (len(kept) + sizes[2]),
            *(run.model.token_string(token) for token in self.outputs.tokens),
        ]  # fmt: skip
        names = _names(kind, whole[0], feature, whole[1])
        return Nodes(kind, whole[0], whole[1], feature, activation, probability, names, words)


def _names(
    kind: np.ndarray, layer: np.ndarray, feature: np.ndarray, position: np.ndarray
) -> list[str]:
    """A unique name of each node, such as ``3_512_7``: layer, feature, position."""
    found = []
    for one, where, number, at in zip(*(x.tolist() for x in (kind, layer, feature, position)),
                                      strict=True):  # fmt: skip
        first = {TOKEN: "E", ERROR: f"error_{where}"}.get(one, str(where))
        found.append(f"{first}_{at}" if one == ERROR else f"{first}_{number}_{at}")
    return found
