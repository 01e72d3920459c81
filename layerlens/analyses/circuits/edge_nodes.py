"""The parts of a model between which edges run, and the sites by which they send and receive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layerlens.analyses.tracing.head_edges import given_site
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.anatomy import BlockAnatomy
    from layerlens.model.lensmodel import LensModel

Edge = tuple[str, str]
"""Names of a sender and of a receiver."""


@dataclass(frozen=True)
class Part:
    """One part of a model.

    Attributes
    ----------
    name
        Its words, and its name in the graph: ``"tokens"``, ``"head 3.5"``, ``"heads 3.3-5"`` (that
        share their keys and values), ``"MLP 3"``, ``"answer"``.
    layer
        -1 for the tokens, the number of layers for the answer.
    number
        First head, -1 for what has none.
    sends, receives
        Sites that hold what it adds to the stream, and what it makes of its input.
    """

    name: str
    layer: int
    number: int
    sends: tuple[Site, ...] = ()
    receives: tuple[Site, ...] = ()

    @property
    def is_mlp(self) -> bool:
        """Whether it is an MLP."""
        return self.name.startswith("MLP")

    def reaches(self, other: Part) -> bool:
        """Whether what it adds is part of what the other one reads."""
        if not self.sends or (not other.receives and other.name != "answer"):
            return False
        within = other.is_mlp and not self.is_mlp
        return self.layer < other.layer or (self.layer == other.layer and within)


def edge_count(parts: Sequence[Part]) -> int:
    """How many edges there are between parts."""
    return sum(one.reaches(other) for one in parts for other in parts)


def parts_of(model: LensModel) -> list[Part]:
    """All parts of a model, from the tokens up.

    Heads that share keys and values are one part, for what enters them does so together.
    """
    found = [Part("tokens", -1, -1, sends=(Site("resid_pre", 0),))]
    for layer, block in enumerate(model.anatomy.blocks):
        found += _heads(layer, block)
        if "mlp_out" in block.taps:
            reads = (Site("mlp_post", layer),) if "mlp_post" in block.taps else ()
            found.append(Part(f"MLP {layer}", layer, -1, (Site("mlp_out", layer),), reads))
    return [*found, Part("answer", model.n_layers, -1)]


def _heads(layer: int, block: BlockAnatomy) -> list[Part]:
    if not block.n_heads or not block.n_kv_heads:
        return []
    together = block.n_heads // block.n_kv_heads
    found = []
    for shared in range(block.n_kv_heads):
        heads = range(shared * together, (shared + 1) * together)
        first, last = heads[0], heads[-1]
        name = f"head {layer}.{first}" if first == last else f"heads {layer}.{first}-{last}"
        reads = [Site(given_site(block, "q"), layer, head) for head in heads]
        reads += [Site(given_site(block, kind), layer, shared) for kind in ("k", "v")]
        sends = tuple(Site("z", layer, head) for head in heads)
        found.append(Part(name, layer, first, sends, tuple(reads)))
    return found
