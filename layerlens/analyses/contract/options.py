"""Options of an analysis: checked by name, described, and written down as a call again."""

from __future__ import annotations

import inspect
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import numpy as np

from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.model.inputs import Given, Sides

MOST_WRITTEN = 1000
"""Numbers of an array that are written down in a call."""
TEXTS = {
    "answer": """
        Token whose prediction is measured, as a string or an id; for several texts also a list.
        None: what the model answers by itself.
        """,
    "batch_size": """
        Texts in one pass; None for as many as keep it below 2,048 tokens.
        """,
    "memory_limit": """
        Bytes of working memory above the model's own.
        """,
    "method": """
        How edited runs are computed: ``"packed"`` (all that is edited goes through each block
        together), ``"restart"`` (each from the block that is edited on), ``"naive"`` (whole
        passes), or ``"auto"``: the cheapest that was seen to give the naive numbers.
        """,
    "metric": """
        What is measured where the text is answered: ``logit_diff`` (answer minus wrong),
        ``logit``, ``probability``, ``logprob``, ``kl`` (of the reference run's prediction from
        the run's, nats), ``rank`` (1 = best), or a function from logits ``[n, vocabulary]``
        float32 to ``[n]``.
        """,
    "skip_first": """
        Leave out the first token of each text (or so many) from the means.
        """,
    "verify": """
        How many of the edited runs are made again by whole passes and compared; 0 for none.
        """,
    "workers": """
        Who runs the model over the texts: None for this process, a number for so many Ray workers
        on this machine (extra ``[ray]``), ``"ray"`` for as many as the Ray cluster has processors,
        or graphics cards for a model on one. A worker loads the model from where ``ll.load`` found
        it; one that was given in memory is sent. What a worker that dies had is done again, once.
        """,
    "wrong": """
        For ``metric="logit_diff"``: the token that the answer is compared with, likewise. None:
        the answer of the run that this one is compared with, if there is one and it is another,
        else the runner-up.
        """,
}
"""What options that many analyses have are; a docstring that only names one is given its text."""


def described(documentation: str, name: str) -> str:
    r"""A docstring in which every option has its text.

    Parameters
    ----------
    documentation
        Of an analysis; parameters without a text are given that of ``TEXTS``.
    name
        Of the analysis.

    Raises
    ------
    RuntimeError
        If an option has no text there either.

    Examples
    --------
    >>> documentation = "\n".join(["What?", "", "Parameters", "-" * 10, "batch_size"])
    >>> described(documentation, "made").splitlines()[-1]
    '    Texts in one pass; None for as many as keep it below 2,048 tokens.'
    """
    lines = [*inspect.cleandoc(documentation).split("\n"), ""]
    found: list[str] = []
    inside = False
    for line, after in pairwise(lines):
        if after and not after.strip("-"):  # a section begins
            inside = line == "Parameters"
        found.append(line)
        if inside and line.isidentifier() and after[:1] != " " and after.strip("-") == after:
            if line not in TEXTS:
                raise RuntimeError(f"The option {line} of {name} has no description.")
            found += [f"    {words}" for words in inspect.cleandoc(TEXTS[line]).split("\n")]
    return "\n".join(found)


def defaults(function: Callable[..., Any]) -> dict[str, Any]:
    """Keyword-only parameters of an analysis and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def nearest(word: str, known: Sequence[str], what: str, listed: str = "") -> InputError:
    """Return the error for a misspelt word, naming the nearest valid one.

    Parameters
    ----------
    listed
        Where all valid words stand, if they are too many for a sentence.
    """
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    valid = f"{listed} lists all {len(known)}" if listed else f"Valid are {', '.join(known)}"
    return InputError(f"{what} {word!r} is not known: {hint}{valid}.")


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
    """Make a value fit for JSON and literal Python: tensors and arrays become lists.

    Of one with more numbers than a person would read, its size and a sum over its bytes stand
    there, which another one would not have.

    Examples
    --------
    >>> import numpy as np
    >>> plain(np.arange(3)), plain(np.zeros((40, 40)))
    ([0, 1, 2], 'float64 array of 40 x 40, crc32 d6bcc5ba')
    """
    if _is_large(value):
        array = np.ascontiguousarray(np.asarray(value))
        shape = " x ".join(map(str, array.shape))
        return f"{array.dtype} array of {shape}, crc32 {zlib.crc32(array.tobytes()):08x}"
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
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    # A function may be called like a word that an option knows, and is not that word.
    return f"{_named(value)}()" if inspect.isroutine(value) else _named(value)


def _is_large(value: Any) -> bool:
    """Whether it is an array that nobody would write down."""
    return hasattr(value, "tolist") and bool(np.prod(np.shape(value)) > MOST_WRITTEN)


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
        written(given) if list(texts) == ["text"] else f"{key}={written(given)}"
        for key, given in texts.items()
    ]
    arguments += [
        f"{key}={_literal(key, value)}"
        for key, value in options.items()
        if plain(value) != plain(known[key])
    ]
    return f"ll.{name}({', '.join(['model', *arguments])})"


def written(text: Any) -> str:
    """Write a text, or several, as literal Python."""
    if isinstance(text, Texts | Given | Sides):
        return text.code
    ids = getattr(text, "ids", None)  # Tokens: their ids, which are exact
    if ids is not None:
        rows = [row[keep].tolist() for row, keep in zip(text.ids, text.mask, strict=True)]
        texts = list(text.texts)
        text = rows[0] if text.single else (texts if all(texts) else rows)
    return repr(plain(text))


def _literal(option: str, value: Any) -> str:
    if _is_large(value):
        return option
    if hasattr(value, "tolist") or isinstance(value, os.PathLike):
        return repr(plain(value))
    if value is None or isinstance(value, bool | int | float | str | slice | range):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = [f"{key!r}: {_literal(option, item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        items = [_literal(option, item) for item in value]
        if items and set(items) == {option}:  # models, which have no name but that of the option
            return option
        inner = ", ".join(items)
        if isinstance(value, tuple):
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        return f"[{inner}]"
    written = getattr(value, "code", None) or getattr(value, "__name__", "")
    return written if isinstance(written, str) and written and written[0] != "<" else option
