"""How an analysis is called: its texts by place or by name, its options, what is fed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract import options as opts
from layerlens.corpus.held import held
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

TEXT_OPTIONS: dict[str, Any] = {"add_bos": None}
"""Options of every analysis that is given texts: how they become tokens."""


@dataclass(frozen=True)
class Calling:
    """What may stand in a call of one analysis.

    Attributes
    ----------
    name
        Of the analysis, for errors.
    inputs
        Names of the texts.
    positional
        Options that may stand after them without their names.
    options
        All options and their defaults.
    corpus
        Whether texts from ``ll.texts`` are handed on as they are, to be read piece by piece; else
        all of them are read and held.
    """

    name: str
    inputs: tuple[str, ...]
    positional: tuple[str, ...]
    options: Mapping[str, Any]
    corpus: bool

    def sort(
        self, texts: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Texts by name, however they were given, and the options that remain.

        Raises
        ------
        InputError
            When a text is missing, or there are more than the analysis takes.
        """
        options = dict(options)
        extra = texts[len(self.inputs) :]
        texts = texts[: len(self.inputs)]
        twice = [name for name, _ in zip(self.positional, extra, strict=False) if name in options]
        if len(extra) > len(self.positional) or twice:
            count = f"not {len(extra) + len(texts)} texts" if not self.positional else "each once"
            raise InputError(
                f"{self.name} takes {', '.join(self.inputs + self.positional)}, {count}: give "
                "everything else by name."
            )
        options |= zip(self.positional, extra, strict=False)
        given = dict(zip(self.inputs, texts, strict=False))
        for name in self.inputs[len(texts) :]:
            if name not in options:
                raise InputError(
                    f"{self.name} needs {' and '.join(self.inputs)}; {name} was not given."
                )
            given[name] = options.pop(name)
        return given, options

    def named(self, text: Any) -> dict[str, Any]:
        """Texts by name from one text, or from a mapping of names to texts."""
        if not isinstance(text, Mapping):
            return self.sort([text], {})[0]
        given, rest = self.sort([], text)
        if rest:
            raise opts.nearest(next(iter(rest)), self.inputs, f"Text of {self.name}:")
        return given

    def complete(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Given options over the defaults; an unknown one is an `InputError`."""
        return opts.complete(options, self.options, self.name)

    def fed(
        self, model: LensModel, given: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, Tokens | Texts]:
        """What the analysis is handed for each text: its tokens, or the corpus that it reads.

        Parameters
        ----------
        options
            All of them, see :meth:`complete`.

        Raises
        ------
        InputError
            When a text does not fit, or a corpus is too large to be held at once.
        """
        add_bos = options.get("add_bos")
        found: dict[str, Tokens | Texts] = {}
        for name, text in given.items():
            if isinstance(text, Texts) and self.corpus:
                found[name] = text.with_bos(add_bos)
            else:
                found[name] = tokens_of(model, text, add_bos)
        return found

    @property
    def signature(self) -> inspect.Signature:
        """As ``help`` shows it."""
        kind = inspect.Parameter
        given = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("model", *self.inputs)]
        ordered = dict.fromkeys(self.positional, kind.POSITIONAL_OR_KEYWORD)
        rest = dict.fromkeys([o for o in self.options if o not in ordered], kind.KEYWORD_ONLY)
        keywords = [
            kind(name, how, default=self.options[name]) for name, how in (ordered | rest).items()
        ]
        return inspect.Signature([*given, *keywords])


def tokens_of(model: LensModel, text: Any, add_bos: bool | None) -> Tokens:
    """The tokens of a text, of several, or of all texts of a corpus."""
    if isinstance(text, Texts):
        text = held(text.with_bos(add_bos), model)
    return model.tokens(text, add_bos=add_bos)


def own(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the analysis itself."""
    return {name: value for name, value in options.items() if name not in TEXT_OPTIONS}
