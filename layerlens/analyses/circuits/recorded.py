"""One text, run as it is: what a linear model of this very run has to hold and to reproduce."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.analyses.circuits.stand_ins import StandIn, taught
from layerlens.analyses.contributions.frozen_norm import FrozenNorms, freeze_rows
from layerlens.errors import ModelError
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.run.answer_place import answer_place
from layerlens.run.forward import forward
from layerlens.run.gate import Gate

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Tick = Callable[[], None]


@dataclass(frozen=True, eq=False)
class Features:
    """Features that are on, by layer, then position, then number: parallel arrays ``[n]``.

    Attributes
    ----------
    layer, position, number
        Which feature where (int64).
    activation
        float32.
    """

    layer: Tensor
    position: Tensor
    number: Tensor
    activation: Tensor

    def of(self, layer: int) -> slice:
        """Those of a layer."""
        start, end = torch.searchsorted(self.layer, torch.tensor([layer, layer + 1])).tolist()
        return slice(start, end)


@dataclass(frozen=True, eq=False)
class Recorded:
    """One text, run as it is.

    Attributes
    ----------
    tokens
        One text without padding.
    place
        The position whose next token is explained.
    values
        ``resid_pre`` of block 0, the state after the last block, what each MLP wrote and what each
        transcoder reads, ``[position, d_model]`` float32 on the CPU.
    patterns
        By layer, ``[1, head, query, key]``.
    norms
        By path, norms of the stream with their statistics at each position.
    logits
        ``[vocabulary]`` float64: the model's own, at the place.
    rates
        By layer, ``[position, 1]``: how states are scaled for its transcoder.
    kept
        By layer, ``[position]`` bool: where its transcoder stands in.
    features
        Those that are on.
    """

    model: LensModel
    tokens: Tokens
    place: int
    stand_ins: Mapping[int, StandIn]
    values: Mapping[Site, Tensor]
    patterns: Mapping[int, Tensor]
    norms: Mapping[str, FrozenNorms]
    logits: Tensor
    rates: Mapping[int, Tensor]
    kept: Mapping[int, Tensor]
    features: Features

    @property
    def length(self) -> int:
        """Positions."""
        return int(self.tokens.ids.shape[1])

    @property
    def writes(self) -> list[Site]:
        """What MLPs write, layer by layer."""
        return [site for site in self.values if site.kind == "mlp_out"]

    @property
    def first(self) -> Site:
        """The state that blocks begin with."""
        return Site("resid_pre", 0)

    @property
    def last(self) -> Site:
        """The state that blocks end with."""
        return Site("resid_post", self.model.n_layers - 1)

    def constant(self, layer: int) -> Tensor:
        """``[position, d_model]``: what a transcoder writes where no feature is on, without skip.

        Zeros where none stands in.
        """
        found = torch.zeros(self.length, self.model.d_model)
        if layer in self.stand_ins:
            found[self.kept[layer]] = self.stand_ins[layer].dictionary["b_dec"]
        return found

    def beside(self, layer: int, state: Tensor) -> Tensor | None:
        """What a transcoder writes past its features, of ``[batch, position, d_model]``."""
        stand_in = self.stand_ins.get(layer)
        if stand_in is None or stand_in.skip is None:
            return None
        read = stand_in.inside(state, self.rates[layer].to(state))
        found: Tensor = (read @ stand_in.skip.T.to(state)) * self.kept[layer][:, None].to(state)
        return found

    def writers(self, layer: int) -> Iterator[tuple[slice, Tensor]]:
        """Whose features write into a layer: where they lie in `features`, and their decoder."""
        for stand_in in self.stand_ins.values():
            if layer in stand_in.rows:
                yield self.features.of(stand_in.layer), stand_in.rows[layer]

    def written(self, layer: int) -> Tensor:
        """``[position, d_model]``: what features write into a layer together."""
        found, all_ = torch.zeros(self.length, self.model.d_model), self.features
        for part, decoder in self.writers(layer):
            for some in torch.arange(part.start, part.stop).split(512):
                rows = decoder[all_.number[some]] * all_.activation[some, None]
                found.index_add_(0, all_.position[some], rows)
        return found

    def error(self, layer: int) -> Tensor:
        """``[position, d_model]``: what the MLP wrote and transcoders do not."""
        found = self.values[Site("mlp_out", layer)] - self.written(layer) - self.constant(layer)
        if layer in self.stand_ins:
            past = self.beside(layer, self.values[self.stand_ins[layer].read][None])
            found = found if past is None else found - past[0]
        return found


def record_text(
    model: LensModel, tokens: Tokens, found: Mapping[int, StandIn], tick: Tick
) -> Recorded:
    """Run one text and encode what its MLPs read.

    Raises
    ------
    ModelError
        A block mixes positions by something else than attention that can be read.
    """
    layers = range(model.n_layers)
    sites = [Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)]
    sites += [
        Site("mlp_out", layer) for layer in layers if "mlp_out" in model.anatomy.blocks[layer].taps
    ]
    sites += [stand_in.read for stand_in in found.values()]
    values: dict[Site, Tensor] = {}
    patterns: dict[int, Tensor] = {}
    place = answer_place(model, tokens)

    def see(site: Site, value: Tensor) -> None:
        tick()
        if site.kind == "pattern":
            patterns[site.block] = value
        else:
            values[site] = value[0].float().cpu().clone()

    wanted = [*dict.fromkeys(sites), *(Site("pattern", layer) for layer in _mixing(model))]
    with ExitStack() as stack:
        given = _watch_norms(model, stack)
        logits = forward(model, tokens, wanted, see, logits="all")
    assert logits is not None  # the model has a head: the contract asked
    # What was made in inference mode cannot be kept for a backward pass; a copy can.
    patterns = {layer: pattern.clone() for layer, pattern in patterns.items()}
    norms = {path: freeze_rows(model, path, x) for path, x in given.items()}
    ids = tokens.ids[0]
    rates = {layer: one.rates(values[one.read]) for layer, one in found.items()}
    kept = {layer: taught(model, ids, one) for layer, one in found.items()}
    return Recorded(
        model, tokens, place, found, values, patterns, norms, logits[0, place].cpu().double(),
        rates, kept, _encoded(values, found, kept, tick),
    )  # fmt: skip


def _mixing(model: LensModel) -> list[int]:
    """Layers whose attention has to be held."""
    blocks = model.anatomy.blocks
    if bare := [n for n, block in enumerate(blocks) if block.mixer and not block.attention]:
        raise ModelError(
            f"Layer {bare[0]} of {model.name} mixes positions by no attention that can be held as "
            "it is, so nothing is linear across it: a circuit needs attention in every block."
        )
    return [layer for layer, block in enumerate(blocks) if block.attention]


def _encoded(
    values: Mapping[Site, Tensor],
    found: Mapping[int, StandIn],
    kept: Mapping[int, Tensor],
    tick: Tick,
) -> Features:
    parts: list[tuple[Tensor, ...]] = [(torch.zeros(0).long(),) * 3 + (torch.zeros(0),)]
    for layer in sorted(found):
        tick()
        encoded = found[layer].dictionary.encode(values[found[layer].read])
        encoded = encoded * kept[layer][:, None]
        position, number = (encoded > 0).nonzero(as_tuple=True)
        layers = torch.full_like(position, layer)
        parts.append((layers, position, number, encoded[position, number]))
    return Features(*(torch.cat(part) for part in zip(*parts, strict=True)))


def norms_of_stream(model: LensModel) -> dict[str, nn.Module]:
    """Norms as wide as the stream, by path; those of single heads stay as they are."""
    sizes = (0, model.d_model, 2 * model.d_model)
    return {
        path: module
        for path, module in model.hf.named_modules()
        if is_norm(module) and sum(p.numel() for p in module.parameters()) in sizes
    }


def _watch_norms(model: LensModel, stack: ExitStack) -> dict[str, Tensor]:
    """Keep what norms of the stream are given, ``[position, d_model]``, until the stack closes."""
    gate, found = Gate(), {}

    def watch(path: str, module: nn.Module) -> None:
        def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
            if gate.open and args and args[0].shape[-1] == model.d_model:
                if path in found:
                    raise ModelError(
                        f"{path} of {model.name} is run more than once in a pass, so it has no one "
                        "scale that could be held."
                    )
                found[path] = args[0].reshape(-1, model.d_model).clone()

        stack.callback(module.register_forward_pre_hook(keep).remove)

    for path, module in norms_of_stream(model).items():
        watch(path, module)
    return found
