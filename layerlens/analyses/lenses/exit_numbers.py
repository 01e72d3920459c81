"""What the rules of an early exit ask of each token, read from the states of a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

    from layerlens.analyses.lenses.fitting.documents import Seen
    from layerlens.analyses.lenses.points import Point
    from layerlens.analyses.lenses.readers import Reader
    from layerlens.model.lensmodel import LensModel
    from layerlens.run.head_rows import Head


@dataclass(frozen=True)
class Scored:
    """Reads tokens at the points where they may exit, and at the model's own end.

    Attributes
    ----------
    model, head, reader
        Whose states, and how they are read.
    states
        The points that were recorded, each after the one before it.
    points
        Those of them where a token may exit.
    tick
        Called before each product with the head; may raise to stop.
    """

    model: LensModel
    head: Head
    reader: Reader
    states: Sequence[Point]
    points: Sequence[Point]
    tick: Callable[[], None]

    def numbers(self, found: Seen) -> dict[str, np.ndarray]:
        """``[point, n]`` numbers of the rules, and logprob of the next token."""
        rows = [self._at(place, found) for place in map(self.states.index, self.points)]
        rows.append(self._read(self.model.head_input(found.final), found.target))
        nothing = torch.full_like(rows[-1]["logprob"], float("nan"))
        rows[-1]["state_cosine"] = nothing  # the end is taken where no score was enough
        return {name: torch.stack([row[name] for row in rows]).numpy() for name in rows[-1]}

    def _at(self, place: int, found: Seen) -> dict[str, Tensor]:
        state = found.states[place]
        row = self._read(self.reader.decode(self.states[place], state), found.target)
        cosine = torch.full((len(state),), float("nan"))
        if place:  # the embedding has no state before it
            before = found.states[place - 1]
            cosine = torch.cosine_similarity(state.float(), before.float(), dim=-1).clamp(max=1)
        return row | {"state_cosine": cosine.cpu()}

    def _read(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What the head makes of rows ``[n, d_head]``."""
        target = target.to(self.head.device)
        chosen = target.clamp_min(0).unsqueeze(-1)
        kept = self.head.reduce(self.head.accept(x), chosen, min(2, self.head.d_vocab), self.tick)
        probability = (kept.top_logits - kept.log_norm[:, None]).exp()
        second = probability[:, 1] if self.head.d_vocab > 1 else 0.0
        logprob = (kept.chosen[:, 0] - kept.log_norm).masked_fill(target < 0, float("nan"))
        found = {
            "margin": probability[:, 0] - second,
            "probability": probability[:, 0],
            "entropy": kept.entropy,
            "top_id": kept.top_ids[:, 0],
            "logprob": logprob,
        }
        return {name: value.cpu() for name, value in found.items()}
