"""Questions for the sum of two numbers, ``a + b =``, a row of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.errors import InputError
from layerlens.model.toys import PAIRS

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Numbers = Sequence[str | int] | None
Prompt = str | Sequence[str | int]
FEWEST = 3
"""Numbers without which there is no frequency beside its mirror."""


@dataclass(frozen=True)
class Sums:
    """How a sum of two numbers is asked.

    Attributes
    ----------
    numbers
        ``[period]`` int64, the token of each number, in their order.
    ids
        ``[position]`` int64, the tokens of one question.
    at
        Positions of a and b.
    """

    numbers: Tensor
    ids: Tensor
    at: tuple[int, int]

    @classmethod
    def of(
        cls, model: LensModel, numbers: Numbers, prompt: Prompt, read: Callable[[Any], Tokens]
    ) -> Sums:
        """Find the tokens.

        Parameters
        ----------
        numbers, prompt
            As of `fourier`.
        read
            From a text or token ids to tokens.

        Raises
        ------
        InputError
            There are too few numbers, or the prompt does not hold both as one token each.
        """
        if numbers is None:
            found = counted(model)
        else:
            found = [model.token_id(number) for number in numbers]
        if len(found) < FEWEST or len(set(found)) < len(found):
            raise InputError(
                f"There are {len(set(found))} different numbers, expected at least {FEWEST}: name "
                "with numbers= the tokens that stand for 0, 1, 2 ..., each once."
            )
        first, second = found[0], found[1]
        one, two = (read(_filled(model, prompt, *pair)).ids[0] for pair in
                    ((first, second), (second, first)))  # fmt: skip
        moved = (one != two).nonzero()[:, 0].tolist() if len(one) == len(two) else []
        if len(moved) != 2 or [int(one[at]) for at in moved] != [first, second]:
            raise InputError(
                f"In the prompt {prompt!r} a and b are not one token each, a before b: write "
                "'{a} + {b} =', or a list of token ids with 'a' and 'b' among them."
            )
        return cls(torch.tensor(found), one, (moved[0], moved[1]))

    @property
    def period(self) -> int:
        """How many numbers there are."""
        return len(self.numbers)

    def questions(self, a: Tensor, b: Tensor) -> Tensor:
        """``[n, position]`` int64: the questions of pairs of places ``[n]``."""
        found = self.ids.repeat(len(a), 1)
        found[:, self.at[0]], found[:, self.at[1]] = self.numbers[a], self.numbers[b]
        return found


def counted(model: LensModel) -> list[int]:
    """Tokens of the words 0, 1, 2 ..., as far as each is one token."""
    found: list[int] = []
    if model.tokenizer is None:
        return found
    while len(found) < model.d_vocab:
        try:
            found.append(model.token_id(str(len(found))))
        except InputError:
            break
    return found


def trained_pairs(model: LensModel, given: Any, period: int) -> Tensor | None:
    """``[a, b]`` bool: which pairs the model was trained on; None where that is not known.

    Raises
    ------
    InputError
        The pairs that were given are no pairs of places of numbers.
    """
    known = model.trained_range
    if given is None:
        if known is None or known.pairs not in PAIRS:
            return None
        pairs = PAIRS[known.pairs]()
        if int(pairs.max()) >= period:
            return None  # other numbers than those of its training are asked about
    else:
        pairs = torch.as_tensor(given)
        whole = pairs.dim() == 2 and pairs.shape[1] == 2 and not pairs.is_floating_point()
        if not whole or not len(pairs) or not 0 <= int(pairs.min()) <= int(pairs.max()) < period:
            raise InputError(
                f"trained has shape {tuple(pairs.shape)}; expected [n, 2], places of numbers from "
                f"0 to {period - 1}."
            )
    found = torch.zeros(period, period, dtype=torch.bool)
    found[pairs[:, 0], pairs[:, 1]] = True
    return found


def _filled(model: LensModel, prompt: Prompt, a: int, b: int) -> Any:
    """The prompt with the tokens of two numbers in it."""
    if isinstance(prompt, str):
        return prompt.replace("{a}", _word(model, a)).replace("{b}", _word(model, b))
    places = {"a": a, "b": b}
    return [places.get(each, each) if isinstance(each, str) else each for each in prompt]


def _word(model: LensModel, token: int) -> str:
    return model.token_string(token).strip()
