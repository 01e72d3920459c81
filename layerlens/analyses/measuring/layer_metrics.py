"""Every layer measured: many metrics, one pass, any number of texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.measuring.measuring_run import Measuring, variables_of
from layerlens.corpus.rows import Rows
from layerlens.corpus.sweep import BATCH_TOKENS, Sweep
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.metrics import registry
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.model.feed import ANY_KIND

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT = (
    "residual_norm",
    "attn_ratio",
    "mlp_ratio",
    "block_ratio",
    "attn_cosine",
    "mlp_cosine",
    "block_cosine",
    "block_influence",
    "angular_distance",
    "massive_activations",
)
"""What is measured when nothing is named, as far as the model has what it takes."""

Asked = str | Sequence[str] | None


VARIABLES = {
    name: variable
    for metric in registry.every().values()
    for name, variable in variables_of(metric).items()
}


def chosen(model: LensModel, metrics: Asked) -> tuple[list[str], list[str]]:
    """The metrics to measure, and a sentence for each of the default ones that is left out.

    Raises
    ------
    InputError
        When a name is not known; an analysis of its own is named as such.
    """
    if metrics is not None:
        if not isinstance(metrics, Iterable):
            raise InputError(f"metrics is {metrics!r}; expected names from ll.metrics().")
        for name in [metrics] if isinstance(metrics, str) else metrics:
            require_metric(name)
        return registry.named(metrics), []
    absent = {name: registry.get(name).missing(model) for name in DEFAULT}
    remarks = [f"{name} was left out: {reason}" for name, reason in absent.items() if reason]
    return [name for name, reason in absent.items() if not reason], remarks


def require_metric(name: str) -> None:
    """Refuse an analysis of its own as a metric.

    Raises
    ------
    InputError
        When it is one.
    """
    from layerlens.analyses.contract.registry import names

    if name not in registry.every() and name in names():
        raise InputError(
            f"{name} takes passes of its own, so it is no metric among others: call "
            f"ll.{name}(model, ...)."
        )


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    metrics: Asked,
    skip_first: bool | int,
    batch_size: int | None,
    metric_options: Mapping[str, Mapping[str, Any]] | None,
    batch_tokens: int | None,
    **for_corpora: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads a corpus, runs nothing."""
    names, _ = chosen(model, metrics)
    made = MetricSet.make(model, names, skip_first=skip_first, options=metric_options)
    kept = sum(array.nbytes for metric in made.metrics for array in metric.arrays.values())
    if isinstance(tokens, Texts):
        widest = batch_tokens or BATCH_TOKENS
        counts = Rows(tokens, model, widest).count()
        rows, fed = counts.rows, counts.tokens
    else:
        widest = max((part.ids.numel() for part, _ in split(tokens, batch_size)), default=0)
        rows, fed = len(tokens.ids), int(tokens.ids.numel())
    states = (model.n_layers + 1) * widest * model.d_model * 4
    passes = int(bool(made.metrics))
    return Work(passes, passes * rows, kept + states, tokens=fed)


@analysis(
    name="layer_metrics",
    question="What does each layer do to the residual stream?",
    source="Csordás, Manning and Potts (2025) and others, named at each variable",
    cost="1 pass for all metrics",
    view="metrics",
    lead="Each panel is one measure of every layer; the band is the 95 % interval over texts, "
    "and a layer that is picked is marked in all of them.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("metrics",),
    corpus=True,
)
def layer_metrics(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    metrics: Asked = None,
    skip_first: bool | int = True,
    batch_size: int | None = None,
    metric_options: Mapping[str, Mapping[str, Any]] | None = None,
    batch_tokens: int | None = None,
    workers: int | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:
    """Measure every layer over one or more texts, all metrics in the same pass.

    ``ll.texts`` reads a corpus of any length, which is measured shard by shard (of about four
    batches) in memory that does not grow with it.

    Parameters
    ----------
    metrics
        Names from ``ll.metrics()``; None for a set that says how the model uses its depth.
    skip_first
        Leave out the first token of each text (or so many): in most models it has a norm of its
        own, hundreds of times that of others, which means would then show. Published numbers
        often include it. Metrics of attention and of massive activations always see it.
    batch_size
    metric_options
        Name of a metric to its options, ``{"angular_distance": {"token": "last"}}``.
    batch_tokens
        Of a corpus: most tokens in one pass, padding included; None for 2,048.
    workers
    checkpoint
        Of a corpus: a file that is written every 30 s and when the call ends or is stopped. A
        later call with the same model, texts and options goes on from there. Not more than the
        shards under way are lost.

    Notes
    -----
    One variable for each metric, with ``units``, ``long_name``, ``source`` and ``formula`` as
    attributes, over ``layer`` or ``point`` (``point_layer`` is the layer that a state comes
    after, -1 before the first). ``<name>_low`` and ``<name>_high`` are the 95 % interval over
    texts: texts (in groups, beyond 128 of them) are resampled, never tokens; with one text there
    is none. Several texts give one answer; padding takes no part in it.

    Raises
    ------
    InputError
        A metric or an option is not known, or no token counts.
    SiteError
        The model has not what a metric reads.
    ActivationError
        The model's activations hold NaN or infinity. In a corpus, such texts are left out and
        counted (``rows_not_finite`` and the check ``finite``), unless it begins with nothing else.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> ll.layer_metrics(model, [1, 2, 3, 1, 2], ["block_influence"]).data.block_influence.dims
    ('layer',)
    >>> corpus = ll.texts(["cat dog owl", "owl fox bee"])
    >>> ll.layer_metrics(model, corpus, ["cka"], checkpoint="measured.safetensors").data.texts
    2
    """
    names, remarks = chosen(model, metrics)
    for remark in remarks:
        job.remark(remark)
    made = MetricSet.make(model, names, skip_first=skip_first, options=metric_options)
    measuring = Measuring(job, model, names, made, metric_options or {})
    own: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "workers": workers,
        "checkpoint": checkpoint,
    }
    if isinstance(tokens, Texts):
        if batch_size is not None:
            raise InputError("batch_size is for a few texts: give batch_tokens for a corpus.")
        measuring.run_corpus(Sweep(model, tokens, made, **own))
        return
    if given := [name for name, value in own.items() if value is not None]:
        raise InputError(f"{given[0]} is for a corpus: wrap the texts, ll.texts(texts).")
    if made.metrics and made.skip_first >= max(tokens.lengths):
        raise InputError(
            f"No token counts: the longest text has {max(tokens.lengths)} and the first "
            f"{made.skip_first} are left out. Give longer texts, or skip_first=False."
        )
    measuring.run(tokens, batch_size)
