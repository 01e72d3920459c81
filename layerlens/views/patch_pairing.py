"""What belongs together in the two prompts of a bench, and what cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layerlens.analyses.texts.alignment import propose
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.views.one_run import Run


def pairing(model: LensModel, run: Run) -> Any:
    """Return which positions of a run's texts belong together.

    That is the run's own ``align``; where none was given, None for texts of equal length (equal
    positions belong together), else a proposal.

    Raises
    ------
    InputError
        Both texts are the same, token for token.
    """
    given = run.options.get("align")
    tokens = {
        name: model.tokens(text, add_bos=run.options.get("add_bos"))
        for name, text in run.inputs.items()
    }
    if not all(found.single for found in tokens.values()):
        return given  # the run says what is wrong
    ids = {name: found.ids[0].tolist() for name, found in tokens.items()}
    if ids["clean"] == ids["corrupt"]:
        raise InputError(
            "Both prompts are the same, token for token, so no patch can change anything: change "
            "a word in one of them."
        )
    if given is not None or len(ids["clean"]) == len(ids["corrupt"]):
        return given
    return propose(ids["clean"], ids["corrupt"])


def without_align(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options without an alignment, which belongs to the texts it was made for."""
    return {name: value for name, value in options.items() if name != "align"}
