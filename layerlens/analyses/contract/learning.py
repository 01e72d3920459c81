"""What an analysis learned, put together with where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.options import plain
from layerlens.analyses.contract.provenance import versions
from layerlens.corpus.rows import Rows
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.model.fingerprint import fingerprint_of_rows
from layerlens.result.checks import Checks
from layerlens.result.fitted import Fitted, ModelFacts

if TYPE_CHECKING:
    from torch import Tensor

    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

Fed = Mapping[str, "Tokens | Texts"]


def require_readable_again(fed: Fed) -> None:
    """Refuse texts that can be read only once: learning reads them more than once."""
    for texts in fed.values():
        if isinstance(texts, Texts) and isinstance(texts.source, Iterator):
            raise InputError(
                "These texts come from an iterator, which can be read only once, and learning "
                "reads them several times: give a list, a file or a dataset."
            )


def fitted_of(
    kind: str,
    job: Job,
    model: LensModel,
    fed: Fed,
    *,
    options: Mapping[str, Any],
    code: str,
    ended: bool,
) -> Fitted | None:
    """What was learned by now; None where nothing was.

    Parameters
    ----------
    kind
        What it is.
    ended
        Whether the analysis came to its end.
    """
    if not job.arrays:
        return None
    return Fitted(
        kind=kind,
        arrays=dict(job.arrays),
        model=ModelFacts.of(model),
        data=data_of(model, fed),
        options=plain(options) | plain(job.facts),
        scores={side: dict(measures) for side, measures in job.scores.items()},
        checks=Checks(job.checks),
        call=code,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=ended,
        versions=versions(),
    )


def imported(
    kind: str,
    arrays: Mapping[str, Tensor],
    model: LensModel,
    about: Mapping[str, Any],
    *,
    call: str,
    options: Mapping[str, Any] | None = None,
    scores: Mapping[str, Mapping[str, float]] | None = None,
    complete: bool = True,
) -> Fitted:
    """What another package learned for this model; on which texts is not known.

    Parameters
    ----------
    kind
        What it is.
    arrays
        By name, as an analysis of ours would hand them over.
    about
        What the package says of it.
    call
        The Python that reads it again.
    options
        With which an analysis of ours would have learned it, as far as they are needed to use it.
    scores
        Side to measure to value, as far as the package tells.
    complete
        Whether the fit was finished.
    """
    return Fitted(
        kind=kind,
        arrays=dict(arrays),
        model=ModelFacts.of(model),
        data="",
        options={**(options or {}), "imported": dict(about)},
        scores=scores or {},
        call=call,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        complete=complete,
        versions=versions(),
    )


def data_of(model: LensModel, fed: Fed) -> str:
    """Fingerprint of what is learned from, as ``Fitted.data`` says it."""
    return fingerprint_of_rows(row for texts in fed.values() for row in _rows(model, texts))


def _rows(model: LensModel, texts: Tokens | Texts) -> Iterator[list[int]]:
    if isinstance(texts, Texts):
        for row in Rows(texts, model):
            yield row.ids
        return
    for ids, mask in zip(texts.ids, texts.mask, strict=True):
        yield ids[mask].tolist()
