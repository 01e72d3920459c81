"""The texts of an answer, as the fields of its view show them: one text, or a text a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.corpus.shown import few, reworded
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.export.answer_meta import one_a_line
from layerlens.views.question import readable

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel


def field_of(model: LensModel | None, given: Any, *, corpus: bool = False) -> str:
    """Return what a field shows of a text, or of several, given in any way.

    Of ``ll.texts`` it shows the texts where they are few and short, else their call; the call, too,
    where a `corpus` is read, of which a result holds no text.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, Texts):
        texts = None if corpus else _few(given)
        if texts is None:
            return given.code
        given = texts
    if several(given):
        return one_a_line(text if isinstance(text, str) else readable(model, text)
                          for text in given)  # fmt: skip
    return readable(model, given)


def typed(field: str, given: Any) -> Any:
    """Return what a field means whose words were changed: as many texts as before, or one.

    As many lines as there were labelled texts keep the labels; others have none.
    """
    shown: Any = _few(given) if isinstance(given, Texts) else given
    if not several(shown):
        return field
    lines = [line.replace("⏎", "\n") for line in field.split("\n") if line.strip()]
    if isinstance(given, Texts) and len(lines) == len(shown):
        return reworded(given, tuple(lines))
    return lines


def _few(given: Texts) -> list[Any] | None:
    try:
        return few(given)
    except InputError:  # the run says what is wrong with them
        return None


def several(given: Any) -> bool:
    """Whether it is a list of texts: not one text, nor the token ids of one, nor a chat."""
    return isinstance(given, list | tuple) and bool(given) and isinstance(given[0], str | list)
