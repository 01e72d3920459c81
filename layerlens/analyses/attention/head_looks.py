"""Which keys heads of each role look at, and how much of their attention goes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.metrics.attention import DETECTOR, DuplicateToken, Induction, PreviousToken, within
from layerlens.metrics.attention_several import (
    HEADS,
    LAYERS,
    Measured,
    SeveralMeans,
    even,
    visible,
)
from layerlens.metrics.base import Output
from layerlens.metrics.layer import Layer

ROLES = {
    "previous_token": "the token before",
    "next_token": "the token after",
    "self": "the token itself",
    "duplicate_token": "earlier occurrences of the same token",
    "induction": "what followed the same token before",
    "first_token": "the first token",
}
"""Each role, and what its heads look at."""


def keys_of_roles(ids: Tensor) -> dict[str, Tensor]:
    """The keys that a perfect head of each role looks at: [query, key] bool, for ids [query]."""
    own = torch.eye(len(ids), dtype=torch.bool)
    first = torch.zeros_like(own)
    first[:, 0] = True
    return {
        "previous_token": PreviousToken.wanted(ids),
        "next_token": own.roll(-1, 0).triu(1),
        "self": own,
        "duplicate_token": DuplicateToken.wanted(ids),
        "induction": Induction.wanted(ids),
        "first_token": first,
    }


class HeadLooks(SeveralMeans):
    """Share of each head's attention that goes to the keys of each role.

    Only queries that have such a key count.
    """

    name = "head_looks"
    question = "What does a head look at?"
    formula = "mean over queries with such a key of the sum of a_tj over them"
    units = "1"
    source = DETECTOR
    outputs: ClassVar[Mapping[str, Output]] = {
        **{role: Output(HEADS, "1", f"attention to {words}") for role, words in ROLES.items()},
        **{
            f"{role}_chance": Output(LAYERS, "1", f"even attention to {words}", interval=False)
            for role, words in ROLES.items()
        },
    }

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Attention of each text's queries to the keys of each role."""
        skip, tokens = layer.batch.skip_first, layer.batch.tokens
        control = even(visible(pattern))
        texts = [keys_of_roles(tokens.ids[row][tokens.mask[row]]) for row in rows]
        found: Measured = {}
        for role in ROLES:
            keys = torch.stack([text[role] for text in texts])[:, skip:].to(pattern.device)
            count = keys.any(-1).sum(-1)
            found[role] = (within(pattern, keys), count)
            found[f"{role}_chance"] = ((control * keys).sum((1, 2), dtype=torch.float64), count)
        return found
