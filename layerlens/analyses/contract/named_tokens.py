"""Options that name tokens: read in one place, as they follow the texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.analyses.texts.one_each import one_each
from layerlens.model.targets import choose
from layerlens.model.text import Tokens

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel

ANSWERS = ("answer", "wrong")
"""Options with one token, for all texts or for each."""
TRACKED = "tracked"
"""An option with any number of tokens."""


def read_tokens(
    job: Job, model: LensModel, fed: Mapping[str, Tokens | Texts], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The options with the ids of the tokens that they name in place of strings.

    A token that reads otherwise than it was written stands among the result's notes.

    Parameters
    ----------
    fed
        What the analysis is handed; an answer follows the first of the texts, or that of the
        option ``text`` or ``into`` of an analysis that has one.
    options
        All of them.

    Raises
    ------
    InputError
        If a string is not one token of the head, or there is not one for each text.
    """
    found = dict(options)
    before = _texts(job, fed, options)
    for name in ANSWERS:
        if options.get(name) is not None:
            found[name] = _answers(job, model, name, options[name], before)
    if options.get(TRACKED) is not None:
        alone = before[0] if len(before) == 1 else None
        found[TRACKED] = [_one(job, model, token, alone) for token in _listed(options[TRACKED])]
    return found


def _texts(
    job: Job, fed: Mapping[str, Tokens | Texts], options: Mapping[str, Any]
) -> list[str | None]:
    """The texts that answers follow; None where one was given as ids."""
    other = options.get("text") if options.get("into") is None else options["into"]
    if other is not None:
        return [job.tokens(other).texts[0]] * _count(fed)
    first = next(iter(fed.values()), None)
    return list(first.texts) if isinstance(first, Tokens) else [None]


def _count(fed: Mapping[str, Tokens | Texts]) -> int:
    first = next(iter(fed.values()), None)
    return len(first.ids) if isinstance(first, Tokens) else 1


def _answers(
    job: Job, model: LensModel, name: str, given: Any, before: list[str | None]
) -> int | list[int | None]:
    if not isinstance(listed := _plain(given), list | tuple):
        ids = [_one(job, model, given, text) for text in before]
        return ids[0] if len(set(ids)) == 1 else list(ids)
    pairs = zip(one_each(listed, len(before), name), before, strict=True)
    return [None if token is None else _one(job, model, token, text) for token, text in pairs]


def _one(job: Job, model: LensModel, token: Any, text: str | None) -> int:
    choice = choose(model.answers, token, text)
    if choice.note is not None:
        job.remark(choice.note)
    return choice.id


def _listed(given: Any) -> list[Any]:
    plain = _plain(given)
    return list(plain) if isinstance(plain, list | tuple | set | range) else [plain]


def _plain(given: Any) -> Any:
    """Arrays and tensors as lists or numbers."""
    return given.tolist() if hasattr(given, "tolist") else given
