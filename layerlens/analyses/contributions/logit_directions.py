"""Directions along which what is written into the residual stream counts for a logit.

From the logits back to the embedding: a token's row of the head, pulled back through the final
norm with its statistics held, and on through whatever rescales the stream on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.contributions.frozen_norm import freeze
from layerlens.model.anatomy import BlockAnatomy
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

Values = Mapping[Site, Tensor]
"""Values at one position of one text, ``[width]`` each, as they were recorded."""


@dataclass
class Readout:
    """How the logits of some tokens depend on what is written at one position.

    Attributes
    ----------
    along
        For ``resid_pre.0`` and every ``attn_out`` and ``mlp_out``: directions ``[target, d_model]``
        float64. What was written times its direction is its part of the logit.
    constant
        ``[target]`` float64: the part that nothing writes (biases of norms and of the head).
    cap
        The soft-cap that the model puts on the logits, after which they are no longer a sum; None
        for most.
    """

    along: dict[Site, Tensor] = field(default_factory=dict)
    constant: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    cap: float | None = None

    def capped(self, logits: Tensor) -> Tensor:
        """What the model shows for such logits."""
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def norms_on_stream(model: LensModel) -> list[str]:
    """Paths of the norms that rescale the residual stream itself (post-norm blocks)."""
    blocks = model.anatomy.blocks
    paths = [(block.pre_norm, block.mid_norm, block.post_norm) for block in blocks]
    return [path for block_paths in paths for path in block_paths if path]


def stream_sites(model: LensModel) -> list[Site]:
    """Sites whose values :func:`read_out` needs."""
    sites = [Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)]
    for layer, block in enumerate(model.anatomy.blocks):
        sites += [Site(kind, layer) for kind in ("attn_out", "mlp_out") if kind in block.taps]
        if block.pre_norm or block.mid_norm or block.post_norm:
            sites.append(Site("resid_pre", layer))
    return list(dict.fromkeys(sites))


def read_out(model: LensModel, values: Values, tokens: Tensor) -> Readout:
    """Find the directions of some combinations of logits at one position.

    Parameters
    ----------
    values
        Those of :func:`stream_sites` at the position.
    tokens
        ``[target, vocabulary]`` float64: the weight of each token's logit, one row a target.

    Raises
    ------
    ModelError
        If something between the stream and the logits is not affine with its statistics held.
    """
    found = Readout()
    directions = through_head(model, values, tokens, found)
    for layer in reversed(range(model.n_layers)):
        directions = _through_block(model, layer, values, directions, found)
    found.along[Site("resid_pre", 0)] = directions
    return found


def through_head(model: LensModel, values: Values, tokens: Tensor, found: Readout) -> Tensor:
    """Directions in the stream after the last block; notes the constant and the cap."""
    anatomy = model.anatomy.head
    assert anatomy is not None  # the model has a head: the contract asked
    state = values[Site("resid_post", model.n_layers - 1)]
    steps = []
    for path in anatomy.chain:
        steps.append(freeze(model, path, state))
        with model.running():
            state = model.hf.get_submodule(path)(state.unsqueeze(0))[0]
    state = state if anatomy.scale_in == 1 else state * anatomy.scale_in
    directions = tokens
    for operation, value in anatomy.operations:
        if operation == "cap":
            found.cap = value
            break
        directions = directions * (value if operation == "multiply" else 1 / value)
    head = freeze(model, anatomy.head, state)
    found.constant = head.constant(directions)
    directions = head.pull(directions) * anatomy.scale_in
    for step in reversed(steps):
        found.constant = found.constant + step.constant(directions)
        directions = step.pull(directions)
    return directions


def _through_block(
    model: LensModel, layer: int, values: Values, directions: Tensor, found: Readout
) -> Tensor:
    """Directions before a block; notes those of what it writes."""
    block = model.anatomy.blocks[layer]
    states = _normed_states(model, layer, block, values)

    def back(path: str | None, directions: Tensor) -> Tensor:
        if path is None:
            return directions
        norm = freeze(model, path, states[path])
        found.constant = found.constant + norm.constant(directions)
        return norm.pull(directions)

    directions = back(block.post_norm, directions) * block.gain
    if "mlp_out" in block.taps:
        found.along[Site("mlp_out", layer)] = directions
    directions = back(block.mid_norm, directions)
    if "attn_out" in block.taps:
        found.along[Site("attn_out", layer)] = directions
    return back(block.pre_norm, directions)


def _normed_states(
    model: LensModel, layer: int, block: BlockAnatomy, values: Values
) -> dict[str, Tensor]:
    """What each norm on the stream of a block is given."""
    given: dict[str, Tensor] = {}
    if not (block.pre_norm or block.mid_norm or block.post_norm):
        return given
    state = values[Site("resid_pre", layer)]

    def normed(path: str | None, state: Tensor) -> Tensor:
        if path is None:
            return state
        given[path] = state
        with model.running():
            out: Tensor = model.hf.get_submodule(path)(state.unsqueeze(0))[0]
        return out

    state = normed(block.pre_norm, state)
    if "attn_out" in block.taps:
        state = normed(block.mid_norm, state + values[Site("attn_out", layer)])
    if "mlp_out" in block.taps:
        state = state + values[Site("mlp_out", layer)]
    normed(block.post_norm, state * block.gain)
    return given
