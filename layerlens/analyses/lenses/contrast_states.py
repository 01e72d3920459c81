"""States read while a model writes, turned into the scores of its next token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from layerlens.analyses.lenses.contrast_rules import DIVERGENCES, scores
from layerlens.analyses.lenses.one_pass import head_source
from layerlens.errors import LayerLensError
from layerlens.model.sites import Site

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class Rule:
    """How a contrast is made: the options of ``ll.contrast_layers``, and its candidates."""

    method: str
    variant: str
    points: list[Point]
    alpha: float
    weight: float
    amateur_weight: float


class Picked(NamedTuple):
    """What candidates say at one position of each text.

    Attributes
    ----------
    divergence
        ``[n, point]``, what the choice is made by.
    place
        ``[n]`` which candidate is chosen.
    early
        ``[n, vocabulary]``, its log probabilities.
    """

    divergence: Tensor
    place: Tensor
    early: Tensor


class EarlyAnswers:
    """Reads the candidates of a rule in one model."""

    def __init__(self, model: LensModel, rule: Rule, reader: Reader) -> None:
        self._model, self._rule, self._reader = model, rule, reader
        self._source, self._head_input = head_source(model)
        self._before = {
            point: Site("resid_mid", point.layer) for point in rule.points if rule.method == "fused"
        }

    @property
    def sites(self) -> list[Site]:
        """What has to be read."""
        own = [point.site for point in self._rule.points]
        return list(dict.fromkeys([*own, *self._before.values(), self._source]))

    def final(self, states: Mapping[Site, Tensor]) -> Tensor:
        """Logits ``[n, vocabulary]`` of the last layer."""
        return self._model.head(self._head_input(states[self._source]))

    def log_probabilities(self, point: Point, state: Tensor) -> Tensor:
        """What a candidate would say, ``[n, vocabulary]``."""
        if not bool(torch.isfinite(state).all()):
            raise LayerLensError(
                f"The model's activations hold NaN or infinity from {point.label} on: check its "
                "weights and dtype (float16 overflows where bfloat16 or float32 do not)."
            )
        if self._rule.variant == "reference":
            module: Any = self._model.hf.get_output_embeddings()
            logits: Tensor = module(state).float()
        else:
            logits = self._model.head(self._reader.decode(point, state))
        return logits.log_softmax(-1)

    def pick(
        self, states: Mapping[Site, Tensor], final: Tensor, fixed: Tensor | None = None
    ) -> Picked:
        """Choose a candidate for each text, one after the other; only two are held at once.

        Parameters
        ----------
        states
            ``[n, d_model]`` for each site.
        final
            Log probabilities of the last layer ``[n, vocabulary]``.
        fixed
            Which candidate to take instead, ``[n]``.
        """
        least = self._rule.method == "fused"  # how little a block's MLP changes the answer
        found: list[Tensor] = []
        best = torch.full((len(final),), float("inf") if least else -float("inf"))
        place = torch.zeros(len(final), dtype=torch.int64)
        early = torch.zeros_like(final)
        for number, point in enumerate(self._rule.points):
            here = self.log_probabilities(point, states[point.site])
            other = final
            if least:
                other = self._reader_before(point, states)
            value = DIVERGENCES[self._rule.variant](other, here).cpu()
            found.append(value)
            better = value < best if least else value > best
            if fixed is not None:
                better = fixed == number
            best = torch.where(better, value, best)
            place[better] = number
            early = torch.where(better.to(here.device)[:, None], here, early)
        return Picked(torch.stack(found, 1), place, early)

    def at(self, states: Mapping[Site, Tensor], place: Tensor) -> tuple[Tensor, Tensor]:
        """Log probabilities of the last layer, and of the candidates that were chosen."""
        final = self.final(states).log_softmax(-1)
        return final, self.pick(states, final, place).early

    def score(
        self, final: Tensor, early: Tensor, amateur: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """What the next token is chosen by, ``[n, vocabulary]``."""
        rule = self._rule
        return scores(
            rule.method, final, early, rule.alpha, rule.weight, amateur, rule.amateur_weight
        )

    def _reader_before(self, point: Point, states: Mapping[Site, Tensor]) -> Tensor:
        """What the block would have said before its MLP, read as after it."""
        return self.log_probabilities(point, states[self._before[point]])
