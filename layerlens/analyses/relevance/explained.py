"""The number whose relevance is asked for: a token's logit, or the difference of two tokens'."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.nn.functional import linear

from layerlens.errors import InputError
from layerlens.model.head import apply

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


class Explained:
    """A logit before any soft-cap, from states after the last block where a text is answered.

    A cap is the same for all tokens and is not a sum of anything, so that what is divided among
    tokens is the number before it, as in direct logit attribution.

    Parameters
    ----------
    answer, wrong
        Token ids; ``wrong`` is None for the logit of the answer alone.
    """

    def __init__(self, model: LensModel, answer: int, wrong: int | None = None) -> None:
        if answer == wrong:
            raise InputError(
                f"The answer and the wrong answer are the same token, "
                f"{model.token_string(answer)!r}: name another one."
            )
        head = model.anatomy.head
        assert head is not None  # the model has a head: the contract asked
        self._model, self._head = model, model.hf.get_submodule(head.head)
        names = [name for name, _ in head.operations]
        self.capped = "cap" in names
        self._operations = head.operations[: names.index("cap") if self.capped else None]
        self._widens = head.widens
        self._matrix = model.head_matrix()
        self.answer, self.wrong = answer, wrong

    def __call__(self, final: Tensor) -> Tensor:
        """The number for each of ``[n, d_model]``, ``[n]`` float32.

        Only the rows of the head that are needed are read where it is one linear map.
        """
        tokens = [self.answer, *([] if self.wrong is None else [self.wrong])]
        x = self._model.head_input(final)
        if (matrix := self._matrix) is not None:
            bias = None if matrix.bias is None else matrix.bias[tokens].float()
            logits = linear(x.float(), matrix.weight[tokens].float(), bias) * matrix.scale
        else:
            logits = self._head(x)[:, tokens]
            logits = apply(self._operations, logits.float() if self._widens else logits).float()
        return logits[:, 0] if self.wrong is None else logits[:, 0] - logits[:, 1]

    @property
    def words(self) -> str:
        """What it is, with its tokens."""
        names = [
            repr(self._model.token_string(t)) for t in (self.answer, self.wrong) if t is not None
        ]
        return " minus ".join(f"logit of {name}" for name in names)


def random_answers(
    model: LensModel, own: Explained, draws: int, seed: int, row: int
) -> list[Explained]:
    """Random answers, or pairs of them, none of them one that is asked for.

    Parameters
    ----------
    own
        What is asked for: of a difference of two tokens the random ones are differences, too.
    row
        Which text: each gets others.
    """
    rng = np.random.default_rng((seed, row))
    taken = {own.answer, own.wrong}
    pool = [t for t in rng.permutation(model.d_vocab)[: 2 * draws + 2] if t not in taken]
    pairs = zip(pool[:draws], pool[draws:], strict=False)
    alone = own.wrong is None
    return [Explained(model, int(a), None if alone else int(b)) for a, b in pairs]
