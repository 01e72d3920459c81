"""How far heads look, how widely, and at how many keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.metrics.attention_several import (
    CONTROL,
    HEADS,
    LAYERS,
    Measured,
    SeveralMeans,
    even,
    queries,
    visible,
)
from layerlens.metrics.base import ModelShape, Output
from layerlens.metrics.fewest import fewest
from layerlens.metrics.layer import Layer
from layerlens.metrics.registry import register

_ROUNDING = 1e-6  # of a sum of float32 that reaches the mass exactly


@register
class AttentionDistance(SeveralMeans):
    """How many tokens away a head looks, on average.

    In families with a learnt sink that is no token, rows sum to less than one, and distances are
    of what is left.
    """

    name = "attention_distance"
    question = "How far away does a head look?"
    formula = (
        "mean over queries t of sum_j a_tj |t - j| / sum_j a_tj; _chance: with the same attention "
        "for every key that can be seen; _relative: over that, query by query"
    )
    units = "tokens"
    source = (
        "Dosovitskiy et al. (2020), An Image is Worth 16x16 Words, arXiv 2010.11929 (mean "
        "attention distance)"
    )
    outputs: ClassVar[Mapping[str, Output]] = {
        "attention_distance": Output(HEADS, units, "distance of what a head looks at"),
        "attention_distance_relative": Output(
            HEADS, "1", "distance, over that of attention that is the same for every key"
        ),
        "attention_distance_chance": Output(LAYERS, units, f"distance {CONTROL}", interval=False),
    }

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Distances of each text's queries, plain and over those of even attention."""
        place = queries(layer.batch, pattern)
        apart = (place[:, None] - torch.arange(pattern.shape[-1], device=place.device)).abs()
        apart = apart.to(pattern.dtype)
        far = (pattern * apart).sum(-1) / pattern.sum(-1)
        control = (even(visible(pattern)) * apart).sum(-1)
        some = control > 0  # a query that sees itself alone has no distance to choose
        relative = far / control.where(some, torch.inf).unsqueeze(1)
        return {
            "attention_distance": (far.sum(-1, dtype=torch.float64), far.shape[-1]),
            "attention_distance_relative": (
                relative.sum(-1, dtype=torch.float64), some.sum(-1)
            ),
            "attention_distance_chance": (
                control.sum(-1, dtype=torch.float64), control.shape[-1]
            ),
        }  # fmt: skip


@register
class AttentionEntropy(SeveralMeans):
    """Entropy of what each head looks at.

    In families with a learnt sink that is no token, rows sum to less than one and its share is
    left out.
    """

    name = "attention_entropy"
    question = "Does a head look at one token or at many?"
    formula = "mean over queries of -sum_j a_j ln a_j; normalised: over ln of the visible keys"
    units = "nats"
    source = "Clark et al. (2019), What Does BERT Look At?, arXiv 1906.04341"
    outputs: ClassVar[Mapping[str, Output]] = {
        "attention_entropy": Output(HEADS, units, "entropy of the attention"),
        "attention_entropy_normalised": Output(
            HEADS, "1", "entropy of the attention, 1 when all visible keys get the same"
        ),
    }

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Entropies of each text's queries; normalised, of those that see two keys or more."""
        entropy = torch.special.entr(pattern).sum(-1).double()
        keys = visible(pattern).sum(-1)
        some = keys > 1
        share = entropy / keys.double().log().where(some, torch.inf).unsqueeze(1)
        return {
            "attention_entropy": (entropy.sum(-1), entropy.shape[-1]),
            "attention_entropy_normalised": (share.sum(-1), some.sum(-1)),
        }


@register
class AttentionSupport(SeveralMeans):
    """How many keys hold most of what a head looks at.

    Parameters
    ----------
    mass
        Share of a query's attention that the keys have to hold together.
    """

    name = "attention_support"
    question = "At how many tokens does a head look?"
    formula = (
        "mean over queries of the least number of keys that hold the mass (0.9) together; _chance: "
        "with the same attention for every key that can be seen"
    )
    units = "tokens"
    source = "Ramsauer et al. (2020), Hopfield Networks is All You Need, arXiv 2008.02217"
    outputs: ClassVar[Mapping[str, Output]] = {
        "attention_support": Output(HEADS, units, "keys that hold most of the attention"),
        "attention_support_share": Output(
            HEADS, "1", "keys that hold most of the attention, of those that can be seen"
        ),
        "attention_support_chance": Output(
            LAYERS, units, f"keys that hold most of it {CONTROL}", interval=False
        ),
    }

    def __init__(self, shape: ModelShape, *, mass: float = 0.9) -> None:
        if not 0 < mass <= 1:
            raise InputError(f"mass is {mass}; expected a share above 0, up to 1.")
        super().__init__(shape, mass=float(mass))

    def measure(self, pattern: Tensor, layer: Layer, rows: list[int]) -> Measured:
        """Numbers of keys of each text's queries."""
        seen = visible(pattern)
        mass = self.options["mass"]
        number, control = (fewest(of, mass, _ROUNDING)[0] for of in (pattern, even(seen)))
        keys = seen.sum(-1, keepdim=True).transpose(-1, -2).cpu()
        return {
            "attention_support": (number.sum(-1), number.shape[-1]),
            "attention_support_share": ((number / keys).sum(-1), number.shape[-1]),
            "attention_support_chance": (control.sum(-1), control.shape[-1]),
        }
