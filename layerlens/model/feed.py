"""How a model is fed: by token ids, by pixels, by a signal, or on both sides of a pair."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from layerlens.errors import InputError, ModelError
from layerlens.model.conventions import (
    KEPT_LOGITS,
    MASK,
    ONE_PASS,
    POSITIONS,
    TOKEN_IDS,
    WRITTEN_IDS,
    WRITTEN_MASK,
)
from layerlens.model.gguf import first_line
from layerlens.model.text import Tokens
from layerlens.model.watch import stream_argument
from layerlens.model.weights import input_device, input_embedding

KINDS = {TOKEN_IDS: "text", "pixel_values": "images"}
KINDS |= dict.fromkeys(("input_features", "input_values"), "audio")
"""What a model of transformers reads, by the name of its main input."""

ANY_KIND = ("text", "pairs", "images", "audio")
"""What an analysis reads that asks for states, attention and answers alone."""

TEXT_OR_PAIRS = ("text", "pairs")
"""What one reads that asks for tokens, those that a decoder writes among them."""

PROBE_LENGTH = 5


def text_config(hf: PreTrainedModel) -> Any:
    """Return the configuration of the text decoder (nested in multi-modal models)."""
    return hf.config.get_text_config(decoder=True)


def fed_rows(hf: PreTrainedModel) -> int:
    """Return how many ids can be fed; a configuration's ``vocab_size`` may be that of the head."""
    embedding = input_embedding(hf)
    rows = getattr(embedding, "num_embeddings", 0) or getattr(embedding, "weight", torch.empty(0))
    return int(rows if isinstance(rows, int) else rows.shape[0] if rows.dim() == 2 else 0)


def numbered(rows: int, count: int) -> Tensor:
    """``[rows, count]``: what stands for token ids where positions are no tokens."""
    return torch.arange(count).repeat(rows, 1)


def probe_ids(n_vocab: int, length: int = PROBE_LENGTH, seed: int = 0) -> Tensor:
    """``[1, length]`` token ids spread over the vocabulary, always the same for a seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_vocab // 16, n_vocab, (1, length), generator=generator)


@dataclass(frozen=True)
class Feed:
    """What a model's ``forward`` is called with.

    Attributes
    ----------
    kind
        What is read: ``"text"``, ``"images"`` or ``"audio"``.
    main
        Keyword for it.
    ids
        Keyword for the tokens that the positions are: ``main`` in models of text, the written
        side's in an encoder with a decoder, "" where positions are no tokens.
    shape
        Of one picture or signal that the model takes; empty where tokens are read.
    constants
        Keywords that are the same in each pass.
    """

    kind: str
    main: str
    ids: str
    shape: tuple[int, ...] = ()
    constants: Mapping[str, Any] = field(default_factory=dict)
    keywords: frozenset[str] = frozenset()

    @property
    def of_pairs(self) -> bool:
        """Whether the model reads one thing and writes another."""
        return bool(self.ids) and self.ids != self.main

    @property
    def reads(self) -> str:
        """What an analysis has to understand: ``kind``, or ``"pairs"`` where it also writes."""
        return "pairs" if self.of_pairs else self.kind

    def example(
        self, hf: PreTrainedModel, length: int = PROBE_LENGTH, seed: int = 0
    ) -> dict[str, Tensor]:
        """A small input by keyword, always the same for a seed.

        Parameters
        ----------
        length
            How many tokens the positions are; what is no text has the size that the model takes.
        """
        given = {}
        if self.kind == "text":
            given[self.main] = probe_ids(fed_rows(hf), length, seed)
        else:
            generator = torch.Generator().manual_seed(seed)
            given[self.main] = torch.randn(1, *self.shape, generator=generator)
        if self.of_pairs:  # two sides of one length could be taken for each other
            given[self.ids] = given.get(self.ids, probe_ids(fed_rows(hf), length, seed + 100))
            if self.kind == "text":
                given[self.main] = probe_ids(fed_rows(hf), length + 2, seed)
        return given

    def call(self, hf: PreTrainedModel, given: Mapping[str, Tensor]) -> dict[str, Any]:
        """Keyword arguments of a pass that is fed these tensors."""
        device, dtype = input_device(hf), hf.dtype
        moved = {
            name: value.to(device, dtype if value.is_floating_point() else None)
            for name, value in given.items()
        }
        return {**self.constants, **moved}

    def arguments(
        self, hf: PreTrainedModel, tokens: Tokens, *, last_only: bool = False
    ) -> dict[str, Any]:
        """Keyword arguments of the model's own ``forward`` for these tokens."""
        inputs = self.call(hf, tokens.given)
        device = input_device(hf)
        if not self.ids and not torch.equal(tokens.ids, numbered(*tokens.ids.shape)):
            raise InputError(
                "The positions of pictures and sounds cannot be reordered or cut: give others."
            )
        if self.ids:
            inputs[self.ids] = tokens.ids.to(device)
            if not tokens.mask.all():
                mask = WRITTEN_MASK if self.of_pairs else MASK
                inputs[mask] = tokens.mask.long().to(device)
                if not tokens.mask[:, 0].all() and POSITIONS in self.keywords:
                    inputs[POSITIONS] = tokens.position_ids.to(device)
        if last_only and KEPT_LOGITS in self.keywords:
            inputs[KEPT_LOGITS] = 1
        return inputs


def feed_of(hf: PreTrainedModel) -> Feed:
    """Find how a model is fed, by trying it.

    The model must be in ``eval`` mode; gradients must be off.

    Raises
    ------
    ModelError
        If it reads something that is not known, or runs on no input that was tried.
    """
    signature = inspect.signature(hf.forward).parameters
    main = str(getattr(hf, "main_input_name", TOKEN_IDS))
    if main not in signature and TOKEN_IDS in signature:
        main = TOKEN_IDS
    if main not in KINDS or main not in signature:
        raise ModelError(
            f"{type(hf).__name__} takes {main}, which is no text, image or sound, so layerlens "
            "does not look into it: give a model of one of these."
        )
    wild = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values())
    constants = {name: value for name, value in ONE_PASS.items() if wild or name in signature}
    written = WRITTEN_IDS if WRITTEN_IDS in signature else ""
    kind = KINDS[main]
    ids = written or (main if kind == "text" else "")
    feed = Feed(kind, main, ids, constants=constants, keywords=frozenset(signature))
    if kind == "text":
        return feed
    return _with_shape(hf, feed)


def _with_shape(hf: PreTrainedModel, feed: Feed) -> Feed:
    """Try the sizes that a configuration may mean, and keep the first that the model takes."""
    said = "no size is in its configuration"
    for shape in _shapes(hf.config, feed.main):
        tried = replace(feed, shape=shape)
        given = {feed.main: torch.zeros(1, *shape)}
        if feed.ids:
            given[feed.ids] = probe_ids(fed_rows(hf))
        try:
            hf(**tried.call(hf, given))
        except Exception as error:  # a model's code raises what it likes at a size it cannot take
            said = first_line(error)
            continue
        return tried
    raise ModelError(
        f"{type(hf).__name__} cannot be read: it did not run on any input that was tried ({said})"
    )


def _shapes(config: Any, main: str) -> Iterator[tuple[int, ...]]:
    """Sizes of one input of a model, the likeliest first."""
    if main == "pixel_values":
        channels = stated(config, "num_channels") or 3
        for size in filter(None, (stated(config, "image_size"), 224, 64)):
            height, width = size if isinstance(size, Sequence) else (size, size)
            yield int(channels), int(height), int(width)
        return
    names = ("num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", "input_dim")
    bins = {int(found) for name in names if isinstance(found := stated(config, name), int)}
    frames = stated(config, "max_source_positions")
    lengths = [2 * frames, frames] if isinstance(frames, int) else []
    lengths += [found for name in ("max_length",) if isinstance(found := stated(config, name), int)]
    if main == "input_values" and not bins:
        yield (4000,)  # a quarter of a second at 16 kHz
        yield (1, 4000)
    for count in bins or {80}:
        for length in (*lengths, 64):
            yield count, length
            yield length, count
    yield (4000,)


def stated(config: Any, name: str) -> Any:
    """What a configuration says, or the one of its encoder that is nested in it."""
    inner = ("", "vision_config", "encoder_config", "audio_config", "audio_encoder")
    configs = (config if not part else getattr(config, part, None) for part in inner)
    return next((found for one in configs if (found := getattr(one, name, None)) is not None), None)


class _BlockReachedError(Exception):
    """Ends a pass at the first block."""


def positions(hf: PreTrainedModel, block: str, arguments: Mapping[str, Any]) -> int:
    """How many positions a block sees of one input, found by running the model up to it."""
    seen: list[Tensor] = []

    def entering(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(stream_argument(args, kwargs))
        raise _BlockReachedError

    handle = hf.get_submodule(block).register_forward_pre_hook(entering, with_kwargs=True)
    try:
        with suppress(_BlockReachedError):
            hf(**arguments)
    finally:
        handle.remove()
    return seen[0].shape[-2]
