"""What a place of a facet opens: its whole text, marked, and the next token without the neuron."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job
from layerlens.analyses.features.facets.contexts import written
from layerlens.analyses.lenses.fitting.documents import read_rows, text_of
from layerlens.analyses.neurons.top_texts_cell import opened_place
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def open_context(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    place: Place,
    *,
    layer: int,
    number: int,
    around: int,
    side: str,
    **_: Any,
) -> Opened:
    """Read the whole row of a place; of a facet, that of the place nearest to its centre."""
    words = str(place.labels.get("example", ""))
    text, at = (int(place.companions.get(name, -1)) for name in ("text", "position"))
    if not words:
        facet = int(str(place.need("facet")).partition(":")[0])
        first = place.answer["of_facet"].tolist().index(facet)
        text, at = (int(place.answer[name][first]) for name in ("text", "position"))
    for row in read_rows(model, tokens):
        if text_of(row) == text and _is(model, row, at, words, around):
            here = job.tokens(row.ids)
            return opened_place(job, model, here, text, at, (layer, number), side)
    raise InputError("The text of this place is no longer among the texts: run it again.")


def _is(model: LensModel, row: Row, at: int, words: str, around: int) -> bool:
    """Whether a place of a row is the one that is written so: pieces of a text share its number."""
    return at < len(row.ids) and words in ("", written(model, row, at, around))
