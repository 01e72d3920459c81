"""One pass through a model that hands over chosen sites the moment they have a value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from layerlens.errors import SiteError
from layerlens.model.anatomy import Tap
from layerlens.model.linear import offset
from layerlens.model.sites import GLOBAL, HEADS, Site
from layerlens.model.sums import is_scale
from layerlens.model.text import Tokens
from layerlens.model.watch import first_tensor, stream_argument
from layerlens.run.attention import Watch, watching
from layerlens.run.changes import SQUARE, Change
from layerlens.run.gate import Gate
from layerlens.run.hooks import Reading, install, is_crossing, is_inside, plain_rows
from layerlens.run.requests import remote_forward

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.remote import RemoteModel

OnSite = Callable[[Site, Tensor], None]


def forward(
    model: LensModel,
    tokens: Tokens,
    sites: Iterable[Site],
    on_site: OnSite,
    *,
    logits: Literal["all", "last"] | None = "last",
    changes: Sequence[Change] = (),
    gradients: bool = False,
) -> Tensor | None:
    """Run one pass on the calling thread; call ``on_site`` as each site gets its value.

    Parameters
    ----------
    model
        The model; its lock is held and ``eval`` mode is on during the pass.
    tokens
        What to run, ``[batch, position]``.
    sites
        Which sites to hand over, each with its layer.
    on_site
        Called inside the pass with the site and its tensor: ``[batch, position, width]``
        for the stream, with an axis of heads for attention (see
        :class:`layerlens.run.attention.Watch`). The tensor is the model's own: do not
        write to it, and clone it to keep it beyond the pass if the model may write to it.
        An exception raised in it ends the pass; all hooks are removed.
    logits
        ``"all"`` positions, the ``"last"`` one, or None, which ends the pass before the head.
    changes
        What to change on the way, those at one site in this order; a site that is read is
        handed over after it was changed.
    gradients
        Record the pass for autograd, so that what it gives can be differentiated with
        respect to tensors among the changes.

    Returns
    -------
    Tensor or None
        The model's own logits, ``[batch, position or 1, vocabulary]``, one position for a head
        that answers once for all; None for a model without a head.

    Raises
    ------
    SiteError
        If a site does not exist in this model, or did not fire exactly once; or if a
        change never met its site.
    """
    if model.remote is not None:
        if gradients:
            model.refuse()
        there = cast("RemoteModel", model)
        return remote_forward(there, tokens, sites, on_site, logits=logits, changes=changes)
    sites = list(sites)
    fired: Counter[Site] = Counter()
    gate = Gate()

    def hand_over(site: Site, tensor: Tensor) -> None:
        fired[site] += 1
        with gate.closed():
            on_site(site, tensor)

    with model.running(gradients=gradients), ExitStack() as stack:
        reading = {
            layer: _attention_reading(model, layer, group, hand_over)
            for layer, group in _by_attention(model, sites).items()
        }
        installed = install(model, changes, plain_rows, gate, stack, reading=reading)
        _read_crossing(model, sites, hand_over, stack)
        read_taps(model, sites, tokens.ids.shape[0], hand_over, gate, stack)
        changes_last = any(change.site.kind in GLOBAL for change in changes)
        asked = "all" if logits and changes_last else logits
        given = run_model(model, tokens, asked, gate, stack)
    installed.require_all()
    wrong = [site for site in sites if fired[site] != 1]
    if wrong:
        raise SiteError(
            f"{wrong[0]} fired {fired[wrong[0]]} times in one pass instead of once; "
            "what was recorded cannot be trusted."
        )
    return given if given is None or logits == "all" else given[:, -1:]


class _HeadReachedError(Exception):
    """Ends a pass of which no logits are wanted."""


def run_model(
    model: LensModel,
    tokens: Tokens,
    logits: Literal["all", "last"] | None,
    gate: Gate,
    stack: ExitStack,
) -> Tensor | None:
    """Call the model itself, and return its logits.

    Without ``logits`` the pass ends where the head would begin, behind the hooks that are on its
    input already: of a short text, to read the head's weights takes as long as several blocks.
    """
    if logits is None and model.anatomy.head is not None:
        head = model.hf.get_submodule(model.anatomy.head.head)
        stack.callback(head.register_forward_pre_hook(partial(_end, gate)).remove)
    with suppress(_HeadReachedError):
        output = model.hf(**model_inputs(model, tokens, logits or "all"))
        given: Tensor | None = getattr(output, "logits", None)
        if given is not None and given.dim() == 2:  # one answer for all positions
            given = given.unsqueeze(1)
        return None if logits is None else given
    return None


def _end(gate: Gate, module: nn.Module, args: tuple[Any, ...]) -> None:
    if gate.open:
        raise _HeadReachedError


def model_inputs(
    model: LensModel, tokens: Tokens, logits: Literal["all", "last"] | None
) -> dict[str, Any]:
    """The keyword arguments of the model's own ``forward`` for these tokens."""
    return model.feed.arguments(model.hf, tokens, last_only=logits != "all")


def read_taps(
    model: LensModel,
    sites: Sequence[Site],
    batch: int,
    hand_over: OnSite,
    gate: Gate,
    stack: ExitStack,
) -> None:
    """Hand over the sites that lie outside the attention function, until the stack closes."""
    for tap, group in _by_tap(model, sites).items():
        reader = _Reader(model, tap, group, batch, hand_over, gate)
        paths = (tap.module, *tap.plus)
        adder = _Adder(reader, len(paths))
        for index, path in enumerate(paths):
            take = adder.take(index) if tap.plus else reader
            module = model.hf.get_submodule(path)
            stack.callback(_hook(module, tap, take, gate).remove)


def _by_tap(model: LensModel, sites: Sequence[Site]) -> dict[Tap, list[Site]]:
    groups: dict[Tap, list[Site]] = {}
    for site in sites:
        if not is_inside(model, site):
            groups.setdefault(model.anatomy.tap(site), []).append(site)
    return groups


def _by_attention(model: LensModel, sites: list[Site]) -> dict[int, list[Site]]:
    groups: dict[int, list[Site]] = {}
    for site in sites:
        if is_inside(model, site) and not is_crossing(model, site):
            groups.setdefault(site.block, []).append(site)
    return groups


class _Reader:
    """Turns what passes at a tap into the values of the sites there."""

    def __init__(
        self,
        model: LensModel,
        tap: Tap,
        sites: list[Site],
        batch: int,
        hand_over: OnSite,
        gate: Gate,
    ) -> None:
        self._model = model
        self._tap = tap
        self._sites = sites
        self._batch = batch
        self._hand_over = hand_over
        self._gate = gate

    def __call__(self, tensor: Tensor) -> None:
        value = self._tap.scaled(self._model.hf, tensor)
        tensor = tensor.clone() if value is tensor and self._tap.volatile else value
        if tensor.dim() == 2:  # some families fold batch and position into one axis
            tensor = tensor.unflatten(0, (self._batch, -1))
        for site in self._sites:
            self._hand_over(site, self._value(site, tensor))

    def _value(self, site: Site, tensor: Tensor) -> Tensor:
        if site.kind in GLOBAL or site.kind not in HEADS:
            return tensor
        if self._tap.columns is not None:
            heads = self._tap.columns.read(tensor)
            return heads if site.head is None else heads[..., site.head, :]
        block = self._model.anatomy.blocks[site.block]
        z: Tensor = tensor.unflatten(-1, (block.n_heads, -1))
        if site.kind == "result":
            with self._gate.closed():
                z = head_writes(self._model, site.block, z, site.head)
            return z if site.head is None else z[..., 0, :]
        return z if site.head is None else z[..., site.head, :]


class _Adder:
    """Waits for the outputs of several modules and hands on their sum."""

    def __init__(self, hand_on: Callable[[Tensor], None], number: int) -> None:
        self._hand_on = hand_on
        self._number = number
        self._parts: dict[int, Tensor] = {}

    def take(self, index: int) -> Callable[[Tensor], None]:
        """What takes the output of the module with this number."""

        def taking(tensor: Tensor) -> None:
            self._parts[index] = tensor.clone()
            if len(self._parts) == self._number:
                first, *rest = (self._parts.pop(index) for index in range(self._number))
                self._hand_on(sum((part.reshape(first.shape) for part in rest), first))

        return taking


def head_writes(model: LensModel, layer: int, z: Tensor, head: int | None = None) -> Tensor:
    """What each head adds to the attention's output: ``z`` through its slice of the projection.

    Parameters
    ----------
    z
        ``[..., head, width]``, all heads.
    head
        Only this one.

    Returns
    -------
    Tensor
        ``[..., head or 1, d_model]``, without the projection's bias; its sum over heads
        plus the bias is the projection's output.
    """
    projection = model.hf.get_submodule(model.anatomy.tap(Site("z", layer)).module)
    heads = range(z.shape[-2]) if head is None else [head]
    bias = offset(projection, z.flatten(-2))
    writes = []
    for index in heads:
        alone = torch.zeros_like(z)
        alone[..., index, :] = z[..., index, :]
        write = projection(alone.flatten(-2))
        writes.append(write if bias is None else write - bias)
    return torch.stack(writes, dim=-2)


def through_scales(model: LensModel, tap: Tap, parts: Tensor) -> Tensor:
    """What parts of a projection's output, ``[..., d_model]``, are where the stream gets them.

    Learned factors of single units stand between the two in some families (LayerScale); a norm,
    which takes parts together, is not passed. The same numbers lead a direction back.
    """
    module = model.hf.get_submodule(tap.module)
    if is_scale(module):
        with model.evaluating(), torch.no_grad():
            parts = module(parts)
    return tap.scaled(model.hf, parts)


def _hook(
    module: nn.Module, tap: Tap, reader: Callable[[Tensor], None], gate: Gate
) -> torch.utils.hooks.RemovableHandle:
    """Hook a module; calls on other threads (a user's own ``generate``) pass unseen."""

    def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if gate.open:
            reader(stream_argument(args, kwargs))

    def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if gate.open:
            reader(first_tensor(output))

    if tap.side == "input":
        return module.register_forward_pre_hook(entering, with_kwargs=True)
    return module.register_forward_hook(leaving)


def _read_crossing(
    model: LensModel, sites: list[Site], hand_over: OnSite, stack: ExitStack
) -> None:
    """Hand over what is inside the attention to an encoder's states, until the stack closes."""
    groups: dict[int, list[Site]] = {}
    for site in sites:
        if is_crossing(model, site):
            groups.setdefault(site.block, []).append(site)
    for layer, group in groups.items():

        def see(kind: str, tensor: Tensor, group: list[Site] = group) -> None:
            for site in group:
                if site.kind == f"cross_{kind}":
                    axis = 1 if kind in SQUARE else 2
                    hand_over(site, tensor if site.head is None else tensor.select(axis, site.head))

        kinds = frozenset(site.kind.removeprefix("cross_") for site in group)
        mixer = model.hf.get_submodule(model.anatomy.blocks[layer].cross_mixer or "")
        stack.enter_context(watching(mixer, Watch(kinds, see)))


def _attention_reading(
    model: LensModel, layer: int, sites: list[Site], hand_over: OnSite
) -> Reading:
    block = model.anatomy.blocks[layer]
    if block.attention is None or block.mixer is None:
        model.anatomy.tap(sites[0])  # raises, and says why

    def see(kind: str, tensor: Tensor) -> None:
        for site in sites:
            if block.watched(site.kind) == kind:
                axis = 1 if kind in SQUARE else 2
                hand_over(site, tensor if site.head is None else tensor.select(axis, site.head))

    return Reading(frozenset(block.watched(site.kind) or "" for site in sites), see)
