"""Attention that goes to the first token, to separators and to punctuation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from layerlens.metrics.attention_several import (
    CONTROL,
    HEADS,
    LAYERS,
    Measured,
    SeveralMeans,
    even,
    visible,
)
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.batch import Batch
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register
from layerlens.model.token_kinds import KINDS, token_kinds

_WORDS = {
    "first": "the first token",
    "separator": "separators and line breaks",
    "punctuation": "punctuation",
}


@register
class SpecialMass(SeveralMeans):
    """How much each head looks at tokens that carry little of what a text says.

    The first token and the delimiters; which are separators and which punctuation is said at
    `token_kinds`, as for the role ``delimiter`` of ``ll.attention``.
    """

    name = "special_mass"
    question = "How much attention goes to the first token, separators and punctuation?"
    formula = (
        "mean over queries t of the sum of a_tj over the keys j of the kind; _chance: with the "
        "same attention for every key that can be seen"
    )
    units = "1"
    source = "Clark et al. (2019), What Does BERT Look At?, arXiv 1906.04341"
    outputs: ClassVar[Mapping[str, Output]] = {
        "special_mass": Output(
            HEADS, "1", "attention to the first token, separators and punctuation"
        ),
        **{
            f"special_mass_{kind}": Output(HEADS, "1", f"attention to {words}")
            for kind, words in _WORDS.items()
        },
        "special_mass_chance": Output(
            LAYERS, "1", f"attention to all of these {CONTROL}", interval=False
        ),
    }

    def __init__(self, shape: ModelShape) -> None:
        super().__init__(shape)
        self._kinds: WeakKeyDictionary[Batch, list[Tensor]] = WeakKeyDictionary()

    def update(self, layer: Layer) -> None:
        """Add the pattern of one layer; kinds of the tokens are found once for all layers."""
        if layer.batch not in self._kinds:
            self._kinds[layer.batch] = _kinds(layer.batch, layer.special)
        super().update(layer)

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Attention of each text's queries to the tokens of each kind."""
        kinds = torch.stack([self._kinds[layer.batch][row] for row in rows]).to(pattern.device)
        special = kinds < KINDS.index("other")
        chosen = {"special_mass": special}
        chosen |= {f"special_mass_{kind}": kinds == KINDS.index(kind) for kind in _WORDS}
        count = pattern.shape[-2]
        by_key = pattern.sum(-2, dtype=torch.float64)
        found: Measured = {
            name: ((by_key * keys.unsqueeze(1)).sum(-1), count) for name, keys in chosen.items()
        }
        control = (even(visible(pattern)).sum(-2, dtype=torch.float64) * special).sum(-1)
        return found | {"special_mass_chance": (control, count)}


def _kinds(batch: Batch, special: frozenset[int]) -> list[Tensor]:
    """For each text, the kinds of its tokens, as numbers of `KINDS`."""
    found = []
    tokens = batch.tokens
    for ids, mask, strings in zip(tokens.ids, tokens.mask, tokens.strings, strict=True):
        real = [s for s, keep in zip(strings, mask.tolist(), strict=True) if keep]
        kinds = token_kinds(ids[mask].tolist(), real, special)
        found.append(torch.tensor([KINDS.index(kind) for kind in kinds]))
    return found
