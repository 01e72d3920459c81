"""The texts of an answer, as the fields of its view show them: one text, or a text a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.corpus.texts import Texts
from layerlens.export.answer_meta import one_a_line
from layerlens.views.question import readable

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def field_of(model: LensModel | None, given: Any) -> str:
    """Return what a field shows of a text, or of several, given in any way."""
    if isinstance(given, str):
        return given
    if isinstance(given, Texts):
        return given.code
    if several(given):
        return one_a_line(text if isinstance(text, str) else readable(model, text)
                          for text in given)  # fmt: skip
    return readable(model, given)


def typed(field: str, given: Any) -> Any:
    """Return what a field means whose words were changed: as many texts as before, or one."""
    if not several(given):
        return field
    return [line.replace("⏎", "\n") for line in field.split("\n") if line.strip()]


def several(given: Any) -> bool:
    """Whether it is a list of texts: not one text, nor the token ids of one, nor a chat."""
    return isinstance(given, list | tuple) and bool(given) and isinstance(given[0], str | list)
