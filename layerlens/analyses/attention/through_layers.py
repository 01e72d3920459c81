"""The matrices of all layers of one text, multiplied (or flowed through) as they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

from layerlens.analyses.attention.handed_over import (
    ROUNDINGS,
    HandedOver,
    has_vectors,
    sites_of_vectors,
)
from layerlens.analyses.attention.mixing import MIXINGS, mean_of_heads
from layerlens.metrics.attention_several import even, visible
from layerlens.model.evidence import limit
from layerlens.model.sites import Site
from layerlens.run.forward import forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RESIDUAL = 0.5
"""Share of a position's own state in rollout and flow, as published."""

_CHECKS = {
    "rows": "sum of each position's shares against 1",
    "conserved": "what a position between passes on against what it gets (shares)",
    "sublayer": "all that positions hand over, and the biases, against what the attention writes",
    "norm": "the same behind the norm on the stream, against the stream there",
}


@dataclass(frozen=True)
class Step:
    """What is known of the target after one layer; arrays are ``[position]``.

    Attributes
    ----------
    attribution, attribution_chance
        Shares of the tokens, by the model's attention and by even attention.
    layer_attribution
        Shares of the positions in what this layer alone gives.
    total
        What the shares were divided by.
    """

    layer: int
    attribution: np.ndarray
    attribution_chance: np.ndarray
    layer_attribution: np.ndarray
    total: float


class Chain(Protocol):
    """Layers on top of each other."""

    def add(self, share: np.ndarray) -> None:
        """Put a layer on top: ``[position above, position below]``."""

    def from_top(self, target: int) -> np.ndarray:
        """How much of each token a position at the top has: ``[position]``."""


class Product:
    """Layers as matrices, multiplied.

    Attributes
    ----------
    matrix
        ``[position at the top, token]``.
    """

    def __init__(self, positions: int) -> None:
        self.matrix = np.eye(positions)

    def add(self, share: np.ndarray) -> None:
        """Put a layer on top."""
        self.matrix = share @ self.matrix

    def from_top(self, target: int) -> np.ndarray:
        """One row."""
        row: np.ndarray = self.matrix[target]
        return row


class ThroughLayers:
    """One pass over one text.

    Parameters
    ----------
    method, residual
        See `token_attribution`.
    target
        The position that is looked back from.
    on_step
        Called inside the pass, layer by layer in their order.

    Attributes
    ----------
    errors
        The largest error of each comparison, by name.
    """

    def __init__(
        self,
        model: LensModel,
        method: str,
        residual: float,
        target: int,
        on_step: Callable[[Step], None],
    ) -> None:
        self.model, self.method = model, method
        self.residual, self.target = residual, target
        self.errors: dict[str, float] = {}
        self._on_step = on_step
        self._sites = {layer: self._sites_of(layer) for layer in range(model.n_layers)}
        self._raw: dict[str, Tensor] = {}
        self._done = self._positions = 0
        self._chains: list[Chain] = []

    def run(self, tokens: Tokens, tick: Callable[[], None]) -> None:
        """Run one text without padding."""
        self._positions = tokens.ids.shape[1]
        self._chains = [self._chain(), self._chain()]

        def see(site: Site, value: Tensor) -> None:
            tick()
            self._raw[site.kind] = value[0]
            if len(self._raw) == len(self._sites[site.block]):
                self._pass_over(site.block)
                self._step(*self._mixed(site.block))
                self._raw.clear()

        sites = [site for layer in self._sites.values() for site in layer]
        forward(self.model, tokens, sites, see, logits=None)
        self._pass_over(self.model.n_layers)

    @property
    def matrix(self) -> np.ndarray | None:
        """``[query, key]`` by now, rows summing to 1; None for flow."""
        found = self._chains[0]
        if not isinstance(found, Product):
            return None
        matrix: np.ndarray = found.matrix / found.matrix.sum(-1, keepdims=True)
        return matrix

    def limit(self, name: str) -> tuple[float, str]:
        """How far a comparison may be off, and what it compares."""
        rounding = limit(self.model, ROUNDINGS) if name in ("sublayer", "norm") else 1e-9
        return rounding, _CHECKS[name]

    def _sites_of(self, layer: int) -> list[Site]:
        if self.model.anatomy.blocks[layer].attention is None:
            return []
        if self.method not in MIXINGS:
            return [Site("pattern", layer)]
        if not has_vectors(self.model, layer):
            return []
        both = self.method == "globenc"
        return sites_of_vectors(self.model, layer) + [Site("mlp_out", layer)] * both

    def _chain(self) -> Chain:
        if self.method != "flow":
            return Product(self._positions)
        from layerlens.analyses.attention.max_flow import LayeredFlow

        return LayeredFlow(self._positions)

    def _mixed(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """How a layer mixes positions, and how it would with even attention."""
        pattern = self._raw["pattern"]
        control = even(visible(pattern)).expand_as(pattern)
        if self.method not in MIXINGS:
            mixed = [mean_of_heads(heads, self.residual) for heads in (pattern, control)]
        else:
            handed = HandedOver(self.model, layer, self._raw)
            for name, error in handed.errors.items():
                self._note(name, error)
            mixed = [MIXINGS[self.method](handed, heads) for heads in (pattern, control)]
        return mixed[0].numpy(), mixed[1].numpy()

    def _pass_over(self, layer: int) -> None:
        """Take the layers before this one that have no attention: each position stays itself."""
        own = np.eye(self._positions)
        while self._done < layer:
            self._step(own, own)

    def _step(self, mixed: np.ndarray, control: np.ndarray) -> None:
        for chain, share in zip(self._chains, (mixed, control), strict=True):
            chain.add(share)
        found, chance = (chain.from_top(self.target) for chain in self._chains)
        self._compare()
        step = Step(
            self._done,
            found / found.sum(),
            chance / chance.sum(),
            mixed[self.target] / mixed[self.target].sum(),
            float(found.sum()),
        )
        self._done += 1
        self._on_step(step)

    def _compare(self) -> None:
        chain = self._chains[0]
        if not isinstance(chain, Product):
            self._note("conserved", chain.imbalance)  # type: ignore[attr-defined]
        elif self.method != "globenc":
            self._note("rows", float(np.abs(chain.matrix.sum(-1) - 1).max()))

    def _note(self, name: str, error: float) -> None:
        self.errors[name] = max(error, self.errors.get(name, 0.0))
