"""Find a model's anatomy by watching it run, not by knowing its class.

A short pass is watched. The blocks are the members of the ``ModuleList`` that hand the
residual stream from one to the next. Inside a block the sublayers are the modules whose
outputs add up to what the block adds; the one that mixes positions is the attention.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from layerlens.errors import ModelError
from layerlens.model.anatomy import Anatomy, BlockAnatomy, Tap
from layerlens.model.families import REFUSED, SUBLAYER_SCALES
from layerlens.model.feed import Feed, fed_rows, text_config
from layerlens.model.head import find_head
from layerlens.model.linear import find_projection
from layerlens.model.sums import Part, Scale, close, find_sublayers
from layerlens.model.watch import Call, Watcher, first_tensor, swapped
from layerlens.model.weights import input_embedding


def find_anatomy(hf: PreTrainedModel, feed: Feed) -> Anatomy:
    """Find where everything is.

    Parameters
    ----------
    feed
        What the model is fed. The model must be in ``eval`` mode; gradients must be off.

    Raises
    ------
    ModelError
        If the model has no list of blocks that hand on one residual stream, or its
        sublayers do not add up to what the blocks add.
    """
    config = text_config(hf)
    try:
        return _find(hf, config, feed)
    except ModelError as error:
        if config.model_type not in REFUSED:
            raise
        reason = REFUSED[config.model_type]
        raise ModelError(f"{config.model_type} cannot be read: {reason}.") from error


def _find(hf: PreTrainedModel, config: Any, feed: Feed) -> Anatomy:
    example = feed.example(hf)
    given = feed.call(hf, example)
    first: ModelError | None = None
    for paths in find_blocks(hf, given, example[feed.ids].numel() if feed.ids else None):
        try:
            return _along(hf, config, feed, given, paths)
        except ModelError as error:  # a shorter list of modules may be the blocks
            first = first or error
    assert first is not None  # find_blocks raises where there is none
    raise first


def _along(
    hf: PreTrainedModel, config: Any, feed: Feed, given: Mapping[str, Any], paths: list[str]
) -> Anatomy:
    """The anatomy, if these are the blocks."""
    names = {id(module): name for name, module in hf.named_modules()}
    watcher = Watcher()
    with watcher.on([(name, module) for name, module in hf.named_modules() if name]):
        output = hf(**given)
    calls = watcher.take()
    _require_finite(hf, calls, paths)
    paths = [_core(path, calls) for path in paths]
    blocks = [_block(path, calls, config, feed.of_pairs) for path in paths]
    last = next(call for call in calls if call.path == paths[-1])
    if feed.ids and last.took_live.dim() == 3 and len(last.took_live) != 1:  # one text was fed
        raise ModelError(
            f"{type(hf).__name__} cannot be read: its states are laid out by position and then by "
            "text, not the other way round."
        )
    logits = getattr(output, "logits", None)
    head = find_head(hf, config, calls, last, logits)
    return Anatomy(
        family=config.model_type,
        embedding=names.get(id(_embedding(hf, feed)), "") if feed.ids else "",
        blocks=tuple(blocks),
        head=head,
        d_model=last.gave.shape[-1],
        d_vocab=fed_rows(hf) if head is None or logits is None else logits.shape[-1],
    )


def _require_finite(hf: PreTrainedModel, calls: Sequence[Call], blocks: Sequence[str]) -> None:
    """Raise ModelError where the residual stream holds NaN or infinity, naming where it began."""
    streams = [call for call in calls if call.path in blocks]
    if all(torch.isfinite(value).all() for call in streams for value in (call.took, call.gave)):
        return
    leaving = sorted(calls, key=lambda call: call.left)
    first = next((call for call in leaving if not torch.isfinite(call.gave).all()), streams[0])
    dtype = str(hf.dtype).removeprefix("torch.")
    cure = "get sound weights" if dtype in ("float32", "float64") else "load it in float32"
    raise ModelError(
        f"{type(hf).__name__} cannot be read: {first.path} gives NaN or infinite values, an "
        f"overflow of {dtype} or a fault of its weights, and all after it is lost: {cure}."
    )


def _core(path: str, calls: Sequence[Call]) -> str:
    """Follow wrappers (a compiled block): a module whose only child does all of its work."""
    while True:
        outer = next(call for call in calls if call.path == path)
        children = [name for name, _ in outer.module.named_children()]
        inner = [call for call in calls if children and call.path == f"{path}.{children[0]}"]
        if len(children) != 1 or len(inner) != 1:
            return path
        if not (torch.equal(inner[0].took, outer.took) and torch.equal(inner[0].gave, outer.gave)):
            return path
        path = inner[0].path


def find_blocks(
    hf: PreTrainedModel, given: Mapping[str, Any], rows: int | None = None
) -> list[list[str]]:
    """Lists of modules that may be the blocks, in the order in which they run, the longest first.

    Parameters
    ----------
    given
        Arguments of a small pass.
    rows
        How many rows of states there are; None: any number, but more than one.
    """
    lists = {
        name: [(f"{name}.{key}", child) for key, child in module.named_children()]
        for name, module in hf.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    members = [member for children in lists.values() for member in children]
    watcher = Watcher()
    with watcher.on(members):
        hf(**given)
    calls: dict[str, list[Call]] = {}
    for call in watcher.take():
        calls.setdefault(call.path, []).append(call)
    chains = [
        [name for name, _ in children]
        for children in lists.values()
        if _is_chain([calls.get(name, []) for name, _ in children], rows)
    ]
    if not chains:
        raise ModelError(
            f"{type(hf).__name__} cannot be read: no list of blocks was seen that hands one "
            "residual stream from block to block, which is what layerlens looks into."
        )
    return sorted(chains, key=lambda chain: (-len(chain), chain[0].count(".")))


def _is_chain(calls: list[list[Call]], rows: int | None) -> bool:
    """Whether these modules ran once each, in order, each on what the one before gave."""
    if not calls or any(len(call) != 1 for call in calls):
        return False
    steps = [call[0] for call in calls]
    for step in steps:
        if step.took.dim() != 2 or step.took.shape != step.gave.shape:
            return False
    found = steps[0].took.shape[0]
    if found != rows if rows is not None else found < 2:
        return False
    return all(
        before.left < after.entered and _handed_on(before.gave, after.took)
        for before, after in pairwise(steps)
    )


def _handed_on(given: Tensor, taken: Tensor) -> bool:
    """Whether two states are the same; a NaN, which equals nothing, counts as equal to a NaN."""
    return torch.equal(given.nan_to_num(), taken.nan_to_num())


def _scales(config: Any, path: str, block: nn.Module, width: int) -> list[Scale]:
    """What a sublayer's output may be multiplied with: 1 and what the model states.

    It may also be divided by a number.

    Only the configuration's own multipliers, the numbers that the block keeps as plain attributes
    and the vectors among its own parameters are tried; which one applies is for the sums to show.
    A vector with a 0 is not: no edit could reach the stream through that unit.
    """
    stated = [getattr(config, name, None) for name in SUBLAYER_SCALES]
    stated += [value for value in vars(block).values() if isinstance(value, float)]
    scales = [float(value) for value in stated if isinstance(value, (int, float)) and value]
    numbers = dict.fromkeys([1.0, *scales, *(1 / scale for scale in scales)])
    vectors = [
        Scale(1.0, f"{path}.{name}", values.detach())
        for name, values in block.named_parameters(recurse=False)
        if values.shape == (width,) and not values.is_meta and bool(values.all())
    ]
    return [*map(Scale, numbers), *vectors]


def _block(path: str, calls: Sequence[Call], config: Any, crossing: bool) -> BlockAnatomy:
    block = next(call for call in calls if call.path == path)
    inner = [call for call in calls if call.path.startswith(path + ".")]
    # A module that runs more than once (shared by blocks) cannot be a place of its own.
    times = Counter(call.path for call in inner)
    inner = [call for call in inner if times[call.path] == 1]
    scales = _scales(config, path, block.module, block.took.shape[-1])
    found = find_sublayers(block, inner, scales, crossing)
    if found is None:
        raise ModelError(
            f"{path} ({type(block.module).__name__}) cannot be read: no sublayers were seen "
            "whose outputs add up to what the block adds to the residual stream."
        )
    attn, mlp, cross = _roles(found.parts, path, inner)
    taps = {
        "resid_pre": Tap(path, "input", volatile=block.took_written),
        "resid_post": Tap(path, "output", volatile=block.written),
    }
    if found.mid is not None:
        taps["resid_mid"] = found.mid
    if found.cross_mid is not None:
        taps["resid_mid_cross"] = found.cross_mid
    cross_mixer = None
    if cross is not None:
        taps["cross_attn_out"] = cross.tap
        cross_mixer = _child(cross.origin(inner).path, path, inner)
        if (reading := _projection(cross, inner)) is not None:
            taps["cross_z"] = Tap(reading.path, "input")
    if attn is not None:
        taps["attn_out"] = attn.tap
    if mlp is not None:
        taps["mlp_out"] = mlp.tap
        taps.update(_mlp_taps(mlp, attn, path, inner))
    out_proj = None if attn is None else _projection(attn, inner)
    if out_proj is not None:
        taps["z"] = Tap(out_proj.path, "input")
    mixer = None if attn is None else _child(attn.origin(inner).path, path, inner)
    return BlockAnatomy(
        path=path,
        layout=found.layout,
        taps=taps,
        mid_norm=found.mid_norm,
        post_norm=found.post_norm,
        pre_norm=found.pre_norm,
        gain=found.gain,
        out_proj=None if out_proj is None else out_proj.path,
        mixer=mixer,
        cross_norm=found.cross_norm,
        cross_mixer=cross_mixer,
    )


def _child(path: str, block: str, inner: Sequence[Call]) -> str:
    """Return the path of the outermost module in the block that holds this one and is called."""
    names, called = path.split("."), {call.path for call in inner}
    depths = range(block.count(".") + 2, len(names) + 1)
    return next(".".join(names[:depth]) for depth in depths if ".".join(names[:depth]) in called)


def _roles(
    parts: Sequence[Part], block: str, inner: Sequence[Call]
) -> tuple[Part | None, Part | None, Part | None]:
    """Which part is the attention (it mixes positions), which the MLP, and which looks across."""
    if len(parts) == 3:
        return parts[0], parts[2], parts[1]
    mixing = []
    for part in parts:
        child = _child(part.origin(inner).path, block, inner)
        mixing.append(_mixes(next(call for call in inner if call.path == child)))
    if len(parts) == 1:
        return (parts[0], None, None) if mixing[0] else (None, parts[0], None)
    first, second = parts
    return (first, second, None) if mixing[0] or not mixing[1] else (second, first, None)


def _mixes(call: Call) -> bool:
    """Whether the last position of a module's output depends on the others of its input."""
    if not call.took.numel() or not call.gave.numel():
        return False
    live = call.took_live
    changed = call.took.clone()
    changed[:-1] = 2 * changed[:-1].flip(-1)
    changed = changed.reshape(live.shape)

    args, kwargs = swapped(call.args, call.kwargs, live, changed)
    output = call.module(*args, **kwargs)
    again = first_tensor(output).reshape(call.gave.shape)
    return not close(again[-1], call.gave[-1], call.gave.dtype)


def _projection(part: Part, inner: Sequence[Call]) -> Call | None:
    """Find the affine map whose output a sublayer gives, before any norm on it."""
    return None if part.plus else find_projection(part.origin(inner), inner)


def _mlp_taps(mlp: Part, attn: Part | None, block: str, inner: Sequence[Call]) -> dict[str, Tap]:
    """Hidden units of a dense MLP: after and, where a module shows it, before activation."""
    down = _projection(mlp, inner)
    if down is None or not down.took.numel():
        return {}
    mixer = None if attn is None else _child(attn.origin(inner).path, block, inner)
    taps = {"mlp_post": Tap(down.path, "input")}
    for call in inner:
        outside = mixer is None or not call.path.startswith(mixer)
        if (
            outside
            and call.left < down.entered
            and not list(call.module.parameters())
            and call.took.shape == down.took.shape
            and not torch.equal(call.took, call.gave)
        ):
            taps["mlp_pre"] = Tap(call.path, "input", volatile=call.took_written)
            break
    return taps


def _embedding(hf: PreTrainedModel, feed: Feed) -> nn.Module | None:
    """The module that embeds the tokens of the positions."""
    side = hf.get_decoder() if feed.of_pairs else hf
    found: nn.Module | None = input_embedding(side)
    return found
