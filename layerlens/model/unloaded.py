"""A model that is not in memory: its parts and sizes are known, its numbers are not."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from layerlens.errors import ModelError
from layerlens.model.anatomy import Anatomy, BlockAnatomy
from layerlens.model.feed import Feed, feed_of, text_config
from layerlens.model.lensmodel import LensModel
from layerlens.model.load import tokenizer_at
from layerlens.model.plan import built, pretending, whereabouts
from layerlens.model.twin import HEADS, KEY_VALUE_HEADS, twin_of
from layerlens.model.watch import stream_argument

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Unloaded(LensModel):
    """A model of which only the configuration was read.

    Its anatomy is that of its twin, a small model of the same make, with its own widths; nothing
    of it is proven. It can be asked for names, sizes and tokens, and refuses to run.

    Attributes
    ----------
    hf
        The model without numbers.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        anatomy: Anatomy,
        name: str,
        feed: Feed,
        twin: LensModel,
    ) -> None:
        super().__init__(hf, tokenizer, anatomy, name, feed)
        self.twin: LensModel = twin
        self.bidirectional = twin.bidirectional

    def refuse(self) -> NoReturn:
        """Raise a ``ModelError``: what was asked needs numbers."""
        raise ModelError(
            f"{self.name} is not loaded, and this needs its weights: load it with ll.load."
        )

    def running(self, *, gradients: bool = False) -> NoReturn:
        """Refuse: there is nothing that could run."""
        self.refuse()

    def evaluating(self) -> NoReturn:
        """Refuse, as :meth:`running`."""
        self.refuse()

    def __repr__(self) -> str:
        return super().__repr__().replace("LensModel(", "Unloaded(", 1)


def unloaded(
    source: Any,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
) -> Unloaded:
    """What is known of a model before any of its weights are read.

    Parameters
    ----------
    source
        A hub id, a folder or a ``toy:`` model, as ``ll.load`` takes them, or a configuration of
        transformers; None for the default model.
    tokenizer
        By default the one that belongs to ``source``, where it has one.
    dtype, trust_remote_code
        As of ``ll.load``.

    Raises
    ------
    ModelError
        There is no such model, it reads no text, or its parts cannot be found so.

    Examples
    --------
    >>> from layerlens.model.unloaded import unloaded
    >>> model = unloaded("toy:induction")
    >>> model.n_layers, model.n_heads, model.d_model, model.proof
    (2, 4, 64, None)
    """
    where, name = whereabouts(source)
    mode = pretending()
    _, hf, _ = built(where, dtype, trust_remote_code, mode)
    if tokenizer is None and isinstance(where, str):
        tokenizer = tokenizer_at(where, trust_remote_code)
    return outline(hf, tokenizer, name, mode, trust_remote_code=trust_remote_code)


def outline(
    hf: PreTrainedModel,
    tokenizer: Any,
    name: str,
    mode: FakeTensorMode,
    *,
    trust_remote_code: bool = False,
) -> Unloaded:
    """Find the parts of a model that has no numbers on a small one of the same make.

    Parameters
    ----------
    hf
        The model, of tensors without numbers or on the device ``meta``; of texts.
    mode
        What makes tensors without numbers: that which made the model, where it did.
    trust_remote_code
        As of ``ll.load``.

    Raises
    ------
    ModelError
        No small model can be built, its parts cannot be found, or they are not this model's.
    """
    kind = str(getattr(hf, "main_input_name", "input_ids"))
    if kind != "input_ids" or hf.config.is_encoder_decoder:
        what = "pairs of texts" if kind == "input_ids" else kind
        raise ModelError(f"{name} reads {what}, and is known only when it is loaded: load it.")
    small = twin_of(hf.config, trust_remote_code=trust_remote_code)
    twin = LensModel.wrap(small, None, name=f"twin of {name}", prove=False)
    found = _own_sizes(hf, twin, name, mode)
    return Unloaded(hf, tokenizer, found, name, feed_of(hf), twin)


def _own_sizes(hf: PreTrainedModel, twin: LensModel, name: str, mode: FakeTensorMode) -> Anatomy:
    """The twin's anatomy with the model's own widths and heads."""
    anatomy = twin.anatomy
    _require_paths(hf, twin, name)
    blocks = tuple(_block(block, hf, twin, name) for block in anatomy.blocks)
    return replace(anatomy, blocks=blocks, d_model=_width(hf, anatomy, mode))


def _block(block: BlockAnatomy, hf: PreTrainedModel, twin: LensModel, name: str) -> BlockAnatomy:
    """A block with as many heads as the model has; the columns of heads are not known."""
    own, small = text_config(hf), text_config(twin.hf)
    taps = {kind: replace(tap, columns=None) for kind, tap in block.taps.items()}
    if not block.n_heads:
        return replace(block, taps=taps)
    if block.n_heads != _heads(small, HEADS):
        raise ModelError(f"The heads of {name} differ by layer, and are known when it is loaded.")
    whole = _heads(own, HEADS)
    shared = _heads(own, KEY_VALUE_HEADS) if block.n_kv_heads != block.n_heads else whole
    return replace(block, taps=taps, n_heads=whole, n_kv_heads=shared or 1)


def _heads(config: Any, names: tuple[str, ...]) -> int:
    found = (getattr(config, name, None) for name in names)
    return next((value for value in found if isinstance(value, int)), 0)


def _require_paths(hf: PreTrainedModel, twin: LensModel, name: str) -> None:
    """Refuse a model that has not the parts that were found on its twin."""
    anatomy = twin.anatomy
    paths = [anatomy.embedding]
    for block in anatomy.blocks:
        paths += [block.path, block.mixer or "", block.out_proj or ""]
        paths += [path for tap in block.taps.values() for path in (tap.module, *tap.plus)]
    if anatomy.head is not None:
        paths += [*anatomy.head.chain, anatomy.head.head]
    own: dict[str, nn.Module] = dict(hf.named_modules())
    small: dict[str, nn.Module] = dict(twin.hf.named_modules())
    for path in paths:
        if path and type(own.get(path)) is not type(small[path]):
            raise ModelError(
                f"{name} has no {path} like the small model of its make, on which its parts were "
                "looked for: load the model itself."
            )


class _BlockReachedError(Exception):
    """Ends a pass of which the states before the first block are enough."""


def _width(hf: PreTrainedModel, anatomy: Anatomy, mode: FakeTensorMode) -> int:
    """Width of the stream, seen in a pass without numbers."""
    seen: list[int] = []

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(stream_argument(args, kwargs).shape[-1])
        raise _BlockReachedError

    block = hf.get_submodule(anatomy.blocks[0].path)
    handle = block.register_forward_pre_hook(entering, with_kwargs=True)
    try:
        with torch.no_grad(), mode, suppress(_BlockReachedError):
            ids = torch.zeros((1, 4), dtype=torch.long, device=next(hf.parameters()).device)
            hf(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
    return seen[0]
