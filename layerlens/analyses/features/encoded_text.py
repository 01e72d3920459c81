"""The features of one text: read, encoded, shuffled, and held against random directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, weighted_rows
from layerlens.analyses.features.replacing import Replaced, read

if TYPE_CHECKING:
    from layerlens.model.text import Tokens

Tick = Callable[[], None]


@dataclass(frozen=True)
class EncodedText:
    """The activations of a text that a dictionary reads.

    Attributes
    ----------
    tokens
        One text without padding.
    kept
        ``[position]`` bool: tokens that count.
    states
        ``[layer, n, width]`` float32 on the CPU, of those.
    """

    places: Places
    dictionary: Dictionary
    tokens: Tokens
    kept: Tensor
    states: Tensor

    @classmethod
    def of(cls, places: Places, dictionary: Dictionary, tokens: Tokens, tick: Tick) -> EncodedText:
        """Run a text."""
        kept = places.kept(tokens)
        found = places.states(tokens, kept, tick).movedim(1, 0)
        return cls(places, dictionary, tokens, kept[0], found)

    def encode(self) -> Tensor:
        """Features ``[layer, n, m]``."""
        return torch.stack([self.dictionary.encode(x) for x in self.states])

    def shuffled(
        self, numbers: Tensor, draws: int, generator: torch.Generator, tick: Tick
    ) -> Tensor:
        """What features are for the same tokens where the text is shuffled, mean over draws.

        Parameters
        ----------
        numbers
            ``[k]``: which features.

        Returns
        -------
        Tensor
            ``[layer, n, k]``, each token at the place where it stands in the text.
        """
        places = self.kept.nonzero().flatten()
        total = torch.zeros(len(self.states), len(places), len(numbers))
        for _ in range(draws):
            order = torch.randperm(len(places), generator=generator)
            ids = self.tokens.ids.clone()
            ids[0, places] = ids[0, places[order]]
            other = EncodedText.of(
                self.places, self.dictionary, replace(self.tokens, ids=ids), tick
            )
            total[:, order] += other.encode()[..., numbers]
        return total / draws

    def random_errors(self, layer: int, counts: Tensor, rows: Tensor, tick: Tick) -> Tensor:
        """``[n]``: squared error with as many random directions in the place of features.

        For each token those of the random directions that lie nearest to what features have to
        write, combined at their best (least squares), which is more than an encoder can do.

        Parameters
        ----------
        counts
            ``[n]``: features on for each token.
        rows
            ``[m, width]``: random directions of norm 1.
        """
        x = self.states[layer]
        left = x - self.dictionary.written(x, torch.zeros(len(x), self.dictionary.features))
        errors = []
        for target, count in zip(left, counts.tolist(), strict=True):
            tick()
            if count >= len(target):
                errors.append(torch.zeros(()))
                continue
            chosen = rows[(rows @ target).abs().topk(count).indices]
            best = torch.linalg.lstsq(chosen.T, target[:, None]).solution[:, 0]
            errors.append((target - best @ chosen).square().sum())
        return torch.stack(errors)

    def off_by_parts(self) -> float:
        """How far features one by one, with the error, are from the activations, at most.

        Relative to the largest entry of an activation.
        """
        off = 0.0
        for x in self.states:
            y, features = self.dictionary.reconstruct(x)
            most = max(1, int((features > 0).sum(-1).max()))
            value, index = features.topk(most)
            parts = weighted_rows(index, value, self.dictionary["W_dec"])
            rest = self.dictionary.written(x, torch.zeros_like(features))
            whole = parts * self.dictionary.factor(x) + rest + (x - y)
            off = max(off, float((whole - x).abs().max() / x.abs().max()))
        return off

    def with_error_put_back(self, tick: Tick) -> tuple[float, float]:
        """Largest difference of a logit with the error put back, and what is allowed."""
        states, clean, kept = read(self.places, self.tokens, tick)
        if clean is None:
            raise RuntimeError("a model with a head gave no logits")
        means = torch.zeros(len(states), self.places.width)
        replaced = Replaced(self.places.model, self.places, self.dictionary, means)
        replaced.put_back(self.tokens, states, kept, clean)
        return replaced.error_of_identity, replaced.tolerance
