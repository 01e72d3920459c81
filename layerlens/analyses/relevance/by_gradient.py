"""Relevance of one text from one pass and a way back for each answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.relevance.explained import Explained
from layerlens.analyses.relevance.rules import FLOWS, biases, layer_of
from layerlens.model.sites import Site
from layerlens.run.flow import Offsets, holding
from layerlens.run.gate import Gate
from layerlens.run.gradients import recorded_pass
from layerlens.run.replay import BlockCall, watch_calls

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class Found(NamedTuple):
    """What one answer leans on.

    Parameters
    ----------
    value
        The answer's number in the pass with the rule.
    at
        Site to relevance, ``[position]`` float64.
    neurons
        Layer to the relevance of its neurons, summed over positions, ``[neuron]`` float64.
    along
        Site to the derivative along all that passes there.
    constant
        ``[n_layers + 1]`` float64: what has no token, because biases from this block on add it;
        the last is that of the final norm and the head.
    behind_neurons
        Layer to what the bias of the projection behind its neurons adds.
    """

    value: float
    at: dict[Site, np.ndarray]
    neurons: dict[int, np.ndarray]
    along: dict[Site, float]
    constant: np.ndarray
    behind_neurons: dict[int, float]


class RulePass:
    """One pass through which a rule goes back as often as it is asked; see :func:`rule_pass`.

    Attributes
    ----------
    final
        ``[1, d_model]``, the state after the last block where the text is answered.
    block_off
        How far the state after one block is from what the block makes by itself, without the rule,
        of the same input; relative, and there when the pass is left.
    """

    block_off = float("nan")

    def __init__(
        self,
        model: LensModel,
        rule: str,
        final: Tensor,
        nodes: tuple[Mapping[Site, Tensor], Mapping[Site, Tensor]],
        adding: Callable[[], dict[str, Tensor]],
    ) -> None:
        self.final = final
        self._model, self._rule, self._adding = model, rule, adding
        self._sites, self._neurons = nodes

    def back(self, explained: Sequence[Explained]) -> list[Found]:
        """What each answer leans on: one way back each, of which the last frees the pass."""
        last = len(explained) - 1
        return [self._one(number, keep=i < last) for i, number in enumerate(explained)]

    def _one(self, number: Explained, *, keep: bool) -> Found:
        value = number(self.final)[0]
        adding = self._adding()  # that of the norm before the head is known by now
        every = [*self._sites.values(), *self._neurons.values(), *adding.values()]
        slopes = iter(
            torch.autograd.grad(
                value, every, retain_graph=keep, allow_unused=True, materialize_grads=True
            )
        )
        at, along, neurons = {}, {}, {}
        for site, node in self._sites.items():
            at[site], along[site] = _carried(node, next(slopes), self._rule)
        for site, node in self._neurons.items():
            products = _products(node, next(slopes)).double().cpu()
            neurons[site.block], along[site] = products.sum(0).numpy(), float(products.sum())
        parts = added(adding, dict(zip(adding, slopes, strict=True)))
        behind = {site.block: _behind(self._model, site.block, parts) for site in self._neurons}
        constant = _constant(self._model, parts)
        return Found(float(value.detach()), at, neurons, along, constant, behind)


@contextmanager
def rule_pass(
    model: LensModel,
    text: Tokens,
    place: int,
    sites: Sequence[Site],
    rule: str,
    *,
    neurons: Sequence[Site] = (),
    again: int | None = None,
) -> Iterator[RulePass]:
    """Run a text so that a rule can go back through it.

    Parameters
    ----------
    place
        Position that is answered.
    sites
        Where the relevance of tokens is asked for.
    neurons
        Where the relevance of neurons is asked for.
    again
        A block to run by itself afterwards; see :class:`RulePass`.
    """
    last = Site("resid_post", model.n_layers - 1)
    checked = None if again is None else Site("resid_post", again)
    flow = FLOWS.get(rule)
    with ExitStack() as stack:
        stack.enter_context(model.running(gradients=True))
        offsets, plain, shares = Offsets(), {}, []
        if flow is not None:
            offsets = stack.enter_context(holding(model, flow))
            plain = stack.enter_context(biases(model))
            shares = flow.changes(model)
        calls, before = _calls(model, again, stack)
        read = list(dict.fromkeys([last, *([] if checked is None else [checked])]))
        values, nodes = recorded_pass(model, text, [*sites, *neurons], read, shares)
        passed = RulePass(
            model,
            rule,
            values[last][:, place],
            ({site: nodes[site] for site in sites}, {site: nodes[site] for site in neurons}),
            lambda: {**plain, **offsets.of},
        )
        yield passed
    if checked is not None and again is not None:
        with model.running():
            alone = calls[again](before[0])
        passed.block_off = _apart(values[checked].detach(), alone)


def _calls(
    model: LensModel, layer: int | None, stack: ExitStack
) -> tuple[list[BlockCall], list[Tensor]]:
    """How blocks are called, and the state before one of them, when the model has run."""
    before: list[Tensor] = []

    def keep(at: int, state: Tensor, volatile: bool) -> None:
        if at == layer:
            before.append(state.detach().clone() if volatile else state.detach())

    return ([] if layer is None else watch_calls(model, Gate(), stack, keep)), before


def _apart(one: Tensor, other: Tensor) -> float:
    off, size = (one - other).abs().max(), other.abs().max()
    return float(off / size.clamp(min=1e-6))


def by_gradient(
    model: LensModel, text: Tokens, place: int, sites: Sequence[Site], number: Explained, rule: str
) -> Found:
    """What one answer leans on; see :func:`rule_pass`."""
    with rule_pass(model, text, place, sites, rule) as passed:
        return passed.back([number])[0]


def _carried(value: Tensor, slope: Tensor, rule: str) -> tuple[np.ndarray, float]:
    """Relevance of each token by a rule, ``[position]`` float64, and the derivative along all."""
    carried = _products(value, slope).sum(-1)
    found = slope[0].float().norm(dim=-1) if rule == "gradient" else carried
    relevance: np.ndarray = found.double().cpu().numpy()
    return relevance, float(carried.double().sum())


def _products(value: Tensor, slope: Tensor) -> Tensor:
    """Values times derivatives of one text, ``[position, width]`` float32."""
    return value.detach()[0].float() * slope[0].float()


def added(adding: dict[str, Tensor], slopes: dict[str, Tensor]) -> dict[str, float]:
    """What each bias and offset adds to the number, by path."""
    # A bias that suppresses a token (-inf) adds nothing where nothing asks for it.
    return {
        path: float(torch.where(s != 0, adding[path].detach().double() * s.double(), 0.0).sum())
        for path, s in slopes.items()
    }


def _constant(model: LensModel, added: dict[str, float]) -> np.ndarray:
    """What is added from each block on, whatever the tokens are."""
    found = np.zeros(model.n_layers + 1)
    for path, part in added.items():
        layer = layer_of(model, path)
        if layer >= 0:
            found[layer] += part
    return found[::-1].cumsum()[::-1].copy()


def _behind(model: LensModel, layer: int, added: dict[str, float]) -> float:
    """What the projection behind the neurons of a layer adds by itself."""
    down = model.anatomy.blocks[layer].taps["mlp_post"].module
    return sum(part for path, part in added.items() if f"{path}.".startswith(f"{down}."))
