"""How ``generate`` is asked: greedy or drawn, what is written first, who hears of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


@dataclass(frozen=True)
class Wanted:
    """How a text is written.

    Attributes
    ----------
    new
        How many tokens at most.
    temperature
        0: the best token each time; else what the logits are divided by before one is drawn.
    seed
        Of the draws.
    begin
        Ids that are written first.
    stop
        Texts behind which writing ends.
    """

    new: int
    temperature: float = 0.0
    seed: int = 0
    begin: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.new < 1:
            raise InputError(f"max_new_tokens is {self.new}; expected a whole number from 1.")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature!r}; expected a number from 0.")
        if len(self.begin) > self.new:
            raise InputError(
                f"begin has {len(self.begin)} tokens and max_new_tokens is {self.new}: raise it."
            )
        if any(not isinstance(text, str) or not text for text in self.stop):
            raise InputError("stop holds what is no text, or is empty: give strings.")


@dataclass
class Calls:
    """What ``generate`` calls at each token: before it is chosen, and when it is.

    Attributes
    ----------
    own
        The model's own logits ``[text, vocabulary]`` float32 of the present token.
    step
        Which token is being written.
    """

    wanted: Wanted
    written: Callable[[Tensor], Tensor]
    """Given the ids ``[text, position]`` with the newest token, returns which texts have ended."""
    own: Tensor = field(default_factory=lambda: torch.empty(0))
    step: int = 0

    def choose(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Keep the logits; leave only one token where it was said which."""
        self.own = logits
        if self.step >= len(self.wanted.begin):
            return logits
        forced = torch.full_like(logits, -float("inf"))
        forced[:, self.wanted.begin[self.step]] = 0.0
        return forced

    def chosen(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Tell of the newest token; True for each text that ends with it."""
        ended = self.written(ids)
        self.step += 1
        return ended


@contextmanager
def drawn(model: LensModel, seed: int) -> Iterator[None]:
    """Draw from a seed, and leave the user's own draws as they were."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def generate_options(calls: Calls) -> dict[str, Any]:
    """Keywords of ``generate``: one plain line of text, without beams, helpers or penalties."""
    warm = calls.wanted.temperature > 0
    how: dict[str, Any] = {"do_sample": warm}
    if warm:
        how |= {"temperature": float(calls.wanted.temperature), "top_k": 0, "top_p": 1.0}
    return {
        **how,
        "num_beams": 1,
        "repetition_penalty": 1.0,
        "prompt_lookup_num_tokens": None,
        "logits_processor": [calls.choose],
        "stopping_criteria": [calls.chosen],
    }


def stops(model: LensModel, ids: Sequence[int], texts: Sequence[str]) -> bool:
    """Whether one of some texts stands in what was written."""
    if not texts:
        return False
    text = "".join(model.vocabulary.split(ids)[0])
    return any(one in text for one in texts)
