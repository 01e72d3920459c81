"""What a cell opens in which a run was changed: the next token of the first text, by turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from layerlens.analyses.answers.next_tokens import chances, next_token_table
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.sweeps.clean_pass import Pass
from layerlens.analyses.texts.text_pair import row_of
from layerlens.metrics.batch import Batch
from layerlens.run.answer_place import answer_place
from layerlens.run.edits import Edit, edit
from layerlens.run.values import source

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


class FirstText:
    """The first of the texts, run as it is.

    Attributes
    ----------
    one
        Its pass, from whose states changed runs go on.
    at
        The position where it is answered.
    """

    def __init__(self, job: Job, model: LensModel, tokens: Tokens) -> None:
        text = row_of(tokens, 0)
        self._model, self._texts = model, len(tokens.ids)
        self.at = answer_place(model, text)
        self.one = Pass(model, Batch(text, [0]), job.tick)

    def opened(self, title: str, code: str, finals: Mapping[str, Tensor]) -> Opened:
        """The next token as it is and with what was done, side by side.

        Parameters
        ----------
        finals
            What was done, to states after the last block, ``[1, position, d_model]``.
        """
        states = {"as it is": self.one.states[-1], **finals}
        found = {name: chances(self._model, state[0, self.at]) for name, state in states.items()}
        of_many = f", first of {self._texts} texts" if self._texts > 1 else ""
        return Opened(title + of_many, code, [next_token_table(self._model, found)])


def muted(place: Place, sublayers: Iterable[tuple[int, str]]) -> list[Edit]:
    """Edits that leave sublayers (layer, part) out; none where no one text can be written down."""
    if place.one_text is None:
        return []
    return [edit(f"{part}_out.{layer}", "zero") for layer, part in sublayers]


def passed_by(place: Place, layer: int) -> list[Edit]:
    """The edit that leaves a layer out; none where no one text can be written down."""
    if place.one_text is None:
        return []
    return [edit(f"resid_post.{layer}", "set", source(place.one_text, f"resid_pre.{layer}"))]
