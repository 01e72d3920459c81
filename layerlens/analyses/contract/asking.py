"""How an analysis is called, run, stopped and turned into a labelled result."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from layerlens.analyses.contract import options as opts
from layerlens.analyses.contract.about import About
from layerlens.analyses.contract.calling import TEXT_OPTIONS, Calling, own
from layerlens.analyses.contract.cells import Opened, Opener, Place
from layerlens.analyses.contract.effects import Effects, When, among, require_effect
from layerlens.analyses.contract.estimate import Estimate, Work, estimate_work
from layerlens.analyses.contract.job import Job
from layerlens.analyses.contract.learning import fitted_of, require_readable_again
from layerlens.analyses.contract.listeners import Bar, Listener, Silent
from layerlens.analyses.contract.named_tokens import read_tokens
from layerlens.analyses.contract.option_types import kinds, require_kinds
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.contract.provenance import attributes
from layerlens.corpus.texts import Texts
from layerlens.errors import Cancelled, InputError, ModelError
from layerlens.model.abilities import ABILITIES
from layerlens.model.required import require_model
from layerlens.model.runs import Runs
from layerlens.model.together import running_together

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens
    from layerlens.result import Result
    from layerlens.result.fitted import Fitted

Learns = str | Callable[[Mapping[str, Any]], str]
"""Kind of what an analysis learns, or how it follows from the options."""


class Analysis:
    """One question that can be asked of a model and a text, or several.

    Call it to get a :class:`layerlens.result.Result`; live views use :meth:`run`.

    Attributes
    ----------
    place
        Where it is defined, which running a cell or a module again does not change.
    inputs
        Names of the texts: ``("text",)``, ``("clean", "corrupt")``.
    pooled
        Several texts give one answer, so nothing has an axis of texts.
    positional
        Options that may stand after the texts without their names.
    corpus
        Whether texts from ``ll.texts`` are read piece by piece, whatever their number.
    reads
        Kinds of input that it understands.
    needs
        What a model has to have, of `layerlens.model.abilities.ABILITIES`.
    gradients
        Whether it records gradients.
    learns
        Kind of what it learns, or a function from its options to that; "" for one that only
        measures.
    effects
        Options that have an effect only beside certain others, and what they need.
    opens
        What a cell of its answer opens; None for nothing.
    runs
        Whether ``ll.Runs`` may stand in the place of a model.
    remote
        Whether a model that runs elsewhere can be asked.
    """

    def __init__(
        self,
        function: Callable[..., None],
        about: About,
        variables: Mapping[str, Variable],
        work: Callable[..., Work],
        inputs: Sequence[str] = ("text",),
        *,
        pooled: bool = False,
        positional: Sequence[str] = (),
        corpus: bool = False,
        reads: Sequence[str] = ("text",),
        needs: Sequence[str] = (),
        gradients: bool = False,
        learns: Learns = "",
        effects: Effects | None = None,
        opens: Opener | None = None,
        runs: bool = False,
        remote: bool = False,
    ) -> None:
        functools.update_wrapper(self, function)
        self.__doc__ = opts.described(function.__doc__ or "", about.name)
        self.about = about
        self.name = about.name
        self.place = f"{function.__module__}.{function.__qualname__}"
        self.inputs = tuple(inputs)
        self.pooled = pooled
        self.positional = tuple(positional)
        self.corpus = corpus
        self.reads = tuple(reads)
        self.needs = (*needs, *(("gradients",) if gradients else ()))
        self.gradients = gradients
        self.learns = learns
        self.opens = opens
        self.runs = runs
        self.remote = remote
        self.variables = dict(variables)
        own_options = opts.defaults(function)
        reads_text = bool(inputs) or "text" in own_options
        self.options = {**own_options, **(TEXT_OPTIONS if reads_text else {})}
        self._kinds = kinds(function)
        self.effects = _effects(self.options, effects or {})
        self._function = function
        self._work = work
        self._calling = Calling(self.name, self.inputs, self.positional, self.options, corpus)
        self.__signature__ = self._calling.signature

    def __call__(self, model: LensModel | Runs, *texts: Any, **options: Any) -> Result:
        """Compute on this thread, with a progress bar when it lasts.

        Parameters
        ----------
        model
            From ``ll.load``.
        *texts
            One for each of ``inputs``, in their order or by name: a string, a list of strings,
            token ids, chat messages, `Tokens`, or ``ll.texts``; of these any number for analyses
            that measure a corpus, else as many as can be held at once.
        **options
            See the analysis; ``add_bos`` as in ``model.tokens``.

        Raises
        ------
        InputError
            For an unknown option or a text that does not fit.
        Cancelled
            When interrupted.

        Whatever is raised while it computes has an attribute ``partial``: the result of what was
        finished by then, where anything was.
        """
        given, options = self._calling.sort(texts, options)
        many = any(isinstance(text, Texts) for text in given.values())
        with Bar(self.name, "token" if many else "step") as bar:
            return self.run(model, given, options, bar)

    def run(
        self,
        model: LensModel | Runs,
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
        model = self.require(model)
        full = self._completed(options or {})
        given = self._calling.named(text)
        fed = self._calling.fed(model, given, full)
        if self.learns:
            require_readable_again(fed)
        listener = listener or Silent()
        listener.on_tokens(_tokens(fed))
        batched = not (self.pooled or _single(fed))
        add_bos = full.get("add_bos")
        marked = {**fed, **{n: text for n, text in given.items() if isinstance(text, Texts)}}
        job = Job(
            self.variables, listener, batched=batched, model=model, fed=marked, add_bos=add_bos
        )
        started = time.perf_counter()
        finish = functools.partial(self._result, job, model, given, fed, full, started)
        try:
            beside = full.values()
            with running_together(model, beside, tick=job.tick, gradients=self.gradients):
                named = read_tokens(job, model, fed, full)
                self._function(job, model, *fed.values(), **own(named))
        except (KeyboardInterrupt, Cancelled) as stop:
            error = Cancelled(_stopped(job))
            error.partial = finish(ended=False) if job.begun else None
            raise error from stop
        except Exception as error:
            _keep_partial(error, job, finish)
            raise
        return finish()

    def open(
        self,
        model: LensModel,
        text: Any,
        options: Mapping[str, Any],
        place: Place,
        listener: Listener | None = None,
    ) -> Opened:
        """Look into one cell of an answer, on this thread.

        Parameters
        ----------
        text, options
            Of the call that gave the answer, as `run` takes them.
        place
            The cell.

        Raises
        ------
        InputError
            Its cells open nothing, or not this one.
        """
        if self.opens is None:
            raise InputError(f"A cell of {self.name} opens nothing.")
        full = self._calling.complete(options)
        given = self._calling.named(text)
        fed = self._calling.fed(model, given, full)
        add_bos = full.get("add_bos")
        call = opts.code(self.name, given, full, self.options)
        place = replace(place, given=given, call=call, add_bos=add_bos)
        job = Job(
            self.variables, listener or Silent(), batched=False, model=model, fed=fed,
            add_bos=add_bos,
        )  # fmt: skip
        beside = full.values()
        with running_together(model, beside, tick=job.tick, gradients=self.gradients):
            named = read_tokens(job, model, fed, full)
            return self.opens(job, model, *fed.values(), place, **own(named))

    def require(self, model: LensModel | Runs) -> LensModel:
        """Refuse a model that cannot be asked this, and return it.

        From here on runs are taken for a model: they have what the contract asks of one.

        Raises
        ------
        InputError
            It was not loaded, or reads something else.
        ModelError
            It lacks what the analysis needs.
        """
        self.require_kind(model)
        model = cast("LensModel", model)
        if model.remote is not None and not self.remote:
            model.refuse()
        if self.inputs and (kind := model.feed.reads) not in self.reads:
            raise InputError(
                f"{model.name} reads {kind}, but {self.name} is for {' or '.join(self.reads)}."
            )
        for need in self.needs:
            if lack := ABILITIES[need](model):
                raise ModelError(f"{self.name} cannot be asked of {model.name}, which {lack}.")
        return model

    def require_kind(self, model: Any) -> None:
        """Refuse what is neither a model from ``ll.load`` nor, where they may stand, runs.

        Raises
        ------
        InputError
            Says how to get one.
        """
        if not (self.runs and isinstance(model, Runs)):
            require_model(model)

    def _completed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options over their defaults; one that does not fit or has no effect is refused."""
        full = self._calling.complete(options)
        require_kinds(full, self._kinds, self.name)
        require_effect(full, self.options, self.effects, self.name)
        return full

    def asked(
        self, texts: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Texts by name and options of a call, however they were given; see `Analysis.__call__`."""
        return self._calling.sort(texts, options)

    def work(self, model: LensModel | Runs, *texts: Any, **options: Any) -> Work:
        """Count passes, rows through the head and bytes without running anything."""
        return self.counted(model, texts, options)[1]

    def estimate(self, model: LensModel | Runs, *texts: Any, **options: Any) -> Estimate:
        """Estimate what a call would take; see `Estimate` for how."""
        return estimate_work(model, *self.counted(model, texts, options))

    def counted(
        self, model: LensModel | Runs, texts: Sequence[Any], options: Mapping[str, Any]
    ) -> tuple[Mapping[str, Tokens | Texts], Work]:
        """What a call would be fed, and its work; runs nothing."""
        model = self.require(model)
        given, options = self._calling.sort(texts, options)
        full = self._completed(options)
        fed = self._calling.fed(model, given, full)
        work = self._work(model, *fed.values(), **own(full))
        if not fed and full.get("text") is not None:  # weights, and a text to see them at work on
            fed = self._calling.fed(model, {"text": full["text"]}, full)
        return fed, work

    def _result(
        self,
        job: Job,
        model: LensModel,
        given: Mapping[str, Any],
        tokens: Mapping[str, Tokens | Texts],
        options: Mapping[str, Any],
        started: float,
        *,
        ended: bool = True,
    ) -> Result:
        from layerlens.result import Result

        if job.parts is None:
            raise RuntimeError(f"{self.name} ended without declaring its axes")
        code = opts.code(self.name, given, options, self.options)
        attrs = attributes(
            model,
            tokens,
            job.parts,
            given=given,
            options=options,
            seconds=time.perf_counter() - started,
            remarks=job.remarks,
            ended=ended,
        )
        data = job.parts.dataset({**attrs, **self.about.shown(), **job.notes})
        result = Result(analysis=self.name, data=data, checks=job.checks, code=code, model=model)
        result.given = given, {n: v for n, v in options.items() if v is not self.options[n]}
        if self.learns:
            kind = self.learns if isinstance(self.learns, str) else self.learns(options)
            result.fitted = fitted_of(
                kind, job, model, tokens, options=options, code=code, ended=ended
            )
        return result

    def __repr__(self) -> str:
        return f"<analysis {self.name}: {self.about.question}>"


class Fitting(Analysis):
    """An analysis whose answer is what it learned, for others to use.

    Called, it returns the :class:`layerlens.result.fitted.Fitted`; :meth:`run`, and the
    ``partial`` of an error, have it as ``fitted`` of a result whose arrays say how learning went.
    """

    def __call__(self, model: LensModel | Runs, *texts: Any, **options: Any) -> Fitted:  # type: ignore[override]
        """Learn on this thread, with a progress bar when it lasts; see `Analysis`."""
        fitted = super().__call__(model, *texts, **options).fitted
        if fitted is None:
            raise RuntimeError(f"{self.name} ended without job.learned()")
        return fitted


def _effects(options: Mapping[str, Any], given: Effects) -> Effects:
    """What options need for an effect, with what holds of every analysis that has them."""
    if not {"metric", "wrong"} <= options.keys():
        return given
    needed = given.get("wrong", ())
    more = (needed,) if isinstance(needed, When) else needed
    return {**given, "wrong": (*more, among("metric", "logit_diff"))}


def _tokens(fed: Mapping[str, Tokens | Texts]) -> dict[str, Tokens]:
    """What is fed, without a corpus, which is not there yet."""
    return {name: text for name, text in fed.items() if not isinstance(text, Texts)}


def _single(fed: Mapping[str, Tokens | Texts]) -> bool:
    return any(tokens.single for tokens in list(_tokens(fed).values())[:1])


def _stopped(job: Job) -> str:
    if not job.begun:
        return "Stopped before anything was computed; run it again."
    return f"Stopped; {_KEPT}"


_KEPT = ".partial of this error holds what was finished, missing cells are NaN."


def _keep_partial(error: Exception, job: Job, finish: Callable[..., Result]) -> None:
    """Attach what was finished to an error, which itself stays as it is."""
    if not job.begun:
        return
    job.remark(f"It ended early, with {type(error).__name__}: {error}")
    # An error that cannot be told of itself is still the one to see.
    with contextlib.suppress(Exception):
        error.partial = finish(ended=False)  # type: ignore[attr-defined]
        error.add_note(f"The analysis ended early; {_KEPT}")
