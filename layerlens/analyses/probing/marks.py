"""Labels and groups of texts, which stand in the call or are the texts' own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job


def marks_of(
    job: Job, labels: Sequence[Any] | None, groups: Sequence[Any] | None
) -> tuple[Sequence[Any], Sequence[Any] | None]:
    """Labels and groups of texts, from the call or from the texts.

    Raises
    ------
    InputError
        Both have labels, or none has.
    """
    own, own_groups = job.labels(needed=False), job.groups()
    if labels is not None and own:
        raise InputError("The texts have labels of their own: leave labels out, or give a list.")
    if labels is None and not own:
        raise InputError(
            "There are no labels: give labels=[...] with one for each text, or ll.texts(texts, "
            "label=[...])."
        )
    if groups is not None and own_groups:
        raise InputError("The texts have groups of their own: leave groups out, or give a list.")
    return labels if labels is not None else own, groups if groups is not None else own_groups
