"""One text's pass with every part held as it was: an affine map, run again at other states.

`layerlens.run.flow.holding` lets derivatives pass as if norms, activations and patterns were held,
and keeps the numbers of the pass. Here what was held is kept, and the blocks are called on other
states with it: what they make of a state is then a matrix times the state and a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import ModelError
from layerlens.model.sites import Site
from layerlens.model.sums import is_norm
from layerlens.model.watch import first_tensor, stream_argument, with_tensor
from layerlens.run.answer_place import answer_place
from layerlens.run.attention import held_pattern
from layerlens.run.block_rows import RowCalls
from layerlens.run.flow import (
    Flow,
    NormParts,
    Passing,
    activations,
    measured_norm,
    norm_scale,
    require_flow,
    slope_from_zero,
)
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.hooks import watch_attention
from layerlens.run.norms import centre

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Tick = Callable[[], None]


class FrozenText:
    """The blocks of a model, held at one text.

    Norms multiply each position by what they did and add their offset; activations multiply by
    their slope from zero, or give what they gave; attention looks where it looked.

    Parameters
    ----------
    text
        One text without padding.
    flow
        Which activations give what they gave: those whose derivatives are held, too.
    tick
        Called before each block; may raise to stop.

    Attributes
    ----------
    states
        ``[position, d_model]`` of the model itself, before each block and after the last.
    place
        The position whose final state is asked for: where the text is answered.

    Raises
    ------
    ModelError
        A part of the model is none that can be held.
    """

    def __init__(self, model: LensModel, text: Tokens, flow: Flow, tick: Tick) -> None:
        require_flow(model)
        self.model, self._tick = model, tick
        self.place = answer_place(model, text)
        self._gate = Gate()
        self._norms = {
            path: _HeldNorm(model, path, self._gate)
            for path, module in model.hf.named_modules()
            if is_norm(module)
        }
        self._activations = [
            (module, _HeldActivation(self._gate, share > 0))
            for module, share in activations(model, flow)
        ]
        self._patterns: dict[int, Tensor] = {}
        self._record(text)
        self.states: list[Tensor] = []
        keep = lambda _, state: self.states.append(state[0].clone())  # noqa: E731
        self._rows = RowCalls(model, text, keep, for_autograd=True)

    def final(self, layer: int, states: Tensor, *, held: bool = True) -> Tensor:
        """States after the last block at the place, ``[row, d_model]``.

        Parameters
        ----------
        layer
            The block that is begun with; the number of blocks for none.
        states
            ``[row, position, d_model]`` before it. Where it requires gradients they are recorded.
        held
            Whether all is held as in the text; else the model is as free as ever.
        """
        with (
            self.model.running(gradients=True),
            torch.set_grad_enabled(states.requires_grad),
            ExitStack() as stack,
        ):
            if held:
                self._hook(stack, layer)
            for later in range(layer, self.model.n_layers):
                self._tick()
                states = self._rows(later, states)
            return states[:, self.place]

    def _record(self, text: Tokens) -> None:
        """Run the text once, and keep what is to be held."""
        sites = [Site("pattern", layer) for layer in range(self.model.n_layers)]

        def see(site: Site, pattern: Tensor) -> None:
            self._tick()
            with torch.inference_mode(False):  # else no gradient could pass beside it later
                self._patterns[site.block] = pattern.clone()

        with ExitStack() as stack:
            self._hook(stack, self.model.n_layers)
            forward(self.model, text, sites, see, logits=None)

    def _hook(self, stack: ExitStack, layer: int) -> None:
        """Let norms, activations and the patterns from a block on be held until the stack closes.

        What has nothing to hold yet keeps what passes.
        """
        for path, norm in self._norms.items():
            module = self.model.hf.get_submodule(path)
            stack.callback(module.register_forward_hook(norm, with_kwargs=True).remove)
        for module, activation in self._activations:
            activation.hook(module, stack)
        for later in range(layer, self.model.n_layers):
            own = self.model.anatomy.blocks[later].attention == "spy"
            watch = held_pattern(self._patterns[later], whole=own)
            watch_attention(self.model, later, watch, self._gate, stack)


class _HeldNorm:
    """A norm that keeps its first input's statistics, and takes them for all that follow."""

    def __init__(self, model: LensModel, path: str, gate: Gate) -> None:
        self._model, self._path, self._gate = model, path, gate
        self._held: tuple[NormParts, Tensor] | None = None

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if not self._gate.open:
            return None
        x, y = stream_argument(args, kwargs), first_tensor(output)
        if x.shape != y.shape:
            raise ModelError(
                f"{self._path} of {self._model.name} gives another shape than it is given, so it "
                "cannot be held as a norm: take ll.relevance with rule='input_x_gradient'."
            )
        if self._held is None:
            with torch.inference_mode(False), torch.no_grad():
                parts = measured_norm(self._model, module, x)
                self._held = parts, norm_scale(x, y, parts)
            return None
        (gain, offset, centred), scale = self._held
        new = centre(x.float(), centred) * gain * _for_rows(scale, x)
        new = new if offset is None else new + offset
        return with_tensor(output, y, new.to(y.dtype))


class _HeldActivation(Passing):
    """An activation that keeps its slopes, or what it gave, at its first input."""

    def __init__(self, gate: Gate, sloped: bool) -> None:
        super().__init__(gate)
        self._sloped = sloped
        self._held: Tensor | None = None

    def passed(self, u: Tensor, a: Tensor) -> Tensor | None:
        if self._held is None:
            with torch.inference_mode(False), torch.no_grad():
                self._held = slope_from_zero(u, a) if self._sloped else a.clone()
            return None
        held = _for_rows(self._held, u)
        return u * held if self._sloped else held


def _for_rows(held: Tensor, like: Tensor) -> Tensor:
    """What one text was held at, once for each of the texts that pass."""
    return held.repeat(len(like) // len(held), *[1] * (held.dim() - 1))
