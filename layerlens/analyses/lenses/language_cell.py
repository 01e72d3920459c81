"""What a point of ``language_track`` opens: what would be said there behind each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layerlens.analyses.contract.cells import Opened, Place, Table
from layerlens.analyses.lenses.early_exit import exits_of
from layerlens.analyses.lenses.one_pass import head_source
from layerlens.analyses.lenses.readers import Lens, reader_of
from layerlens.analyses.lenses.set_groups import Groups
from layerlens.analyses.lenses.token_sets import SHARED, TokenSets, sets_given
from layerlens.analyses.texts.text_pair import row_of
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TEXTS, TOP = 4, 10
"""How many texts are read again, and how many tokens are listed of each."""


def open_language(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    sets: Any,
    mode: str,
    lens: Lens,
    memory_limit: int,
) -> Opened:
    """Read the first texts once more at the point of the cell, and list the tokens on top.

    A number of no point opens the last one. Of a word of several tokens only the first is found
    among them.
    """
    label = str(place.labels.get("point", "final"))
    groups = Groups(model, sets_given(sets, len(tokens.ids)), mode)
    head = Head.of(model, memory_limit // 2)
    tables = []
    for row in range(min(TEXTS, len(tokens.ids))):
        x = head.accept(_head_input(job, model, row_of(tokens, row), label, lens))
        top = min(TOP, head.d_vocab)
        kept = head.reduce(x, x.new_zeros((1, 0), dtype=torch.long), top, job.tick)
        names = _names(groups.texts[row])
        shares = (kept.top_logits - kept.log_norm[:, None]).exp()[0].tolist()
        listed = [
            [model.vocabulary.string(index), share, names.get(index, "")]
            for index, share in zip(kept.top_ids[0].tolist(), shares, strict=True)
        ]
        tables.append(Table([f"text {row}", "probability", "set"], listed))
    return Opened(f"What would be said after the first texts at {label}", place.call, tables)


def _head_input(job: Job, model: LensModel, tokens: Tokens, label: str, lens: Lens) -> Tensor:
    """What the head is given at the end of a text, ``[1, width]``."""
    reader = reader_of(model, lens)
    point = next((p for p in exits_of(model, reader) if p.label == label), None)
    source, head_input = head_source(model)
    held: list[Tensor] = []
    job.tick()
    site = source if point is None else point.site
    forward(model, tokens, [site], lambda _, value: held.append(value[0, -1:]), logits=None)
    return head_input(held[0]) if point is None else reader.decode(point, held[0])


def _names(sets: TokenSets) -> dict[int, str]:
    """The first token of all that is in a set, and the set's name."""
    named = {said[0]: name for name, each in sets.sets.items() for said in each}
    return named | {said[0]: SHARED for said in sets.shared}
