"""The run that a lens is compared with: of another model, of another text, or of an edited one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job
from layerlens.analyses.lenses.points import lens_points
from layerlens.errors import InputError
from layerlens.run.edit_lists import as_edits, code_of
from layerlens.run.edits import Edit

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True)
class Second:
    """What is run beside the first run.

    Attributes
    ----------
    kind
        ``"model"``, ``"text"`` or ``"edits"``.
    label
        What it is called.
    model, tokens, edits
        Of the run.
    shared
        Ids of the tokens that both vocabularies have, ``[2, n]``: the first model's, and this
        one's; None where they are the same.
    """

    kind: str
    label: str
    model: LensModel
    tokens: Tokens
    edits: tuple[Edit, ...] = ()
    shared: np.ndarray | None = None

    @property
    def names(self) -> np.ndarray | None:
        """Ids of this model as the first one's, -1 for what that has not."""
        if self.shared is None:
            return None
        found = np.full(self.model.d_vocab, -1, dtype=np.int64)
        found[self.shared[1]] = self.shared[0]
        return found

    def ids(self, tokens: Iterable[int], model: LensModel) -> list[int]:
        """Ids of some tokens of the first model in this one.

        Raises
        ------
        InputError
            This model has no such token.
        """
        if self.shared is None:
            return list(tokens)
        known = dict(zip(*self.shared.tolist(), strict=True))
        lacking = [token for token in tokens if token not in known]
        if lacking:
            raise InputError(
                f"{self.model.name} has no token {model.token_string(lacking[0])!r}, so it cannot "
                "be tracked in both: track another one."
            )
        return [known[token] for token in tokens]


def second_run(job: Job, model: LensModel, tokens: Tokens, other: Any, points: Any) -> Second:
    """Tell what the other run is, and refuse what cannot be laid over the first one.

    Raises
    ------
    InputError
        It is nothing of the three, or its rows or columns have no counterpart.
    """
    from layerlens.model.lensmodel import LensModel

    if isinstance(other, LensModel):
        return _of_model(job, model, tokens, other, points)
    if isinstance(other, Edit) or _are_edits(other):
        edits = tuple(as_edits(other))
        return Second("edits", f"edited: {code_of(edits)}", model, tokens, edits)
    if other is None:
        raise InputError(
            "There is nothing to compare with: give other= a model, a second text, or edits."
        )
    read = job.tokens(other, like=tokens)
    _require_like(tokens, read, model, model)
    texts = [text or "".join(row) for text, row in zip(read.texts, read.strings, strict=True)]
    return Second("text", texts[0] if read.single else f"{len(texts)} other texts", model, read)


def _are_edits(other: Any) -> bool:
    return isinstance(other, list | tuple) and bool(other) and isinstance(other[0], Edit)


def _of_model(job: Job, model: LensModel, tokens: Tokens, other: LensModel, points: Any) -> Second:
    own, theirs = ([point.label for point in lens_points(each, points)] for each in (model, other))
    if own != theirs:
        raise InputError(
            f"{model.name} has {model.n_layers} blocks and {len(own)} such points, {other.name} "
            f"{other.n_layers} and {len(theirs)}: rows are compared point by point, so both need "
            "the same ones (with points='post', models of as many blocks have them)."
        )
    label = other.name if other.name != model.name else f"{other.name} (other)"
    alike = model.vocabulary.fingerprint == other.vocabulary.fingerprint
    if alike and model.d_vocab == other.d_vocab:
        return Second("model", label, other, tokens)
    if model.tokenizer is None or other.tokenizer is None:
        raise InputError(
            f"{model.name} has {model.d_vocab} tokens and {other.name} {other.d_vocab}, and "
            "without both tokenizers nobody knows which are the same: load both with theirs."
        )
    if any(text is None for text in tokens.texts):
        raise InputError(
            f"{model.name} and {other.name} have different vocabularies: give the text as a "
            "string, which each reads in its own tokens."
        )
    texts = [str(text) for text in tokens.texts]
    read = job.tokens(texts[0] if tokens.single else texts, other, like=tokens)
    _require_like(tokens, read, model, other)
    shared = _shared(model, other)
    share = shared.shape[1] / max(model.d_vocab, other.d_vocab)
    if shared.shape[1] < 2:
        raise InputError(f"{model.name} and {other.name} have no tokens in common.")
    job.remark(
        f"The vocabularies differ: tokens are the same by their text, {shared.shape[1]} of them "
        f"({share:.0%}), and divergences are those among these alone."
    )
    return Second("model", label, other, read, shared=shared)


def _shared(model: LensModel, other: LensModel) -> np.ndarray:
    """Ids of tokens with the same text, ``[2, n]``; of texts that stand twice, the first."""
    tables = []
    for each in (model, other):
        table: dict[str, int] = {}
        for i in range(each.d_vocab):
            table.setdefault(each.token_string(i), i)
        tables.append(table)
    both = [(i, tables[1][text]) for text, i in tables[0].items() if text in tables[1]]
    return np.array(both, dtype=np.int64).reshape(-1, 2).T


def _require_like(one: Tokens, two: Tokens, model: LensModel, other: LensModel) -> None:
    """Refuse texts whose positions do not belong together."""
    if len(one.ids) != len(two.ids):
        raise InputError(
            f"There are {len(one.ids)} texts and {len(two.ids)} others: give one for each."
        )
    for first, second, n, m in zip(one.strings, two.strings, one.lengths, two.lengths, strict=True):
        if model is other and n != m:
            raise InputError(
                f"The texts have {n} and {m} tokens: they are compared position by position, so "
                "give a second text of the same length."
            )
        if model is not other and list(first) != list(second):
            raise InputError(
                f"{model.name} reads this text as {n} tokens and {other.name} as {m} others: their "
                "positions cannot be compared; give a text that both cut in the same places."
            )
