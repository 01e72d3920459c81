"""The linear model of one run: patterns and norms as they were, MLPs replaced by what they wrote.

What is left of the network adds, scales and mixes by fixed numbers, so each value is a sum over
what was written before it: `HeldModel.effects` finds the terms by backward passes through it,
many targets at a time, and `HeldModel.constants` what is there when nothing is written.

`layerlens.run.flow.holding` holds the same in a pass that keeps its own numbers, and
`layerlens.run.frozen` the whole model, MLPs and all. Here the linear model is also run where
nothing is written, or all of it, by which its sums are checked, and thousands of backward passes go
neither through MLPs nor through queries and keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.analyses.circuits.recorded import Recorded
from layerlens.analyses.contributions.frozen_norm import FrozenNorms
from layerlens.model.sites import Site
from layerlens.run.attention import held_pattern
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.hooks import on_input, on_output, watch_attention

if TYPE_CHECKING:
    from layerlens.model.anatomy import Tap

States = dict[Site, Tensor]


class HeldModel:
    """A linear model of one run.

    Parameters
    ----------
    run
        What is held.
    rows
        Targets that are followed at once.
    """

    def __init__(self, run: Recorded, rows: int) -> None:
        self.run, self.rows = run, rows
        self.reads = [run.stand_ins[layer].read for layer in sorted(run.stand_ins)]
        shape = (rows, run.length, run.model.d_model)
        self._leaves = {site: torch.zeros(shape) for site in (run.first, *run.writes)}
        self._states: States = {}

    def constants(self) -> States:
        """States ``[position, d_model]`` where tokens, features and errors write nothing."""
        run = self.run
        written = {site: run.constant(site.block)[None] for site in run.writes}
        return self._states_of(torch.zeros_like(run.values[run.first])[None], written)

    def reproduced(self) -> States:
        """States where all of them write what they wrote."""
        run = self.run
        written = {
            site: (run.constant(site.block) + run.written(site.block) + run.error(site.block))[None]
            for site in run.writes
        }
        return self._states_of(run.values[run.first][None], written)

    def _states_of(self, first: Tensor, written: Mapping[Site, Tensor]) -> States:
        found = self._pass(first, written, gradients=False)
        return {site: state[0].float().cpu() for site, state in found.items()}

    def effects(self, targets: Sequence[tuple[Site, int, Tensor]]) -> States:
        """How much what is written counts for some targets.

        Parameters
        ----------
        targets
            For each the state that it reads, the position, and the direction ``[d_model]``; at
            most `rows`.

        Returns
        -------
        dict
            Site (``resid_pre`` of block 0, ``mlp_out`` of each layer) to directions ``[target,
            position, d_model]`` float32: what is written there, along them, is a term.
        """
        leaves = list(self._leaves.values())
        if not self._states:
            for leaf in leaves:
                leaf.requires_grad_()
            first, *written = leaves
            self._states = self._pass(
                first, dict(zip(self.run.writes, written, strict=True)), gradients=True
            )
        along = {}
        for row, (site, position, direction) in enumerate(targets):
            if site not in along:
                along[site] = torch.zeros_like(self._states[site])
            along[site][row, position] = direction.to(along[site])
        with self.run.model.running(gradients=True):
            found = torch.autograd.grad(
                [self._states[site] for site in along], leaves, list(along.values()),
                retain_graph=True, allow_unused=True, materialize_grads=True,
            )  # fmt: skip
        return {site: one[: len(targets)] for site, one in zip(self._leaves, found, strict=True)}

    def _pass(self, first: Tensor, written: Mapping[Site, Tensor], *, gradients: bool) -> States:
        """States of a pass in which all but what is linear is held."""
        run, found, gate = self.run, dict[Site, Tensor](), Gate()
        model = run.model

        def wrote(site: Site) -> Callable[[], Tensor]:
            def value() -> Tensor:
                if (stand_in := run.stand_ins.get(site.block)) is None:
                    return written[site]
                past = run.beside(site.block, found[stand_in.read])
                return written[site] if past is None else written[site].to(past) + past

            return value

        with model.running(gradients=gradients), ExitStack() as stack:
            for path, norm in run.norms.items():
                _hold_norm(model.hf.get_submodule(path), norm, gate, stack)
            # After those: a norm may be what hands over what an MLP wrote.
            _put(run, model.anatomy.tap(run.first), lambda: first, gate, stack)
            for site in written:
                _put(run, model.anatomy.tap(site), wrote(site), gate, stack)
            for layer, pattern in run.patterns.items():
                own = model.anatomy.blocks[layer].attention == "spy"
                watch_attention(model, layer, held_pattern(pattern, whole=own), gate, stack)
            sites = dict.fromkeys([*self.reads, run.last])
            forward(
                model, run.tokens.repeated(len(first)), sites, found.__setitem__, logits=None,
                gradients=gradients,
            )  # fmt: skip
        return found


def _put(
    run: Recorded, tap: Tap, value: Callable[[], Tensor], gate: Gate, stack: ExitStack
) -> None:
    """Set what passes at a tap; what was there leads nowhere any more."""
    hook = on_input if tap.side == "input" else on_output

    def new(old: Tensor) -> Tensor:
        return tap.unscaled(run.model.hf, value().to(old)).reshape(old.shape)

    stack.callback(hook(run.model.hf.get_submodule(tap.module), gate, new).remove)
    for path in tap.plus:  # the one module writes all of the sum
        stack.callback(on_output(run.model.hf.get_submodule(path), gate, torch.zeros_like).remove)


def _hold_norm(module: nn.Module, norm: FrozenNorms, gate: Gate, stack: ExitStack) -> None:
    """Let a norm scale each position as it did."""

    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if not gate.open:
            return None
        x: Tensor = args[0].flatten(0, -2)
        times = replace(norm, inverse=norm.inverse.repeat(len(x) // len(norm.inverse)))
        return (times.push(x) + norm.offset.to(x)).view(output.shape)

    stack.callback(module.register_forward_hook(hook).remove)
