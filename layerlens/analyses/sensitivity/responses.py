"""Texts, and which of their next tokens a loss is of: all, or those of a response."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.text import Tokens


class Asked(NamedTuple):
    """One text.

    Parameters
    ----------
    text
        One row without padding.
    skip
        At how many tokens of its beginning what comes next does not count.
    """

    text: Tokens
    skip: int

    @property
    def counted(self) -> int:
        """How many next tokens count."""
        return self.text.ids.shape[1] - 1 - self.skip


def asked(job: Job, tokens: Tokens, responses: Any, skip_first: bool | int) -> list[Asked]:
    """Each text, and from where on its next tokens count.

    Parameters
    ----------
    responses
        None: all of a text counts. Else what is answered to each text, which is put behind it; its
        tokens alone count. Strings to strings, token ids to token ids.
    skip_first
        Without responses: predictions at the first token (or so many) do not count.

    Raises
    ------
    InputError
        No next token counts, or a response does not fit its text.
    """
    rows = [row_of(tokens, row) for row in range(len(tokens.ids))]
    if responses is None:
        least = min(tokens.lengths)
        if int(skip_first) < 0 or int(skip_first) > least - 2:
            raise InputError(
                f"No next token counts: the shortest text has {least} tokens and skip_first is "
                f"{skip_first}. Give longer texts, or skip_first=False."
            )
        return [Asked(row, int(skip_first)) for row in rows]
    alone = tokens.single and not isinstance(responses, str) and _is_ids(responses)
    each = one_each(responses, len(rows), "responses", alone=alone)
    return [_answered(job, row, response) for row, response in zip(rows, each, strict=True)]


def _is_ids(given: Any) -> bool:
    return all(not isinstance(value, str | list | tuple) for value in given)


def _answered(job: Job, text: Tokens, response: Any) -> Asked:
    """A text with its response behind it; the loss begins where the two differ."""
    (words,) = text.texts
    own = text.ids[0].tolist()
    if isinstance(response, str) and words is not None:
        # Read as one string, as the model would meet it: a word may begin in the text.
        whole = job.tokens(words + response, like=text)
    elif not isinstance(response, str) and words is None:
        whole = job.tokens([*own, *list(response)])
    else:
        raise InputError(
            f"The response {response!r} does not fit its text: give strings for strings, and "
            "token ids for token ids."
        )
    ids = whole.ids[0].tolist()
    pairs = enumerate(zip(own, ids, strict=False))
    shared = next((i for i, (one, other) in pairs if one != other), len(own))
    if not 1 <= shared < len(ids):
        raise InputError(
            f"The response {response!r} has no token behind its text: give a text before it, and "
            "a response that is not empty."
        )
    return Asked(replace(whole, single=True), shared - 1)
