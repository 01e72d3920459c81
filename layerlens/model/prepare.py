"""From pictures, sounds and pairs to what a model is really fed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.conventions import MASK
from layerlens.model.feed import numbered, positions, stated
from layerlens.model.grid import Frames, Grid
from layerlens.model.inputs import Given, Sides, pictures, samples
from layerlens.model.text import Tokens, encode

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

RATE = 16000
"""Samples a second, where a model's processor does not say."""


def fed(model: LensModel, given: Any) -> Tokens:
    """What a model of pictures or sounds is fed.

    Raises
    ------
    InputError
        If it is of another kind, or does not fit the model.
    """
    kind = model.feed.kind
    if isinstance(given, Tokens) and given.given:
        return given
    if not isinstance(given, Given) or given.kind != kind:
        raise InputError(f"{model.name} reads {kind}: give ll.{kind}(...).")
    values = _values(model, given)
    with model.running():
        arguments = model.feed.call(model.hf, {model.feed.main: values})
        count = positions(model.hf, model.anatomy.blocks[0].path, arguments)
    grid = grid_of(model, values, count)
    labels = grid.labels if grid is not None else tuple(map(str, range(count)))
    rows = len(values)
    return Tokens(
        ids=numbered(rows, count),
        mask=torch.ones(rows, count, dtype=torch.bool),
        texts=given.names,
        strings=(labels,) * rows,
        continues=((False,) * count,) * rows,
        single=given.single,
        notes=(_said(model, values),),
        given={model.feed.main: values},
        grid=grid,
        numbered=True,
    )


def _values(model: LensModel, given: Given) -> Tensor:
    """``[batch, ...]``: the numbers that the model takes."""
    processor, main = model.processor, model.feed.main
    if given.kind == "images":
        items = pictures(given.items)
        ready = [item for item in items if not hasattr(item, "getbands")]
        if ready and len(ready) < len(items):
            raise InputError("Give all pictures alike: files or all arrays that the model takes.")
        if ready:
            return _fitting(model, np.stack(ready))
        if processor is None:
            raise InputError(
                f"{model.name} has no image processor: give one to ll.load, or give arrays "
                f"[channel, height, width] {model.feed.shape} of the numbers that it takes."
            )
        return _tensor(processor(images=items, return_tensors="np")[main])
    rate = _rate(processor)
    sounds = [samples(item, given.rate, rate) for item in given.items]
    if len({len(sound) for sound in sounds}) > 1 and model.feed.shape[1:] == ():
        raise InputError("Sounds of different lengths cannot be run together: give them singly.")
    if processor is not None:
        return _tensor(processor(sounds, sampling_rate=rate, return_tensors="np")[main])
    if len(model.feed.shape) > 1:
        raise InputError(f"{model.name} has no feature extractor: give one to ll.load.")
    return _tensor(np.stack(sounds))


def _rate(processor: Any) -> int:
    """Samples a second that a processor asks for."""
    return int(getattr(processor, "sampling_rate", RATE) or RATE)


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _fitting(model: LensModel, array: np.ndarray) -> Tensor:
    """Arrays as they are, where they have the size that the model takes."""
    if array.shape[1:] != model.feed.shape:
        raise InputError(
            f"{model.name} takes pictures {model.feed.shape} (channel, height, width), not "
            f"{array.shape[1:]}."
        )
    return _tensor(array)


def _said(model: LensModel, values: Tensor) -> str:
    size = " x ".join(map(str, values.shape[1:]))
    how = "as given" if model.processor is None else f"by its {type(model.processor).__name__}"
    return f"the model was fed {size} numbers of each, {how}"


def grid_of(model: LensModel, values: Tensor, count: int) -> Grid | Frames | None:
    """Where the positions lie, from the sizes of what is fed and of a patch.

    Parameters
    ----------
    values
        ``[batch, ...]``, what the model takes.
    count
        How many positions its blocks see.
    """
    if model.feed.kind == "audio":
        return _frames(model, values, count)
    patch = stated(model.hf.config, "patch_size")
    if patch is None:
        return None
    height, width = patch if isinstance(patch, Sequence) else (patch, patch)
    rows, columns = values.shape[-2] // height, values.shape[-1] // width
    before = count - rows * columns
    return Grid(rows, columns, height, width, before) if 0 <= before < 16 else None


def _frames(model: LensModel, values: Tensor, count: int) -> Frames | None:
    """How long a frame is: the samples of one sound, or its spectra, shared among the positions."""
    rate = _rate(model.processor)
    if values.dim() == 2:
        return Frames(_stride(model.hf.config, values.shape[-1], count) / rate, count)
    hop = getattr(model.processor, "hop_length", None)
    if hop is None:
        return None
    return Frames(hop * (max(values.shape[1:]) // count) / rate, count)


def _stride(config: Any, length: int, count: int) -> float:
    """Samples from one frame to the next."""
    strides = getattr(config, "conv_stride", None)
    return float(np.prod(strides)) if strides else length / count


def written(model: LensModel, given: Any) -> Tokens:
    """What an encoder with a decoder is fed: the positions are the tokens that are written.

    Parameters
    ----------
    given
        From ``ll.sides``; a text alone, or sounds, is what the encoder reads.

    Raises
    ------
    InputError
        If a side does not fit the model.
    """
    if isinstance(given, Tokens) and given.given:
        return given
    pair = given if isinstance(given, Sides) else _alone(model, given)
    source, single = _source(model, pair.source)
    rows = len(next(iter(source.values())))
    targets = [pair.target] if single or isinstance(pair.target, str) else list(pair.target)
    if len(targets) == 1:
        targets *= rows
    if len(targets) != rows:
        raise InputError(f"There are {rows} texts to read and {len(targets)} to write: pair them.")
    ids = [[_start(model), *_target_ids(model, target)] for target in targets]
    longest = model.max_positions
    rows_of_ids = ids[0] if single else ids
    tokens = encode(model.tokenizer, model.vocabulary, rows_of_ids, max_positions=longest)
    names = tuple(map(str, [pair.source] if single else pair.source))
    return replace(tokens, texts=names, given=source)


def _alone(model: LensModel, given: Any) -> Sides:
    """One side as a pair; bare token ids could be those of either."""
    words = given if isinstance(given, list | tuple) else [given]
    if isinstance(given, Given) or all(isinstance(word, str) for word in words):
        return Sides(given)
    raise InputError(f"{model.name} reads one side and writes another: give ll.sides(...).")


def _start(model: LensModel) -> int:
    """The token with which the decoder starts to write."""
    config = model.hf.config
    for name in ("decoder_start_token_id", "bos_token_id"):
        found = getattr(config, name, None)
        if found is None:
            found = getattr(getattr(model.hf, "generation_config", None), name, None)
        if isinstance(found, int):
            return found
    raise InputError(f"{model.name} does not say with which token its decoder starts.")


def _target_ids(model: LensModel, target: Any) -> list[int]:
    if not isinstance(target, str):
        return [int(item) for item in target]
    if not target:
        return []
    if model.tokenizer is None:
        raise InputError("This model has no tokenizer: give the written side as token ids.")
    given = model.tokenizer(text_target=target, add_special_tokens=False)
    return list(given["input_ids"])


def _source(model: LensModel, source: Any) -> tuple[dict[str, Tensor], bool]:
    """What the encoder is fed, by keyword, and whether there is just one."""
    main = model.feed.main
    if model.feed.kind != "text":
        if not isinstance(source, Given) or source.kind != model.feed.kind:
            raise InputError(
                f"{model.name} reads {model.feed.kind}: give ll.{model.feed.kind}(...)."
            )
        return {main: _values(model, source)}, source.single
    tokens = encode(model.tokenizer, model.vocabulary, source, max_positions=model.max_positions)
    found = {main: tokens.ids}
    if not tokens.mask.all():
        found[MASK] = tokens.mask.long()
    return found, tokens.single
