"""A second answer beside the first: of another model, or of another text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.parts import Parts, Variable
from layerlens.errors import Cancelled, InputError
from layerlens.result.beside import (
    CHANGE,
    beside,
    change_words,
    changing,
    common_axes,
    other_words,
    require_no_own_way,
)
from layerlens.result.layers import OTHER
from layerlens.views.answer_listen import AnswerListener
from layerlens.views.estimated import EstimatedView
from layerlens.views.frames import Stream
from layerlens.views.listen import RunListener
from layerlens.views.one_run import Run, superseded
from layerlens.views.other_kind import told
from layerlens.views.question import readable
from layerlens.views.second_lane import SecondLaneView
from layerlens.views.worker import Task, lane_of

if TYPE_CHECKING:
    from layerlens.analyses.contract.contract import Analysis
    from layerlens.analyses.contract.estimate import Estimate
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.result import Result


@dataclass(frozen=True)
class Second:
    """What is asked beside the first: `texts` by name, where they are others than the first's."""

    model: LensModel
    texts: Mapping[str, Any] | None
    label: str

    def inputs(self, run: Run) -> Mapping[str, Any]:
        """Return the texts of this side of a run."""
        return run.inputs if self.texts is None else self.texts


def second_of(
    model: LensModel, analysis: Analysis, options: Mapping[str, Any], other: Any, label: str
) -> Second:
    """Tell what the second side is.

    Raises
    ------
    InputError
        The analysis has two models or several texts already, or no text to replace.
    ResultError
        It has a way of its own to show two.
    """
    from layerlens.model.lensmodel import LensModel

    require_no_own_way(analysis.name, analysis.about.view)
    if len(analysis.inputs) > 1:
        raise InputError(
            f"{analysis.name} compares {' and '.join(analysis.inputs)} already, so there is no "
            "other= to it: lay two of its results over each other with ll.beside."
        )
    if any(isinstance(value, LensModel) for value in options.values()):
        raise InputError(f"{analysis.name} is asked of two models already; leave other= out.")
    if isinstance(other, LensModel):
        name = f"{other.name} (other)" if other.name == model.name else other.name
        return Second(other, None, label or name)
    if told(other)[0] == "edits":
        raise InputError(
            f"{analysis.name} is asked of a second model or text, not of edits: give one of these."
        )
    if not analysis.inputs:
        raise InputError(
            f"{analysis.name} reads no text, so other= is a second model from ll.load; "
            f"got {other!r:.60}."
        )
    words = other if isinstance(other, str) else readable(model, other)
    return Second(model, {analysis.inputs[0]: other}, label or words or "the other text")


class SecondListener(AnswerListener):
    """Fills the second side of a picture that the first one's listener has begun."""

    def __init__(self, first: AnswerListener, task: Task, label: str) -> None:
        super().__init__(first._view, first._run, task)
        self.stream = first.stream
        self._meta = first.meta
        self._first = first
        self._label = label

    def on_tokens(self, tokens: Mapping[str, Tokens]) -> None:
        """Leave what the first side was fed."""

    def on_note(self, notes: Mapping[str, Any]) -> None:
        """Wait: the result of both says it."""

    def on_declare(
        self,
        sizes: Mapping[str, int],
        coords: Mapping[str, tuple[tuple[str, ...], Any]],
        variables: Mapping[str, Variable],
    ) -> None:
        """Refuse axes that are not the first side's, and pass on what else is said of them."""
        if self._first.own is None:
            return
        mine = self._first.own.dataset({})
        theirs = Parts(variables, sizes, coords, batched=False).dataset({})
        names = [str(n) for n in mine.data_vars if n in theirs.data_vars and n != "input_id"]
        dims = common_axes(mine, theirs, names)
        self._first.on_label(other_words(mine, theirs, dims))

    def on_emit(self, where: Mapping[str, int | slice], arrays: Mapping[str, Any]) -> None:
        """Pass a finished part on, under the names of the second side."""
        super().on_emit(where, {OTHER + name: values for name, values in arrays.items()})

    def on_progress(self, done: int, total: int, what: str) -> None:
        """Move the status line, and say whose it is."""
        super().on_progress(done, total, f"{self._label}, {what}" if what else self._label)


class SecondView(SecondLaneView, EstimatedView):
    """Base of views that ask a second model, or about a second text, when the first is done."""

    second: Second | None = None

    def _set_second(self, second: Second, model: LensModel) -> None:
        self.second = second
        self._second_lane = None if second.model is model else lane_of(second.model)

    def both(self, own: Parts, variables: Mapping[str, Variable]) -> Mapping[str, Variable]:
        """Return the arrays of a picture: those of the analysis, and what lies beside them."""
        if self.second is None or self.model is None:
            return variables
        alike = self.second.model.vocabulary.fingerprint == self.model.vocabulary.fingerprint
        found = dict(variables)
        for name, variable in variables.items():
            if name != "input_id" and (alike or not variable.is_token):
                found[OTHER + name] = variable
        for name in changing(own.dataset({}), own.variables):
            words = change_words(name, variables[name].long_name)
            found[CHANGE + name] = replace(variables[name], **words, signed=True)  # type: ignore[arg-type]
        return found

    def _attrs_of(self, run: Run) -> dict[str, Any]:
        attrs = super()._attrs_of(run)
        if self.second is None:
            return attrs
        other = {"other_model": self.second.model.name, "other_label": self.second.label}
        return {**attrs, **other}

    def _estimated(self, run: Run) -> Estimate | None:
        found, second = super()._estimated(run), self.second
        if found is None or second is None:
            return found
        try:
            texts = second.inputs(run).values()
            more = self.analysis.estimate(second.model, *texts, **self._resolved(run))
        except InputError:  # the run will say what is wrong, when it comes to the second side
            return found
        return replace(
            found, seconds=found.seconds + more.seconds, passes=found.passes + more.passes
        )

    # On the workers' threads

    def _finished(self, run: Run, result: Result, listener: RunListener) -> None:
        second = self.second
        if second is None or not isinstance(listener, AnswerListener):
            super()._finished(run, result, listener)
            return
        if self._second_lane is None:
            self._compute_second(run, result, listener, listener._task)
            return
        self._go_on(run, lambda view, task: view._compute_second(run, result, listener, task))

    def _compute_second(self, run: Run, result: Result, first: AnswerListener, task: Task) -> None:
        second = self.second
        if run is not self._run or second is None:
            run.end(error=superseded())
            return
        listener = SecondListener(first, task, second.label)
        try:
            found = self.analysis.run(second.model, second.inputs(run), run.resolved, listener)
        except Cancelled as stop:
            stop.partial = result
            first.done = max(first.done, 1)  # the first side is whole
            self._stopped(run, stop, first)
            return
        except BaseException:
            self._take_back(first)
            raise
        both = beside(result, found, second.label)
        self._show_both(run, both, first)
        super()._finished(run, both, first)
        self._answered(run)

    def _show_both(self, run: Run, both: Result, first: AnswerListener) -> None:
        """Show the differences; all of it anew where the two list other cells."""
        if "listings" not in both.data.attrs:
            changes = [name for name in map(str, both.data) if name.startswith(CHANGE)]
            first.on_emit({}, {name: both.data[name].values for name in changes})
            return
        meta = run.signed(self._meta_of(both, both.data, run.number, self.analysis.about))
        stream = Stream.finished(self._frames(both.data, run.number), run.number)
        first.stream, first._meta = stream, meta
        self._post(meta={})  # what has other axes is another picture
        self._restore(stream, meta)

    def _answered(self, run: Run) -> None:
        """Remember what a run has found."""

    def close(self) -> None:
        """Stop what is under way and free everything that the view holds."""
        super().close()
        self.second = None
