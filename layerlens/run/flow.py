"""What a derivative flows through while a model runs: parts held where they are, same numbers.

Rules of relevance, and models that stand in for a model at one text, differ from a plain gradient
only in what they hold: statistics of norms, slopes of activations, attention patterns. Every
number of the pass stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from layerlens.errors import ModelError, SiteError
from layerlens.model.linear import adds_up
from layerlens.model.sites import Site
from layerlens.model.sums import close, is_norm
from layerlens.model.watch import first_tensor, stream_argument, with_tensor
from layerlens.run.changes import Change
from layerlens.run.forward import forward
from layerlens.run.gate import Gate
from layerlens.run.norms import centre, measure_norm
from layerlens.run.where import editable_sites

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

_GATED: WeakKeyDictionary[LensModel, tuple[bool, ...]] = WeakKeyDictionary()
_LINEAR: WeakKeyDictionary[LensModel, bool] = WeakKeyDictionary()
_MEASURED: WeakKeyDictionary[nn.Module, _Measured] = WeakKeyDictionary()
_WRITES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Flow:
    """How much of a derivative passes where a block multiplies two things that depend on its input.

    Norms pass theirs with the statistics held, activations by their slope from zero, ``a(u) / u``.

    Attributes
    ----------
    query_key
        Share that passes each of queries and keys; 0 holds the pattern.
    value
        Share that passes the values.
    product
        Share that passes the product of a gated MLP.
    gate
        Share of that which passes its activation; 0 holds it. The activation of an MLP without a
        gate passes all.
    """

    query_key: float
    value: float
    product: float
    gate: float

    def changes(self, model: LensModel) -> list[Change]:
        """What stands for the shares, to be made before a derivative is taken at the same site."""
        found = []
        for layer in range(model.n_layers):
            shares = {**dict.fromkeys(_scored(model, layer), self.query_key), "v": self.value}
            if gated(model)[layer]:
                shares["mlp_post"] = self.product
            found += [
                Change(Site(kind, layer), "flow", share)
                for kind, share in shares.items()
                if share != 1
            ]
        return found


def _scored(model: LensModel, layer: int) -> tuple[str, ...]:
    """Kinds of the sites at which queries and keys can be reached: by themselves, or as scores."""
    kinds = model.anatomy.blocks[layer].scored
    try:
        for kind in kinds:
            editable_sites(model, kind, [layer])
    except SiteError:
        return ("attn_scores",)
    return kinds


@dataclass
class Offsets:
    """What norms add whatever they are given.

    Attributes
    ----------
    of
        Path of a norm to its offset, ``[width]``, with gradients recorded.
    """

    of: dict[str, Tensor] = field(default_factory=dict)


def require_flow(model: LensModel) -> None:
    """Raise where a block has parts through which no derivative is known to flow by a rule.

    Raises
    ------
    ModelError
        A block has no softmax attention, an MLP has no activation of its own, or the head is more
        than one linear map.
    """
    for layer, block in enumerate(model.anatomy.blocks):
        if block.attention is None:
            raise ModelError(
                f"Block {layer} of {model.name} has no softmax attention, and no rule says how "
                "relevance passes it: take rule='input_x_gradient' or 'integrated'."
            )
        if "mlp_out" in block.taps and not {"mlp_pre", "mlp_post"} <= block.taps.keys():
            raise ModelError(
                f"The MLP of block {layer} of {model.name} has no one activation (experts share "
                "it, or it is part of a larger function), and no rule says how relevance passes "
                "it: take rule='input_x_gradient' or 'integrated'."
            )
    if not _linear_head(model):
        raise ModelError(
            f"The head of {model.name} is more than one linear map, and no rule says how "
            "relevance passes it: take rule='input_x_gradient' or 'integrated'."
        )


def _linear_head(model: LensModel) -> bool:
    """Whether the head is one linear map; tried once a model, which reads all of its weights."""
    head = model.anatomy.head
    if model not in _LINEAR:
        with model.running():
            like = model.head_input(torch.zeros(1, model.d_model).to(model.device, model.dtype))
            _LINEAR[model] = head is None or adds_up(model.hf.get_submodule(head.head), like)
    return _LINEAR[model]


def gated(model: LensModel) -> tuple[bool, ...]:
    """Whether what each block's activation gives is multiplied on its way to the last projection.

    Found by one token, once a model.
    """
    if model not in _GATED:
        seen: dict[Site, Tensor] = {}
        blocks = model.anatomy.blocks
        layers = [layer for layer, block in enumerate(blocks) if "mlp_post" in block.taps]
        sites = [Site(kind, layer) for layer in layers for kind in ("mlp_pre", "mlp_post")]
        with model.running():
            tokens = model.tokens([model.d_vocab_in // 2])
            keep = lambda site, value: seen.update({site: value.clone()})  # noqa: E731
            forward(model, tokens, sites, keep, logits=None)
            found = [False] * model.n_layers
            for layer in layers:
                pre, post = (seen[Site(kind, layer)] for kind in ("mlp_pre", "mlp_post"))
                activation = model.hf.get_submodule(blocks[layer].taps["mlp_pre"].module)
                found[layer] = not close(activation(pre.clone()), post, model.dtype)
        _GATED[model] = tuple(found)
    return _GATED[model]


@contextmanager
def holding(model: LensModel, flow: Flow) -> Iterator[Offsets]:
    """Let derivatives pass norms and activations by the rules; the shares at sites are changes.

    Passes of this thread with gradients recorded give the numbers that they would give anyhow.
    """
    gate, offsets = Gate(), Offsets()
    with ExitStack() as stack:
        for path, module in model.hf.named_modules():
            if is_norm(module):
                hook = _Norm(model, path, gate, offsets)
                stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for module, share in activations(model, flow):
            _Slope(gate, share).hook(module, stack)
        yield offsets


def activations(model: LensModel, flow: Flow) -> Iterator[tuple[nn.Module, float]]:
    """The activations of the MLPs and before the head, with the share that passes each."""
    for layer, block in enumerate(model.anatomy.blocks):
        if "mlp_post" in block.taps:
            module = model.hf.get_submodule(block.taps["mlp_pre"].module)
            yield module, flow.gate if gated(model)[layer] else 1.0
    for path in model.anatomy.head.chain if model.anatomy.head else ():
        for module in model.hf.get_submodule(path).modules():
            bare = not list(module.children()) and not list(module.parameters())
            if bare and not is_norm(module):
                yield module, 1.0


class _Held(torch.autograd.Function):
    """What a norm gave, as it is; derivatives pass with its statistics held."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        offset: Tensor | None,
        y: Tensor,
        gain: Tensor,
        scale: Tensor,
        centred: bool,
    ) -> Tensor:
        ctx.save_for_backward(gain, scale)
        ctx.centred, ctx.dtype = centred, x.dtype
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        gain, scale = ctx.saved_tensors
        slope = slopes[0].float()
        added = slope.sum_to_size(gain.shape) if ctx.needs_input_grad[1] else None
        passed = centre(slope * gain * scale, ctx.centred)
        return passed.to(ctx.dtype), added, None, None, None, None


class _Norm:
    """A norm whose statistics are held, and whose offset can be differentiated by."""

    def __init__(self, model: LensModel, path: str, gate: Gate, offsets: Offsets) -> None:
        self._model, self._path, self._gate = model, path, gate
        self._offsets = offsets
        self._found: NormParts | None = None

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        x, y = stream_argument(args, kwargs), first_tensor(output)
        if not self._gate.open or not y.requires_grad or x.shape != y.shape:
            return None
        parts = self._measured(module, x)
        with torch.no_grad():
            scale = norm_scale(x, y, parts)
        held = _Held.apply(  # type: ignore[no-untyped-call]
            x, parts.offset, y.detach(), parts.gain, scale, parts.centred
        )
        return with_tensor(output, y, held)

    def _measured(self, module: nn.Module, x: Tensor) -> NormParts:
        """What the norm does; measured at the first input."""
        if self._found is None:
            found = measured_norm(self._model, module, x)
            if found.offset is not None:
                leaf = found.offset.detach().requires_grad_()
                self._offsets.of[self._path], found = leaf, found._replace(offset=leaf)
            self._found = found
        return self._found


class _Sloped(torch.autograd.Function):
    """What an activation gave, as it is; derivatives pass times a slope."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, a: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return slopes[0] * slope, None, None


class Passing:
    """Hooks of an activation that give something else, made of what it was given and what it gave.

    Parameters
    ----------
    gate
        Which calls are looked at.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._given: Tensor | None = None

    def hook(self, module: nn.Module, stack: ExitStack) -> None:
        """Watch a module until the stack closes."""
        stack.callback(module.register_forward_pre_hook(self._before, with_kwargs=True).remove)
        stack.callback(module.register_forward_hook(self._after).remove)

    def passed(self, u: Tensor, a: Tensor) -> Tensor | None:
        """What goes on in the place of ``a``, what the activation made of ``u``; None for ``a``."""
        raise NotImplementedError

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not self._gate.open:
            return None
        self._given = given = stream_argument(args, kwargs)
        if not args:
            return None
        return (
            given.detach().clone() if _writes(module, given) else given.detach(),
            *args[1:],
        ), kwargs

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        u, self._given = self._given, None
        if u is None or not self._gate.open:
            return None
        a = first_tensor(output)
        passed = self.passed(u, a)
        return None if passed is None else with_tensor(output, a, passed)


class _Slope(Passing):
    """An activation that passes derivatives by its slope from zero."""

    def __init__(self, gate: Gate, share: float) -> None:
        super().__init__(gate)
        self._share = share

    def passed(self, u: Tensor, a: Tensor) -> Tensor:
        if not self._share:
            return a.detach()
        with torch.no_grad():
            slope = slope_from_zero(u, a)
            if self._share != 1:
                slope *= self._share
        sloped: Tensor = _Sloped.apply(u, a.detach(), slope)  # type: ignore[no-untyped-call]
        return sloped


def slope_from_zero(u: Tensor, a: Tensor) -> Tensor:
    """``a / u``; 0 where nothing was given."""
    return (a / u).nan_to_num_(0.0, 0.0, 0.0)  # in one go, where a mask would take two


def _writes(module: nn.Module, given: Tensor) -> bool:
    """Whether an activation writes into what it is given, as some do; tried once."""
    if module not in _WRITES:
        with torch.inference_mode(False), torch.no_grad():
            copy = given[:1].detach().clone()
            version = copy._version
            module.forward(copy)
            _WRITES[module] = copy._version != version
    return _WRITES[module]


class NormParts(NamedTuple):
    """What a norm does besides dividing by its statistics.

    Parameters
    ----------
    gain, offset
        Float32, beside its input and as wide (a norm of heads has their axis, too); no offset is
        None.
    centred
        Whether the mean goes.
    """

    gain: Tensor
    offset: Tensor | None
    centred: bool


class _Measured(NamedTuple):
    """A norm that was measured, with the weights that it had."""

    weights: tuple[Tensor, ...]
    like: Tensor
    parts: NormParts

    def holds(self, weights: Sequence[Tensor], like: Tensor) -> bool:
        """Whether the same would be found again."""
        pairs = list(zip(self.weights, weights, strict=True))
        return (
            self.like.shape == like.shape
            and all(
                a.device == b.device and a.dtype == b.dtype for a, b in [(self.like, like), *pairs]
            )
            and not any(weight.is_meta for weight in weights)
            and all(torch.equal(before, now) for before, now in pairs)
        )


def measured_norm(model: LensModel, module: nn.Module, x: Tensor) -> NormParts:
    """What a norm does; measured once, and again when its weights are others."""
    like = x.detach()[(0,) * min(2, x.dim() - 1)]  # norms of heads keep their axis
    own = (*module._parameters.values(), *module._buffers.values())  # a norm has no children
    weights = [weight.detach() for weight in own if weight is not None]
    known = _MEASURED.get(module)
    if known is not None and known.holds(weights, like):
        return known.parts
    with torch.no_grad():
        gain, offset, centred = measure_norm(model, module.forward, like)
        gain, offset = (found.clone().to(x.device, torch.float32) for found in (gain, offset))
        parts = NormParts(gain, offset if offset.any() else None, centred)
        _MEASURED[module] = _Measured(tuple(w.clone() for w in weights), like.clone(), parts)
    return parts


def norm_scale(x: Tensor, y: Tensor, parts: NormParts) -> Tensor:
    """By what a norm multiplied each input to get ``y``, ``[..., 1]`` float32."""
    linear = centre(x.float(), parts.centred) * parts.gain
    given = y.float() if parts.offset is None else y.float() - parts.offset
    before, after = (torch.linalg.vector_norm(v, dim=-1, keepdim=True) for v in (linear, given))
    scale: Tensor = after / before.clamp(min=torch.finfo(torch.float32).tiny)
    return scale
