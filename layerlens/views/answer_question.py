"""What a view of any analysis asks: its texts by name, and options of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import traitlets as t

from layerlens.analyses.contract.contract import Analysis
from layerlens.analyses.contract.registry import get
from layerlens.errors import InputError
from layerlens.export.answer_meta import fields_of
from layerlens.views.answer_texts import field_of, typed
from layerlens.views.base import READ_ONLY
from layerlens.views.question import QuestionView


class AnswerQuestion(QuestionView):
    """Base of views that show whichever analysis they are told to.

    What is given may be anything that the analysis takes. The traits hold what can be shown of it,
    and it is meant as long as they are not changed.
    """

    INPUTS = ("inputs",)
    KERNEL_ONLY = QuestionView.KERNEL_ONLY | {"analysis_name", "asks", "input_names"}

    analysis_name = t.Unicode("", help="Name of the analysis.").tag(**READ_ONLY)
    asks = t.Unicode("", help="What it asks, while nothing is known.").tag(**READ_ONLY)
    inputs = t.Dict(help="Name of each text to the text.").tag(sync=True)
    text = t.Unicode("", help="The first text, for linking views.").tag(sync=True)
    input_names = t.List(t.Unicode(), help="Names of the texts, in order.").tag(**READ_ONLY)

    names: tuple[str, ...] = ()
    """Names of the texts."""

    _asks = ""

    def _name(self, analysis: str | Analysis) -> None:
        """Learn which analysis it is."""
        found = get(analysis)
        self.ANALYSIS, self.names = found.name, found.inputs
        self._asks = found.about.question

    def _open(self, model: Any, inputs: Mapping[str, Any], keywords: dict[str, Any]) -> None:
        super()._open(model, inputs, keywords)
        self.analysis_name, self.input_names = self.ANALYSIS, list(self.names)
        self.asks = self._asks
        self._follow_inputs()

    def _sorted(
        self, texts: Sequence[Any], keywords: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the texts by name, and keywords of the view with the options among them."""
        analysis = self.analysis
        known = [*self.names, *analysis.options]
        traits = [name for name in self._keywords() if name not in known and name != "inputs"]
        for name in keywords:
            if name not in known and name not in traits:
                close = get_close_matches(name, [*known, *traits], n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"known are {', '.join(known)}."
                raise TypeError(f"{type(self).__name__} has no option '{name}': {hint}")
        asked = {name: value for name, value in keywords.items() if name in known}
        inputs, options = analysis.asked(texts, asked)
        rest = {name: value for name, value in keywords.items() if name in traits}
        return inputs, {**rest, "options": {**rest.get("options", {}), **options}}

    def _changes(
        self, texts: Sequence[Any], changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all texts, some of them new, and the options that change."""
        if len(texts) > len(self.names):
            raise InputError(f"{self.ANALYSIS} takes {', '.join(self.names) or 'no text'}.")
        new = dict(zip(self.names, texts, strict=False))
        new |= {name: changes[name] for name in self.names if name in changes}
        options = {name: value for name, value in changes.items() if name not in self.names}
        return {**self._texts(), **new}, options

    # Texts

    def _written(self, name: str, value: Any) -> Any:
        corpus = self.model is not None and self.analysis.corpus
        return {each: field_of(self.model, given, corpus=corpus) for each, given in value.items()}

    def _texts(self) -> dict[str, Any]:
        """Return what the fields stand for: what was given, or what was typed since."""
        given, shown = self._given["inputs"], self._shown["inputs"]
        return {
            name: given[name] if shown[name] == field else typed(field, given[name])
            for name, field in self.inputs.items()
        }

    def _question(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self._texts(), self._meant_options()

    def _asked(self) -> dict[str, Any]:
        return {"inputs": dict(self.inputs), "options": {}}

    @t.validate("inputs")
    def _valid_inputs(self, proposal: Any) -> dict[str, str]:
        fields = dict(proposal["value"])
        wrong = [name for name, field in fields.items()
                 if name not in self.names or not isinstance(field, str)]  # fmt: skip
        if wrong:
            raise t.TraitError(
                f"inputs has a text for each of {', '.join(self.names) or 'no name'}; "
                f"{wrong[0]!r} is not one of these names, or not a string."
            )
        return {name: fields.get(name, self.inputs.get(name, "")) for name in self.names}

    @t.observe("text")
    def _text_changed(self, change: Any) -> None:
        if self.names and self.inputs and self.text != self.inputs[self.names[0]]:
            self.inputs = {**self.inputs, self.names[0]: self.text}

    @t.observe("inputs")
    def _inputs_changed(self, change: Any) -> None:
        self._follow_inputs()

    def _follow_inputs(self) -> None:
        self.text = self.inputs[self.names[0]] if self.names and self.inputs else ""

    def _adopt_texts(self, data: Any, text: int) -> None:
        """Show the texts of a result as they were written."""
        from layerlens.result.select import one_text

        fields = fields_of(one_text(data, text))
        self._shown["inputs"] = {name: fields.get(name, "") for name in self.names}
        self.inputs = dict(self._shown["inputs"])

    def _caption(self) -> str:
        return " ".join([self.ANALYSIS, *self.inputs.values()])

    def __repr__(self) -> str:
        name = self._shown_meta.get("model", "") if self.model is None else self.model.name
        texts = "".join(f", {each}={field!r}" for each, field in self.inputs.items())
        return f"{type(self).__name__}({self.ANALYSIS!r}{texts}, model={name!r})"
