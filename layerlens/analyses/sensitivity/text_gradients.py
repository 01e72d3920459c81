"""Gradients of a text's losses, carried back block by block: by states, by what is inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from layerlens.model.sites import Site
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.recorded_blocks import RecordedBlock, record_blocks
from layerlens.run.replay import BlockCall, capture_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Inside = Callable[[int], AbstractContextManager[Sequence[Tensor]]]
"""Of a layer: by what else the losses are differentiated. It is entered before the block runs; the
tensors may be its weights, or come while it runs."""


class BlockGradients(NamedTuple):
    """What reaches one block.

    Parameters
    ----------
    layer
        Its number.
    states
        ``[position, d_model]`` for each loss, the gradient by the state before the block.
    inside
        For each loss, the gradients by the tensors that were asked for.
    """

    layer: int
    states: list[Tensor]
    inside: list[list[Tensor]]


class TextGradients:
    """One text, whose loss is the mean over next tokens of minus their log probability.

    A pass keeps the states between blocks. The gradient then goes from the head back through one
    block after the other, so that what parameters hold themselves (``.grad``) is left alone. Each
    block is run again for itself, and never more than one block's graph is held; or, where there
    is room for all of them, the pass itself records its blocks, which saves a pass. Call it while
    the model runs with gradients.

    Parameters
    ----------
    text
        One row without padding.
    skip
        At how many tokens of its beginning what comes next does not count.
    tick
        Called before each block; may raise to stop.
    inside
        By what else the losses are differentiated.
    record
        Let the pass record its blocks. What ``inside`` gives must not be weights.

    Attributes
    ----------
    states
        ``[1, position, d_model]`` each: before every block, and after the last.
    replayed
        How far states after a block run again are from those of the pass, of the largest.
    """

    def __init__(
        self,
        model: LensModel,
        text: Tokens,
        skip: int,
        tick: Callable[[], None],
        inside: Inside = lambda layer: nullcontext([]),
        *,
        record: bool = False,
    ) -> None:
        self.model, self.skip, self.tick, self.inside = model, skip, tick, inside
        self.text = text.plain
        self.states: list[Tensor] = []
        self.replayed = 0.0

        def keep(_: int, state: Tensor) -> None:
            tick()
            self.states.append(state)

        self._recorded: list[tuple[RecordedBlock, Sequence[Tensor]]] = []
        self.calls: list[BlockCall] = []
        if record:
            with ExitStack() as stack:
                more = [stack.enter_context(inside(layer)) for layer in range(model.n_layers)]
                found = record_blocks(model, self.text, partial(keep, 0))
            self._recorded = list(zip(found, more, strict=True))
        else:
            self.calls, _ = capture_calls(model, self.text, keep, logits=None, for_autograd=True)

    @property
    def following(self) -> Tensor:
        """The next tokens that are predicted, ``[n]``."""
        return self.text.ids[0, self.skip + 1 :]

    def back(self, *wanted: Tensor, weight: float = 1.0) -> tuple[list[float], list[Tensor]]:
        """Losses of the pass, and their gradients by the last state ``[1, position, d_model]``.

        Parameters
        ----------
        wanted
            ``[n]`` for each loss, what should have come next.
        weight
            What the losses are multiplied with.
        """
        last = self.states[-1].detach().clone().requires_grad_()
        # The head is the largest product of all: it is made once for all losses.
        logits = self.model.unembed(last[0, self.skip : -1]).float()
        losses = [
            nn.functional.cross_entropy(logits, tokens.to(logits.device)) * weight
            for tokens in wanted
        ]
        found = [
            torch.autograd.grad(loss, last, retain_graph=number + 1 < len(losses))[0]
            for number, loss in enumerate(losses)
        ]
        return [float(loss.detach()) for loss in losses], found

    def blocks(self, lasts: Sequence[Tensor]) -> Iterator[BlockGradients]:
        """Carry gradients by the last state back, block by block, from the last on.

        Each block runs once for all losses.
        """
        for layer in range(self.model.n_layers - 1, -1, -1):
            self.tick()
            if self._recorded:
                (leaf, after), more = self._recorded.pop()
                found = _back(after, [leaf, *more], lasts)
            else:
                leaf = self.states[layer].detach().clone().requires_grad_()
                with self.inside(layer) as more:
                    after = self.calls[layer](leaf)
                    found = _back(after, [leaf, *more], lasts)
                self._watch(layer, after.detach())
            lasts = [slopes[0] for slopes in found]
            states = [last[0] for last in lasts]
            yield BlockGradients(layer, states, [slopes[1:] for slopes in found])

    def _watch(self, layer: int, after: Tensor) -> None:
        wanted = self.states[layer + 1].to(after.device)
        off = (after - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)
        self.replayed = max(self.replayed, float(off))

    def whole_way(self, wanted: Tensor, weights: Sequence[nn.Parameter] = ()) -> list[Tensor]:
        """The gradients by one pass of the whole model and its way back, to compare with.

        Returns
        -------
        list of Tensor
            By the state before the first block ``[1, position, d_model]``, and by each weight.
        """
        leaf = torch.zeros_like(self.states[0]).requires_grad_()
        with recorded(weights):
            added = Change(Site("resid_pre", 0), "add", leaf[0])
            loss = loss_of(self.model, self.text, self.skip, wanted, [added])
            found = torch.autograd.grad(
                loss, [leaf, *weights], allow_unused=True, materialize_grads=True
            )
        return list(found)


def _back(after: Tensor, by: Sequence[Tensor], lasts: Sequence[Tensor]) -> list[list[Tensor]]:
    """For each gradient by what a block gave, those by these tensors."""
    found = []
    for number, last in enumerate(lasts):
        slopes = torch.autograd.grad(
            after,
            by,
            last.to(after),
            retain_graph=number + 1 < len(lasts),
            allow_unused=True,
            materialize_grads=True,
        )
        found.append(list(slopes))
    return found


def recorded_bytes(model: LensModel, longest: int) -> int:
    """About what the graph of one block takes, for a text of so many tokens."""
    state = longest * model.d_model * model.dtype.itemsize
    heads = max(block.n_heads for block in model.anatomy.blocks)
    return 20 * state + heads * longest**2 * model.dtype.itemsize


def loss_of(
    model: LensModel, text: Tokens, skip: int, wanted: Tensor, changes: Sequence[Change] = ()
) -> Tensor:
    """The loss of one pass of the whole model, recorded for autograd; see `TextGradients`."""
    final: list[Tensor] = []
    last = Site("resid_post", model.n_layers - 1)
    forward(
        model,
        text,
        [last],
        lambda _, state: final.append(state),
        logits=None,
        changes=changes,
        gradients=True,
    )
    logits = model.unembed(final[0][0, skip:-1]).float()
    return nn.functional.cross_entropy(logits, wanted.to(logits.device))


def norm(*values: Tensor) -> float:
    """Euclidean norm of all numbers together; NaN where there are none."""
    squares = [float(value.float().square().sum()) for value in values]
    return float(sum(squares)) ** 0.5 if squares else float("nan")


@contextmanager
def recorded(parameters: Sequence[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
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


@contextmanager
def recorded_block(model: LensModel, layer: int) -> Iterator[list[nn.Parameter]]:
    """All weights of a block, in memory throughout, each with a gradient recorded."""
    block = model.hf.get_submodule(model.anatomy.blocks[layer].path)
    with model.present([layer]), recorded(list(block.parameters())) as weights:
        yield weights
