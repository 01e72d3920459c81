"""How an analysis is declared.

An analysis is a function ``(job, model, tokens, *, options)``, with one ``tokens`` for each text
that it compares. It declares its axes, pushes finished parts with ``job.emit`` while the model is
still running, and ends with its checks. Everything around it (options, provenance, progress,
cancelling, the result) is in `layerlens.analyses.contract.asking`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from layerlens.analyses.contract.about import About, Dose
from layerlens.analyses.contract.asking import Analysis, Fitting, Learns
from layerlens.analyses.contract.cells import Opener
from layerlens.analyses.contract.effects import Effects
from layerlens.analyses.contract.estimate import Work
from layerlens.analyses.contract.job import Job
from layerlens.analyses.contract.parts import Variable

__all__ = ["About", "Analysis", "Dose", "Job", "Variable", "Work", "analysis"]


def analysis(
    *,
    name: str,
    question: str,
    source: str,
    cost: str,
    view: str,
    variables: Mapping[str, Variable],
    work: Callable[..., Work],
    inputs: Sequence[str] = ("text",),
    pooled: bool = False,
    positional: Sequence[str] = (),
    corpus: bool = False,
    reads: Sequence[str] = ("text",),
    needs: Sequence[str] = (),
    gradients: bool = False,
    learns: Learns = "",
    keeps_curves: bool = False,
    effects: Effects | None = None,
    lead: str = "",
    opens: Opener | None = None,
    doses: Sequence[Dose] = (),
    finds: str = "",
    runs: bool = False,
    remote: bool = False,
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
        ``(model, tokens, *, options) -> Work`` for estimates, which run nothing.
    inputs
        Names of the texts that it is given; one ``tokens`` for each. The batch axis of its
        variables is that of the first. None for one that looks at weights only, which has to be
        ``pooled``.
    pooled
        Several texts give one answer: its variables have no batch axis.
    positional
        Options that may be given after the texts without their names.
    corpus
        Takes texts of any number from ``ll.texts``: it is given a
        :class:`layerlens.corpus.texts.Texts` in the place of tokens, which would hold all. It
        has to be ``pooled``.
    reads
        Kinds of input that it understands: ``"text"``, ``"images"``, ``"audio"``. A model that
        reads another kind is refused.
    needs
        What a model has to have: ``"head"``, ``"causal"``, ``"attention"``, ``"gradients"``,
        ``"experts"``; one that lacks it is refused in one sentence before anything runs.
    gradients
        Whether the whole of it runs with gradients recorded. Passes by ``forward`` still record
        none unless they are asked to.
    learns
        Kind of what it learns, such as ``"probe"``, or a function from all options to it. It hands
        its arrays over with ``job.learned``, and a call returns them as a
        :class:`layerlens.result.fitted.Fitted`.
    keeps_curves
        Whether a call returns the result with its curves, which holds what was learned as
        ``fitted``, and not that alone.
    effects
        Option to what it needs for an effect, where it has not always one:
        ``{"draws": among("how", "resample")}``. Given without it, it is refused. That ``wrong``
        is for ``metric="logit_diff"`` need not be said.
    lead
        One sentence that stands above its picture: what is seen, and how to read it.
    opens
        What a cell of its answer opens in a view, see `layerlens.analyses.contract.cells`.
    doses
        Numbers that its view has a slider for.
    finds
        What its view finds by a token, in words; `opens` is given a cell with the label ``"token"``
        then, see `layerlens.analyses.contract.cells.FOUND`.
    runs
        Takes ``ll.Runs`` in the place of a model, too: a network at several moments of training.
    remote
        Can be asked of a model that runs elsewhere: it asks for nothing but passes that read and
        change inputs and outputs of modules, and for logits of states.
    """
    from layerlens.analyses.contract.registry import register

    def decorate(function: Callable[..., None]) -> Analysis:
        told = (name, question, source, cost, view, lead, opens is not None, tuple(doses), finds)
        made = (Fitting if learns and not keeps_curves else Analysis)(
            function,
            About(*told),
            variables,
            work,
            inputs,
            pooled=pooled,
            positional=positional,
            corpus=corpus,
            reads=reads,
            needs=needs,
            gradients=gradients,
            learns=learns,
            effects=effects,
            opens=opens,
            runs=runs,
            remote=remote,
        )
        return register(made)

    return decorate
