"""Options of an analysis: their names are checked, and a call can be written down again."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from layerlens.corpus.texts import Texts
from layerlens.errors import InputError


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of an analysis and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def nearest(word: str, known: Sequence[str], what: str) -> InputError:
    """Return the error for a misspelt word, naming the nearest valid one."""
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"{what} {word!r} is not known: {hint}Valid are {', '.join(known)}.")


def complete(options: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Given options over the defaults.

    Raises
    ------
    InputError
        For an unknown option; names the nearest valid one.
    """
    for option in options:
        if option not in known:
            raise nearest(option, list(known), f"Option of {name}:")
    return {**known, **options}


def plain(value: Any) -> Any:
    """Make a value fit for JSON and literal Python: tensors and arrays become lists."""
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, slice):
        return f"slice({value.start}, {value.stop}, {value.step})"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset | range):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    # A function may be called like a word that an option knows, and is not that word.
    return f"{_named(value)}()" if inspect.isroutine(value) else _named(value)


def _named(value: Any) -> str:
    """A name for a function or an object, without an address."""
    for attribute in ("code", "__name__", "name"):
        if isinstance(name := getattr(value, attribute, None), str) and name:
            return name
    return type(value).__name__


def code(name: str, text: Any, options: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Write the call that makes a result again, with the options that differ from defaults.

    Parameters
    ----------
    text
        The text, or a mapping from the names of several to each.
    options, known
        All options and their defaults. A function is written by its name, another object (a
        model) as a variable with the name of its option, unless it says with an attribute
        ``code`` how it is made.
    """
    texts = text if isinstance(text, Mapping) else {"text": text}
    arguments = [
        _text(given) if list(texts) == ["text"] else f"{key}={_text(given)}"
        for key, given in texts.items()
    ]
    arguments += [
        f"{key}={_literal(key, value)}"
        for key, value in options.items()
        if plain(value) != plain(known[key])
    ]
    return f"ll.{name}({', '.join(['model', *arguments])})"


def _text(text: Any) -> str:
    if isinstance(text, Texts):
        return text.code
    ids = getattr(text, "ids", None)  # Tokens: their ids, which are exact
    if ids is not None:
        rows = [row[keep].tolist() for row, keep in zip(text.ids, text.mask, strict=True)]
        texts = list(text.texts)
        text = rows[0] if text.single else (texts if all(texts) else rows)
    return repr(plain(text))


def _literal(option: str, value: Any) -> str:
    if hasattr(value, "tolist"):
        return repr(plain(value))
    if value is None or isinstance(value, bool | int | float | str | slice | range):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = [f"{key!r}: {_literal(option, item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        inner = ", ".join(_literal(option, item) for item in value)
        if isinstance(value, tuple):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    written = getattr(value, "code", None) or getattr(value, "__name__", "")
    return written if isinstance(written, str) and written and written[0] != "<" else option
