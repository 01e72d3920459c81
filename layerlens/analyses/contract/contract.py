"""How an analysis is declared, run, stopped and turned into a labelled result.

An analysis is a function ``(job, model, tokens, *, options)``, with one ``tokens`` for each text
that it compares. It declares its axes, pushes finished parts with ``job.emit`` while the model is
still running, and ends with its checks. Everything around it (options, provenance, progress,
cancelling, the result) is here.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract import options as opts
from layerlens.analyses.contract.listeners import Bar, Listener, Silent, Where
from layerlens.analyses.contract.parts import Coords, Parts, Variable
from layerlens.analyses.contract.provenance import attributes
from layerlens.corpus.texts import Texts
from layerlens.errors import Cancelled, InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.estimate import Estimate
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.result import Check, Result

__all__ = ["Analysis", "Job", "Variable", "Work", "analysis"]

TEXT_OPTIONS: dict[str, Any] = {"add_bos": None}
"""Options of every analysis: how the text becomes tokens."""


@dataclass(frozen=True)
class Work:
    """How much an analysis will do, counted and not measured.

    Parameters
    ----------
    passes
        Forward passes over all tokens.
    head_rows
        Rows that go through the head.
    bytes
        Peak memory above the model's own.
    """

    passes: float
    head_rows: int
    bytes: int


class Job:
    """What an analysis talks to while it runs."""

    def __init__(self, variables: Mapping[str, Variable], listener: Listener, batched: bool):
        self.batched = batched
        self.parts: Parts | None = None
        self.checks: list[Check] = []
        self.notes: dict[str, Any] = {}
        self.remarks: list[str] = []
        self._variables = variables
        self._listener = listener

    def declare(
        self,
        sizes: Mapping[str, int],
        coords: Coords,
        only: Sequence[str] | None = None,
    ) -> None:
        """State the length of each axis and its coordinates, once, before the first part.

        Variables with an axis that is not declared are left out of the result. For several
        texts, ``sizes`` holds ``batch`` too. Where options decide which variables there are,
        ``only`` names them in their order.
        """
        names = self._variables if only is None else only
        variables = {name: self._variables[name] for name in names}
        self.parts = Parts(variables, sizes, coords, batched=self.batched)
        self._listener.on_declare(dict(sizes), dict(coords))

    def label(self, coords: Coords) -> None:
        """Put in coordinates that were not known before, such as tokens that were written."""
        if self.parts is None:
            raise RuntimeError("declare() comes before label()")
        self.parts.coords.update(coords)

    def describe(self, name: str, **about: str) -> None:
        """Give a variable other ``units`` or another ``long_name``, as the options ask for."""
        if self.parts is None:
            raise RuntimeError("declare() comes before describe()")
        self.parts.variables[name] = replace(self.parts.variables[name], **about)  # type: ignore[arg-type]

    def emit(self, where: Where, arrays: Mapping[str, np.ndarray]) -> None:
        """Hand over a finished part.

        Parameters
        ----------
        where
            Axis name to index or slice; axes that are not named are whole.
        arrays
            Variable name to values, shaped by its axes without those given by an index.
        """
        if self.parts is None:
            raise RuntimeError("declare() comes before emit()")
        self.parts.put(where, arrays)
        self._listener.on_emit(where, arrays)

    def progress(self, done: int, total: int, what: str = "") -> None:
        """Say that ``done`` of ``total`` steps are finished."""
        self._listener.on_progress(done, total, what)

    def check(self, name: str, error: float, limit: float, what: str) -> None:
        """Record a comparison; it is good when ``error`` is at most ``limit``."""
        from layerlens.result import Check

        found = Check(name, float(error), float(limit), bool(error <= limit), what)
        self.checks.append(found)
        self._listener.on_check(found)

    def tick(self) -> None:
        """Stop here, with :class:`Cancelled`, when someone asked for it."""
        if self._listener.cancelled():
            raise Cancelled("The analysis was stopped.")

    def note(self, **notes: Any) -> None:
        """Add to the attributes of the result."""
        self.notes.update(notes)
        self._listener.on_note(notes)

    def remark(self, sentence: str) -> None:
        """Tell the reader of the result something; it stands among its ``notes``."""
        if sentence not in self.remarks:
            self.remarks.append(sentence)


@dataclass(frozen=True)
class About:
    """What the table of analyses says of one."""

    name: str
    question: str
    source: str
    cost: str
    view: str

    def shown(self) -> dict[str, str]:
        """As attributes of a result."""
        return {name: getattr(self, name) for name in ("question", "source", "cost", "view")}


class Analysis:
    """One question that can be asked of a model and a text, or several.

    Call it to get a :class:`layerlens.result.Result`; live views use :meth:`run`.

    Attributes
    ----------
    inputs
        Names of the texts: ``("text",)``, ``("clean", "corrupt")``.
    pooled
        Several texts give one answer, so nothing has an axis of texts.
    positional
        Options that may stand after the texts without their names.
    corpus
        Whether the text may be many, from ``ll.texts``.
    """

    def __init__(
        self,
        function: Callable[..., None],
        about: About,
        variables: Mapping[str, Variable],
        work: Callable[..., Work] | None,
        inputs: Sequence[str] = ("text",),
        *,
        pooled: bool = False,
        positional: Sequence[str] = (),
        corpus: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.about = about
        self.name = about.name
        self.inputs = tuple(inputs)
        self.pooled = pooled
        self.positional = tuple(positional)
        self.corpus = corpus
        self.variables = dict(variables)
        self.options = {**opts.defaults(function), **(TEXT_OPTIONS if inputs else {})}
        self._function = function
        self._work = work
        self.__signature__ = _signature(self.inputs, self.positional, self.options)

    def __call__(self, model: LensModel, *texts: Any, **options: Any) -> Result:
        """Compute on this thread, with a progress bar when it lasts.

        Parameters
        ----------
        model
            From ``ll.load``.
        *texts
            One for each of ``inputs``, in their order or by name: a string, a list of strings,
            token ids, chat messages or `Tokens`; of any number, from ``ll.texts``, for analyses
            that measure a corpus.
        **options
            See the analysis; ``add_bos`` as in ``model.tokens``.

        Raises
        ------
        InputError
            For an unknown option or a text that does not fit.
        Cancelled
            When interrupted; its ``partial`` holds what was finished.
        """
        given, options = self._given(texts, options)
        many = any(isinstance(text, Texts) for text in given.values())
        with Bar(self.name, "token" if many else "step") as bar:
            return self.run(model, given, options, bar)

    def run(
        self,
        model: LensModel,
        text: Any,
        options: Mapping[str, Any] | None = None,
        listener: Listener | None = None,
    ) -> Result:
        """Compute on this thread and tell ``listener`` of every part as it is finished.

        Parameters
        ----------
        text
            The text; for an analysis of several, a mapping from each name in ``inputs`` to one.
        """
        full = opts.complete(options or {}, self.options, self.name)
        given = self._named(text)
        many = {name: text for name, text in given.items() if isinstance(text, Texts)}
        tokens = _tokens(model, given, full, leave=many if self.corpus else {})
        if listener is not None:
            listener.on_tokens(tokens)
        batched = not (self.pooled or _first(tokens).single)
        fed = {name: tokens.get(name) or many[name].with_bos(full["add_bos"]) for name in given}
        job = Job(self.variables, listener or Silent(), batched=batched)
        started = time.perf_counter()
        finish = functools.partial(self._result, job, model, given, fed, full, started)
        try:
            with model.running():
                self._function(job, model, *fed.values(), **_own(full))
        except (KeyboardInterrupt, Cancelled) as stop:
            error = Cancelled(_stopped(job))
            error.partial = None if job.parts is None else finish()
            raise error from stop
        return finish()

    def work(self, model: LensModel, *texts: Any, **options: Any) -> Work:
        """Count passes, rows through the head and bytes without running anything."""
        if self._work is None:
            raise InputError(f"{self.name} cannot be estimated.")
        given, options = self._given(texts, options)
        full = opts.complete(options, self.options, self.name)
        return self._work(model, *_tokens(model, given, full).values(), **_own(full))

    def estimate(self, model: LensModel, *texts: Any, **options: Any) -> Estimate:
        """Estimate what a call would take; see `Estimate` for how."""
        from layerlens.analyses.contract.estimate import estimate_work

        given, options = self._given(texts, options)
        tokens = _tokens(model, given, opts.complete(options, self.options, self.name))
        work = self.work(model, *tokens.values(), **options)
        return estimate_work(model, _first(tokens), work)

    def _given(
        self, texts: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Texts by name, however they were given, and the options that remain."""
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

    def _named(self, text: Any) -> dict[str, Any]:
        """What :meth:`run` was given, by name."""
        if not isinstance(text, Mapping):
            return self._given([text], {})[0]
        given, rest = self._given([], text)
        if rest:
            raise opts.nearest(next(iter(rest)), self.inputs, f"Text of {self.name}:")
        return given

    def _result(
        self,
        job: Job,
        model: LensModel,
        given: Mapping[str, Any],
        tokens: Mapping[str, Tokens | Texts],
        options: Mapping[str, Any],
        started: float,
    ) -> Result:
        from layerlens.result import Result

        if job.parts is None:
            raise RuntimeError(f"{self.name} ended without declaring its axes")
        code = opts.code(self.name, given, options, self.options)
        attrs = attributes(
            model,
            tokens,
            job.parts,
            options=options,
            seconds=time.perf_counter() - started,
            remarks=job.remarks,
        )
        data = job.parts.dataset({**attrs, **self.about.shown(), **job.notes})
        return Result(analysis=self.name, data=data, checks=job.checks, code=code, model=model)

    def __repr__(self) -> str:
        return f"<analysis {self.name}: {self.about.question}>"


def analysis(
    *,
    name: str,
    question: str,
    source: str,
    cost: str,
    view: str,
    variables: Mapping[str, Variable],
    work: Callable[..., Work] | None = None,
    inputs: Sequence[str] = ("text",),
    pooled: bool = False,
    positional: Sequence[str] = (),
    corpus: bool = False,
) -> Callable[[Callable[..., None]], Analysis]:
    """Register a function ``(job, model, tokens, *, options)`` as an analysis.

    Parameters
    ----------
    name
        How it is called: ``ll.<name>``.
    question
        What it answers, in plain words.
    source
        Where the method comes from.
    cost
        In passes, as shown in the table of analyses.
    view
        The view that shows it.
    variables
        What it fills.
    work
        ``(model, tokens, *, options) -> Work`` for estimates.
    inputs
        Names of the texts that it is given; one ``tokens`` for each. The batch axis of its
        variables is that of the first. None for one that looks at weights only, which has to be
        ``pooled``.
    pooled
        Several texts give one answer: its variables have no batch axis.
    positional
        Options that may be given after the texts without their names.
    corpus
        Takes texts of any number from ``ll.texts``, too: it is given a
        :class:`layerlens.corpus.texts.Texts` in the place of tokens. It has to be ``pooled``.
    """
    from layerlens.analyses.contract.registry import register

    def decorate(function: Callable[..., None]) -> Analysis:
        about = About(name, question, source, cost, view)
        made = Analysis(
            function,
            about,
            variables,
            work,
            inputs,
            pooled=pooled,
            positional=positional,
            corpus=corpus,
        )
        return register(made)

    return decorate


def _tokens(
    model: LensModel,
    given: Mapping[str, Any],
    options: Mapping[str, Any],
    leave: Container[str] = (),
) -> dict[str, Tokens]:
    """The tokens of each text but those to leave, which are a corpus."""
    if not hasattr(model, "running"):
        raise InputError(
            f"The first argument is a model from ll.load, not {type(model).__name__}: "
            "write ll.load(hf_model, tokenizer) for one that is in memory already."
        )
    how = {name: options[name] for name in TEXT_OPTIONS if name in options}
    tokens = {}
    for name, text in given.items():
        if name in leave:
            continue
        if isinstance(text, Texts):
            raise InputError(
                "Only measuring layers reads an ll.texts piece by piece: give a text, or a list "
                "of some, list(texts) for all."
            )
        tokens[name] = model.tokens(text, **how)
    return tokens


def _first(tokens: Mapping[str, Tokens]) -> Tokens:
    return next(iter(tokens.values()))


def _own(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the analysis itself."""
    return {name: value for name, value in options.items() if name not in TEXT_OPTIONS}


def _stopped(job: Job) -> str:
    if job.parts is None:
        return "Stopped before anything was computed; run it again."
    return "Stopped; .partial of this error holds what was finished, missing cells are NaN."


def _signature(
    inputs: Sequence[str], positional: Sequence[str], options: Mapping[str, Any]
) -> inspect.Signature:
    kind = inspect.Parameter
    given = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in ("model", *inputs)]
    ordered = dict.fromkeys(positional, kind.POSITIONAL_OR_KEYWORD)
    rest = dict.fromkeys([name for name in options if name not in ordered], kind.KEYWORD_ONLY)
    keywords = [kind(name, how, default=options[name]) for name, how in (ordered | rest).items()]
    return inspect.Signature([*given, *keywords])
