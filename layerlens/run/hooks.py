"""Hooks that change values while a model runs, whoever calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layerlens.errors import InputError, SiteError
from layerlens.model.anatomy import BlockAnatomy, Tap
from layerlens.model.sites import CROSS, GLOBAL, HEADS, Site
from layerlens.model.watch import first_tensor, stream_argument, swapped, with_tensor
from layerlens.run.attention import Watch, watching
from layerlens.run.changes import SQUARE, Change
from layerlens.run.gate import Gate
from layerlens.run.spy import spy_on

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

BETWEEN = {"resid_mid": "attn_out", "resid_mid_cross": "cross_attn_out"}
"""States between sublayers, and what is added last to each."""

Rows = Callable[[Change, int, int], Tensor | None]
"""Called with a change, and batch and length of the present call; gives the numbers of the
rows that the change means in the flattened ``[batch * length]``, or None for none."""


@dataclass(frozen=True)
class Reading:
    """What is read inside an attention, and who is told; see :class:`Watch`."""

    kinds: frozenset[str]
    see: Callable[[str, Tensor], None]


NOTHING = Reading(frozenset(), lambda kind, tensor: None)


def plain_rows(change: Change, batch: int, length: int) -> Tensor:
    """Rows of a call that holds every position of the text."""
    columns = torch.arange(length) if change.positions is None else torch.tensor(change.positions)
    if change.row is not None:
        return change.row * length + columns
    return (torch.arange(batch)[:, None] * length + columns).flatten()


class Installed:
    """What was put on a model: which changes fired, and the shape of the present call."""

    def __init__(self, changes: Sequence[Change], batch: int | None) -> None:
        self.fired: Counter[Site] = Counter()
        self.changes = changes
        self._batch = batch

    def see_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep the batch of a call of the whole model; some modules fold it into positions."""
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if given:
            self._batch = given[0].shape[0]

    def shape(self, tensor: Tensor) -> tuple[int, int]:
        """Batch and length of what passes, ``[batch, position, width]`` or folded."""
        if tensor.dim() > 2:
            return tensor.shape[0], tensor.shape[1]
        batch = self._batch or 1
        return batch, tensor.shape[0] // batch

    def require_all(self) -> None:
        """Raise a ``SiteError`` that names the first change that met no value."""
        for change in self.changes:
            if not self.fired[change.site]:
                raise SiteError(
                    f"The edit of {change.site} never fired, so it changed nothing: the model "
                    "did not run that part, or not at these positions."
                )


def install(
    model: LensModel,
    changes: Sequence[Change],
    rows: Rows,
    gate: Gate,
    stack: ExitStack,
    *,
    batch: int | None = None,
    reading: Mapping[int, Reading] | None = None,
) -> Installed:
    """Put the hooks for some changes on a model until the stack closes.

    Parameters
    ----------
    changes
        Those at one site are applied in this order.
    rows
        Which rows a change means in a call.
    batch
        Rows of the batch, where blocks are called without the model around them.
    reading
        Layer to what is read inside its attention, after the changes there.

    Raises
    ------
    SiteError
        If a site cannot be changed in this model, with the reason.
    """
    installed = Installed(changes, batch)
    writer = _Writer(model.hf, rows, installed)
    if batch is None:
        seen = lambda _, args, kwargs: installed.see_call(args, kwargs) if gate.open else None  # noqa: E731
        stack.callback(model.hf.register_forward_pre_hook(seen, with_kwargs=True).remove)
    mids: dict[Site, list[Change]] = {}
    inside: dict[int, list[Change]] = {}
    for place, group in _places(model, changes):
        if isinstance(place, Tap):
            _change_tap(model, place, group, writer, gate, stack)
        elif isinstance(place, Site):
            mids[place] = group
        else:
            inside[place] = group
    for site, group in mids.items():
        _change_mid(model, site, group, writer, gate, stack)
    reading = reading or {}
    for layer in {**inside, **reading}:
        found = inside.get(layer, [])
        watch = attention_watch(found, writer.copy, reading.get(layer, NOTHING))
        watch_attention(model, layer, watch, gate, stack)
    return installed


def _places(
    model: LensModel, changes: Iterable[Change]
) -> list[tuple[Tap | int | Site, list[Change]]]:
    """The changes by where they are made: at a tap, between the sublayers, in the attention."""
    groups: dict[tuple[str, Tap | int | Site], list[Change]] = {}
    for change in changes:
        site = change.site
        if site.kind == "result":
            raise SiteError(f"{site} cannot be edited: edit z or attn_out of the layer instead.")
        inside = is_inside(model, site)
        tap = None if inside else model.anatomy.tap(site)
        if inside:
            require_attention(model, site)
            groups.setdefault(("inside", site.block), []).append(change)
        elif _is_local(model, site):
            groups.setdefault(("mid", site), []).append(change)
        elif tap is not None:
            groups.setdefault(("tap", tap), []).append(change)
    return [(place, group) for (_, place), group in groups.items()]


def _is_local(model: LensModel, site: Site) -> bool:
    """Whether a state between sublayers is held by no module: the model goes on with the sum."""
    if site.kind not in BETWEEN:
        return False
    block = model.anatomy.blocks[site.block]
    return (block.mid_norm if site.kind == "resid_mid" else block.cross_norm) is None


def is_inside(model: LensModel, site: Site) -> bool:
    """Whether a site is given to an attention function, or made in it."""
    if is_crossing(model, site):
        return True
    return (
        site.kind not in GLOBAL and model.anatomy.blocks[site.block].watched(site.kind) is not None
    )


def is_crossing(model: LensModel, site: Site) -> bool:
    """Whether a site lies inside a decoder's attention to what its encoder gives."""
    return site.kind in CROSS and model.anatomy.blocks[site.block].cross_mixer is not None


def require_attention(model: LensModel, site: Site) -> None:
    """Raise a ``SiteError`` where a site inside the attention cannot be changed."""
    block = model.anatomy.blocks[site.block]
    if site.kind in CROSS:
        raise SiteError(
            f"{site} can be read and not edited: of a decoder's attention to its encoder, cross_z "
            "(what each head gives to the output projection) and cross_attn_out can."
        )
    if block.attention is None:
        model.anatomy.tap(site)  # raises, and says why
    if block.attention == "spy" and site.kind in block.scored:
        raise SiteError(
            f"{site} cannot be edited: attention of this family is code of its own, in which only "
            "v, attn_scores, pattern and z can be changed."
        )


class _Writer:
    """Applies changes to values on their way."""

    def __init__(self, hf: nn.Module, rows: Rows, installed: Installed) -> None:
        self._hf = hf
        self._rows = rows
        self.installed = installed

    def copy(self, values: Tensor, changes: Sequence[Change], batch: int, length: int) -> Tensor:
        """A changed copy of ``[batch, position, ...]``, or of ``[batch * position, ...]``."""
        folded = values.shape[0] == batch * length and values.shape[:2] != (batch, length)
        if torch.is_grad_enabled() and self._rows is plain_rows and all(c.whole for c in changes):
            # What is written into a copy would cost autograd two more copies each way.
            for change in changes:
                self.installed.fired[change.site] += 1
                rows = values.unflatten(0, (batch, length)) if folded else values
                values = change.made(rows).reshape(values.shape)
            return values
        copy = twin(values)
        for change in changes:
            chosen = self._rows(change, batch, length)
            if chosen is None:
                continue
            self.installed.fired[change.site] += 1
            chosen = chosen.to(copy.device)
            at = (chosen,) if folded else (chosen // length, chosen % length)
            repeats = batch if change.row is None else 1
            change.write(copy, at, repeats)
        return copy

    def changed(self, tensor: Tensor, tap: Tap, changes: Sequence[Change], n_heads: int) -> Tensor:
        """A changed copy of what passes at a tap."""
        batch, length = self.installed.shape(tensor)
        if tap.volatile and torch.is_grad_enabled():  # what is written into stays out of the graph
            tensor = tensor.clone()
        value = tap.scaled(self._hf, tensor)
        if tap.columns is not None:
            part = self.copy(tap.columns.read(value), changes, batch, length)
            return tap.columns.write(value, part)
        heads = changes[0].site.kind in HEADS
        parts = value.unflatten(-1, (n_heads, -1)) if heads else value
        new = self.copy(parts, changes, batch, length).reshape(value.shape)
        if tap.volatile and torch.is_grad_enabled():
            new = new.clone()
        return tap.unscaled(self._hf, new)


def twin(tensor: Tensor) -> Tensor:
    """Make a copy with the same strides: kernels may round differently for other layouts."""
    if torch.is_grad_enabled():
        return tensor.clone()
    copy = torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return copy.copy_(tensor)


def on_output(module: nn.Module, gate: Gate, new: Callable[[Tensor], Tensor]) -> Any:
    """Hook the output of a module; returns the handle."""

    def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if not gate.open:
            return None
        old = first_tensor(output)
        return with_tensor(output, old, new(old))

    return module.register_forward_hook(leaving)


def on_input(module: nn.Module, gate: Gate, new: Callable[[Tensor], Tensor]) -> Any:
    """Hook the input of a module; returns the handle."""

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not gate.open:
            return None
        old = stream_argument(args, kwargs)
        return swapped(args, kwargs, old, new(old))

    return module.register_forward_pre_hook(entering, with_kwargs=True)


def _change_tap(
    model: LensModel,
    tap: Tap,
    changes: Sequence[Change],
    writer: _Writer,
    gate: Gate,
    stack: ExitStack,
) -> None:
    site = changes[0].site
    n_heads = model.anatomy.blocks[site.layer].n_heads if site.layer is not None else 0
    if tap.plus:
        _change_sum(model, tap, lambda total: writer.changed(total, tap, changes, 0), gate, stack)
        return
    module = model.hf.get_submodule(tap.module)
    hook = on_input if tap.side == "input" else on_output
    handle = hook(module, gate, lambda value: writer.changed(value, tap, changes, n_heads))
    stack.callback(handle.remove)


def _change_sum(
    model: LensModel,
    tap: Tap,
    changed: Callable[[Tensor], Tensor],
    gate: Gate,
    stack: ExitStack,
) -> None:
    """Change the sum of several modules' outputs through the last of them that runs."""
    paths = (tap.module, *tap.plus)
    parts: list[Tensor] = []

    def take(part: Tensor) -> Tensor:
        parts.append(part)
        if len(parts) < len(paths):
            return part
        total = sum((other.reshape(part.shape) for other in parts[:-1]), part)
        parts.clear()
        return part + (changed(total) - total)

    for path in paths:
        stack.callback(on_output(model.hf.get_submodule(path), gate, take).remove)


def _change_mid(
    model: LensModel,
    site: Site,
    changes: Sequence[Change],
    writer: _Writer,
    gate: Gate,
    stack: ExitStack,
) -> None:
    """Change a state between sublayers by changing what the one before it adds.

    The model keeps that state in a local variable, so there is no other place to reach it.
    """
    tap = model.anatomy.tap(Site(BETWEEN[site.kind], site.layer))
    before: list[Tensor] = []

    def keep(state: Tensor) -> Tensor:
        before[:] = [state.clone()]
        return state

    def changed(output: Tensor) -> Tensor:
        batch, length = writer.installed.shape(before[0])
        middle = before[0] + tap.scaled(model.hf, output).reshape(before[0].shape)
        new = writer.copy(middle, changes, batch, length)
        return output + tap.unscaled(model.hf, new - middle).reshape(output.shape)

    if site.kind == "resid_mid":
        stack.callback(_on_start(model, model.anatomy.blocks[site.block], gate, keep).remove)
    else:
        start = model.anatomy.tap(Site("resid_mid", site.layer))
        at_start = on_input if start.side == "input" else on_output
        stack.callback(at_start(model.hf.get_submodule(start.module), gate, keep).remove)
    if tap.plus:
        _change_sum(model, tap, changed, gate, stack)
        return
    hook = on_input if tap.side == "input" else on_output
    stack.callback(hook(model.hf.get_submodule(tap.module), gate, changed).remove)


def _on_start(
    model: LensModel, block: BlockAnatomy, gate: Gate, keep: Callable[[Tensor], Tensor]
) -> Any:
    """Hook the state that the sublayers of a block add to."""
    if block.pre_norm is not None:
        return on_output(model.hf.get_submodule(block.pre_norm), gate, keep)
    return on_input(model.hf.get_submodule(block.path), gate, keep)


def watch_attention(
    model: LensModel, layer: int, watch: Watch, gate: Gate, stack: ExitStack
) -> None:
    """Let a watch stand inside the attention of a layer until the stack closes."""
    block = model.anatomy.blocks[layer]
    mixer = model.hf.get_submodule(block.mixer or "")
    if block.attention == "interface":
        stack.enter_context(watching(mixer, watch))
    else:
        spy_on(mixer, watch, block.n_heads, gate, stack)


def _require_keys(before: Tensor, after: Tensor, site: Site) -> None:
    """Raise an ``InputError`` where a query that saw keys is left without any.

    The softmax of a row of equal lowest scores would be uniform over all keys, the future ones
    included, and of a row of minus infinity it would be NaN.
    """
    lowest = torch.finfo(after.dtype).min / 2
    bare = ~(after > lowest).any(-1)
    if bool(bare.any()) and bool((bare & (before > lowest).any(-1)).any()):
        raise InputError(
            f"An edit of {site.whole} leaves a query no key that it can see: leave it at least one "
            "(its own, say), else the softmax has nothing to share out."
        )


def attention_watch(
    changes: Sequence[Change],
    copy: Callable[[Tensor, Sequence[Change], int, int], Tensor],
    reading: Reading = NOTHING,
) -> Watch:
    """A watch that changes what passes inside one attention, and hands over what is read."""
    by_kind: dict[str, list[Change]] = {}
    for change in changes:
        by_kind.setdefault(change.site.kind.removeprefix("rot_"), []).append(change)

    def alter(kind: str, tensor: Tensor) -> Tensor:
        rows = tensor.transpose(1, 2) if kind in SQUARE else tensor
        new = copy(rows, by_kind[kind], rows.shape[0], rows.shape[1])
        new = new.transpose(1, 2) if kind in SQUARE else new
        if kind == "attn_scores":
            _require_keys(tensor, new, by_kind[kind][0].site)
        return new

    return Watch(reading.kinds, reading.see, frozenset(by_kind), alter)
