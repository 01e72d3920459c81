"""How many heads each block has, and how its attention can be watched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from layerlens.model.anatomy import Anatomy, BlockAnatomy
from layerlens.model.families import WITHOUT_PATTERN
from layerlens.model.feed import Feed, text_config
from layerlens.model.watch import Watcher, first_tensor, stream_argument
from layerlens.run.attention import INSIDE, Watch, watching
from layerlens.run.gate import Gate
from layerlens.run.hooks import on_input
from layerlens.run.rotation import find_before, turns
from layerlens.run.spy import spy_on

Given = Mapping[str, Any]
"""Arguments of a small pass."""

Seen = dict[str, Tensor]
"""What the attention of one block handed over in a pass, by kind."""


def find_attention(hf: PreTrainedModel, anatomy: Anatomy, feed: Feed) -> Anatomy:
    """Complete an anatomy with its heads.

    The attention interface is tried first; blocks whose attention does not use it, or does
    something else when it is not one of transformers' own implementations, are watched by
    a spy; what neither shows has no softmax attention. A block that calls its attention
    more than once in a pass (differential attention) has no one pattern either, nor has one of
    landmarks (:data:`WITHOUT_PATTERN`).
    """
    given = feed.call(hf, feed.example(hf))
    plain = _gives(hf, given)
    by_interface = _watch(hf, anatomy, given, ["interface"] * anatomy.n_layers, plain)
    by_spy: list[Seen] = [{} for _ in anatomy.blocks]
    if not all(map(_complete, by_interface)):
        by_spy = _watch(hf, anatomy, given, ["spy"] * anatomy.n_layers, plain)
    blocks = []
    for block, seen, spied in zip(anatomy.blocks, by_interface, by_spy, strict=True):
        if _complete(seen):
            blocks.append(_with_heads(block, "interface", seen))
        elif _complete(spied) and anatomy.family not in WITHOUT_PATTERN:
            blocks.append(_with_heads(block, "spy", spied))
        else:
            taps = {kind: tap for kind, tap in block.taps.items() if kind != "z"}
            blocks.append(replace(block, taps=taps, out_proj=None))
    crossing = _with_crossing(hf, replace(anatomy, blocks=tuple(blocks)), given, plain)
    return _with_rotation(hf, crossing, given, plain)


def _complete(seen: Seen) -> bool:
    return seen.keys() >= {"q", "k", "v", "pattern"}


def _with_heads(block: BlockAnatomy, how: str, seen: Seen) -> BlockAnatomy:
    n_heads, n_kv_heads = (seen[kind].shape[2] for kind in "qk")
    taps, out_proj = block.taps, block.out_proj
    if "z" in taps and seen["z"].shape[-1] != n_heads * seen["v"].shape[-1]:
        # what the projection is given holds more than heads (in ConvBERT also a convolution)
        taps, out_proj = {kind: tap for kind, tap in taps.items() if kind != "z"}, None
    return replace(
        block, attention=how, n_heads=n_heads, n_kv_heads=n_kv_heads, taps=taps, out_proj=out_proj
    )


def _gives(hf: PreTrainedModel, given: Given) -> Tensor:
    return first_tensor(hf(**given))


def _with_crossing(hf: PreTrainedModel, anatomy: Anatomy, given: Given, plain: Tensor) -> Anatomy:
    """Keep the second attentions, to an encoder's states, that the interface shows."""
    if not any(block.cross_mixer for block in anatomy.blocks):
        return anatomy
    seconds = [
        replace(block, mixer=block.cross_mixer, out_proj=tap.module if tap else None)
        for block in anatomy.blocks
        for tap in [block.taps.get("cross_z")]
    ]
    standing = replace(anatomy, blocks=tuple(seconds))
    found = _watch(hf, standing, given, ["interface"] * len(seconds), plain, square=False)
    blocks = []
    for block, seen in zip(anatomy.blocks, found, strict=True):
        heads = (block.n_heads, block.n_kv_heads)
        if not _complete(seen) or (seen["q"].shape[2], seen["k"].shape[2]) != heads:
            taps = {kind: tap for kind, tap in block.taps.items() if kind != "cross_z"}
            block = replace(block, taps=taps, cross_mixer=None)
        blocks.append(block)
    return replace(anatomy, blocks=tuple(blocks))


def _with_rotation(hf: PreTrainedModel, anatomy: Anatomy, given: Given, plain: Tensor) -> Anatomy:
    """Say where q and k are before they are rotated, where they are.

    In one pass every attention is given the same state at all positions: q and k that then differ
    are rotated.
    """
    how = [block.attention for block in anatomy.blocks]
    equal = _watch(hf, anatomy, given, how, None)
    if not any(map(_turned, equal)):
        return anatomy
    watcher = Watcher()
    paths = [block.mixer for block in anatomy.blocks if block.attention and block.mixer]
    inner = [
        (f"{path}.{name}", module)
        for path in paths
        for name, module in hf.get_submodule(path).named_modules()
        if name
    ]
    with watcher.on(inner):
        scored = _watch(hf, anatomy, given, how, plain)
    calls = watcher.take()
    blocks = []
    for block, level, seen in zip(anatomy.blocks, equal, scored, strict=True):
        if block.mixer is not None and any(
            kind in level and turns(level[kind][0]) for kind in "qk"
        ):
            within = [call for call in calls if call.path.startswith(block.mixer + ".")]
            found = {kind: find_before(within, seen[kind][0]) for kind in "qk"}
            taps = {kind: tap for kind, tap in found.items() if tap is not None}
            block = replace(block, rotary=True, taps={**block.taps, **taps})
        blocks.append(block)
    return replace(anatomy, blocks=tuple(blocks))


def _turned(level: Seen) -> bool:
    """Whether the q or k of equal states differ."""
    return any(kind in level and turns(level[kind][0]) for kind in "qk")


def _watch(
    hf: PreTrainedModel,
    anatomy: Anatomy,
    given: Given,
    how: Sequence[str | None],
    plain: Tensor | None,
    *,
    square: bool = True,
) -> list[Seen]:
    """What each block's attention handed over in one small pass.

    Parameters
    ----------
    how
        For each block, ``"interface"``, ``"spy"`` or None.
    plain
        What the model gives when nothing watches. None: every attention is given the state of the
        first position at all positions, and the model something else.
    square
        Only attention in which each position's query meets each position's key counts.

    Returns
    -------
    list of dict
        Empty where an attention was called more than once, and everywhere if watching changed
        what the model gave.
    """
    seen: list[Seen] = [{} for _ in anatomy.blocks]
    calls = Counter[int]()
    n_heads = getattr(text_config(hf), "num_attention_heads", 1)

    def see(layer: int, kind: str, tensor: Tensor) -> None:
        calls[layer] += kind == "q"
        if tensor.dim() == 4:
            seen[layer][kind] = tensor.clone()

    with ExitStack() as stack:
        for layer, (block, way) in enumerate(zip(anatomy.blocks, how, strict=True)):
            if block.mixer is None or way is None:
                continue
            module = hf.get_submodule(block.mixer)
            if block.out_proj is not None:
                stack.callback(_keep_input(hf.get_submodule(block.out_proj), seen[layer]).remove)
            if plain is None:
                stack.callback(on_input(module, Gate(), _leveled).remove)
            watch = Watch(INSIDE, partial(see, layer))
            if way == "interface":
                stack.enter_context(watching(module, watch))
            else:
                spy_on(module, watch, n_heads, Gate(), stack)
        watched = _gives(hf, given)
    if plain is not None and not torch.equal(watched, plain):
        return [{} for _ in anatomy.blocks]
    return [
        found if calls[layer] == 1 and (_is_square(found) or not square) else {}
        for layer, found in enumerate(seen)
    ]


def _keep_input(projection: nn.Module, seen: Seen) -> RemovableHandle:
    """Keep what the output projection is given, as ``z``."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["z"] = stream_argument(args, kwargs).clone()

    return projection.register_forward_pre_hook(enter, with_kwargs=True)


def _is_square(seen: Seen) -> bool:
    """Whether each position's query meets each position's key."""
    if "q" not in seen:
        return False
    length = seen["q"].shape[1]
    return all(
        seen[kind].shape[-2:] == (length, length)
        for kind in ("pattern", "attn_scores")
        if kind in seen
    )


def _leveled(state: Tensor) -> Tensor:
    """The first position's state at all positions, ``[batch, position, width]`` or folded."""
    first = state[:1] if state.dim() == 2 else state[:, :1]
    return first.expand_as(state).clone()
