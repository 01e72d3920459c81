"""The gradient of a text's loss, carried back block by block: by each state, and by weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from layerlens.run.replay import capture_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class BlockGradient(NamedTuple):
    """What reaches one block.

    Parameters
    ----------
    layer
        Its number.
    state
        ``[position, d_model]``, the gradient by the state before it.
    weights
        Norm of the gradient by all of its weights together; NaN where it has none that numbers
        can be added to.
    """

    layer: int
    state: Tensor
    weights: float


class TextGradients:
    """One text, whose loss is the mean over next tokens of minus their log probability.

    A pass keeps the states between blocks. The gradient then goes from the head back through one
    block after the other, each run again for itself, so that never more than one block's
    gradients are held and what parameters hold themselves (``.grad``) is left alone. Call it
    while the model runs with gradients.

    Attributes
    ----------
    states
        ``[1, position, d_model]`` each: before every block, and after the last.
    replayed
        How far states after a block run again are from those of the pass, of the largest.
    """

    def __init__(self, model: LensModel, text: Tokens, skip: int, tick: Callable[[], None]) -> None:
        self.model, self.skip, self.tick = model, skip, tick
        self.text = replace(text, ids=text.ids.clone(), mask=text.mask.clone())
        self.states: list[Tensor] = []
        self.replayed = 0.0

        def keep(_: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self.calls, _ = capture_calls(model, self.text, keep, logits="last", for_autograd=True)

    @property
    def following(self) -> Tensor:
        """The next tokens that are predicted, ``[n]``."""
        return self.text.ids[0, self.skip + 1 :]

    def loss(self, final: Tensor, wanted: Tensor) -> Tensor:
        """The loss of states after the last block ``[1, position, d_model]``, nats."""
        logits = self.model.unembed(final[0, self.skip : -1]).float()
        return nn.functional.cross_entropy(logits, wanted.to(logits.device))

    def back(self, wanted: Tensor, weight: float = 1.0) -> tuple[float, Tensor]:
        """The loss of the pass, and its gradient by the last state ``[1, position, d_model]``.

        Parameters
        ----------
        wanted
            ``[n]``, what should have come next.
        weight
            What the loss is multiplied with.
        """
        last = self.states[-1].detach().clone().requires_grad_()
        loss = self.loss(last, wanted) * weight
        (found,) = torch.autograd.grad(loss, last)
        return float(loss.detach()), found

    def blocks(self, last: Tensor) -> Iterator[BlockGradient]:
        """Carry the gradient by the last state back, block by block, from the last on."""
        for layer in range(self.model.n_layers - 1, -1, -1):
            self.tick()
            block = self.model.hf.get_submodule(self.model.anatomy.blocks[layer].path)
            leaf = self.states[layer].detach().clone().requires_grad_()
            with _recorded(list(block.parameters())) as weights:
                after = self.calls[layer](leaf)
                given = last.to(after)
                found = torch.autograd.grad(
                    after, [leaf, *weights], given, allow_unused=True, materialize_grads=True
                )
            self._watch(layer, after.detach())
            last, *slopes = found
            squares = [float(slope.float().square().sum()) for slope in slopes]
            norm = sum(squares) ** 0.5 if slopes else float("nan")
            yield BlockGradient(layer, last[0], norm)

    def _watch(self, layer: int, after: Tensor) -> None:
        wanted = self.states[layer + 1].to(after.device)
        off = (after - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
        self.replayed = max(self.replayed, float(off))


@contextmanager
def _recorded(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Those weights that can have a gradient, each with one recorded, frozen ones too."""
    able = [p for p in parameters if p.is_floating_point() and not p.is_inference()]
    before = [p.requires_grad for p in able]
    try:
        for parameter in able:
            parameter.requires_grad_(True)
        yield able
    finally:
        for parameter, was in zip(able, before, strict=True):
            parameter.requires_grad_(was)
