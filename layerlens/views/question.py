"""What a view asks: the texts and options of an analysis, as traits."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import traitlets as t

from layerlens.analyses.contract.options import plain
from layerlens.views.base import READ_ONLY
from layerlens.views.keywords import KeywordSignature
from layerlens.views.picture import PictureView

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Analysis
    from layerlens.model.lensmodel import LensModel


class QuestionView(PictureView):
    """Base of views that show one analysis.

    A subclass names its analysis in `ANALYSIS`, the traits that hold the analysis's texts in
    `INPUTS`, and in `ASKS` the traits that are options of the analysis by the same name. These and
    `options` are the question.

    An option may be anything that the analysis takes (tensors, edits, another model). The trait
    holds what can be shown of it, and what was given is meant as long as that is not changed.
    """

    ANALYSIS = ""
    INPUTS: tuple[str, ...] = ("text",)
    ASKS: tuple[str, ...] = ()

    KERNEL_ONLY = PictureView.KERNEL_ONLY | {"linked"}

    options = t.Dict(help="Other options of the analysis.").tag(sync=True)
    linked = t.Bool(False, help="Whether it shares prompt and selection with others.").tag(
        **READ_ONLY
    )

    model: LensModel | None = None
    _ready = False

    __signature__ = KeywordSignature()

    def _open(
        self, model: LensModel | None, inputs: Mapping[str, Any], keywords: dict[str, Any]
    ) -> None:
        """Create the widget, without asking anything yet."""
        options = {**keywords.pop("options", {}), **self._take_options(keywords)}
        self.model = model
        self._given: dict[str, Any] = {}
        self._shown: dict[str, Any] = {}
        self._options: dict[str, Any] = {}
        asked = {name: keywords.pop(name) for name in self.ASKS if name in keywords}
        written = self._take({**inputs, **asked})
        super().__init__(**written, options=options, **keywords)
        self._listen()
        self.live = model is not None

    def _take_options(self, keywords: dict[str, Any]) -> dict[str, Any]:
        """Remove from `keywords` the options of the analysis, and return them."""
        known = self._keywords()
        others = [name for name in keywords if name not in known]
        if not others:
            return {}
        options = self.analysis.options
        for name in others:
            if name not in options:
                close = get_close_matches(name, [*known, *options], n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
                raise TypeError(f"{type(self).__name__} has no option '{name}': {hint}")
        return {name: keywords.pop(name) for name in others}

    def _take(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Remember what was given for traits that show it as text; return the texts."""
        for name, value in values.items():
            self._given[name] = value
            self._shown[name] = value if isinstance(value, str) else self._written(name, value)
        return {name: self._shown[name] for name in values}

    def _written(self, name: str, value: Any) -> Any:
        """Return the text for the field `name` of what was not given as one."""
        return readable(self.model, value)

    def _meant(self, name: str) -> Any:
        """Return what a trait stands for: what was given, or the text that was typed since."""
        shown = getattr(self, name)
        return self._given[name] if self._shown.get(name) == shown else shown

    @t.validate("options")
    def _valid_options(self, proposal: Any) -> dict[str, Any]:
        options = dict(proposal["value"])
        known = set(self.analysis.options) if options and self.model is not None else set(options)
        for name in options:
            if name in self.ASKS:
                raise t.TraitError(f"{name} is not one of the other options: set view.{name}.")
            if name not in known:
                others = sorted(known.difference(self.ASKS))
                raise t.TraitError(
                    f"{self.ANALYSIS} has no option '{name}'; it has {', '.join(others)}."
                )
        shown = {name: plain(value) for name, value in options.items()}
        for name, value in options.items():
            if plain(self._options.get(name)) != shown[name] or name not in self._options:
                self._options[name] = value
        return shown

    def _meant_options(self) -> dict[str, Any]:
        """Return the options that `options` stands for: as given, or as they were changed since."""
        return {
            name: self._options[name] if plain(self._options.get(name)) == value else value
            for name, value in self.options.items()
        }

    def _question(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the texts and all options as they stand now."""
        asked = {name: self._meant(name) for name in self.ASKS}
        inputs = {name: self._meant(name) for name in self.INPUTS}
        return inputs, {**self._meant_options(), **asked}

    def _asked(self) -> dict[str, Any]:
        """Return the question as the fields of the view show it."""
        return {
            "inputs": {name: getattr(self, name) for name in self.INPUTS},
            "options": {name: getattr(self, name) for name in self.ASKS},
        }

    @property
    def analysis(self) -> Analysis:
        """The analysis that this view shows."""
        from layerlens.analyses.contract.registry import get

        return get(self.ANALYSIS)

    def _caption(self) -> str:
        return " / ".join(self._shown[name] for name in self.INPUTS)

    def __repr__(self) -> str:
        name = self._shown_meta.get("model", "") if self.model is None else self.model.name
        texts = ", ".join(repr(self._shown[name]) for name in self.INPUTS)
        return f"{type(self).__name__}({texts}, model={name!r})"

    def _plain(self) -> str:
        if self.model is None and self._result is not None:
            return f"{self!r}\n{self._result!r}"
        return repr(self)


def readable(model: LensModel | None, text: Any) -> str:
    """Return a text for the prompt field of what was not given as one."""
    if model is None:
        return ""
    try:
        tokens = model.tokens(text)
    except Exception:
        return ""
    return tokens.texts[0] or "".join(tokens.strings[0])
