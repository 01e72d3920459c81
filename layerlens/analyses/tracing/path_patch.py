"""Path patching: what one part does to a later head or straight to the logits, and no more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.sweeps.estimates import Agreement
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.analyses.tracing.head_edges import Edges, parse_receivers, parse_senders
from layerlens.analyses.tracing.path_cell import open_path
from layerlens.analyses.tracing.sender_paths import VARIABLES, SenderGrid, SenderPaths
from layerlens.errors import InputError
from layerlens.model.feed import ANY_KIND
from layerlens.model.sites import KEY_VALUE
from layerlens.run.gradients import GRADIENT_PASSES
from layerlens.run.many_edits import DEFAULT_LIMIT, Method

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Any,
    receiver: Any,
    verify: int,
    estimate_first: bool,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    receivers = parse_receivers(model, receiver)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = sum(place.block < end for place in parse_senders(model, sender))
    texts, length = clean.ids.shape
    runs = (1 if not receivers else 2) * (senders + 1 + verify)
    runs += (1 if not receivers else 2) * GRADIENT_PASSES * estimate_first
    size = 4 * length * model.d_model * model.n_layers * 4
    return Work(texts * (2 + runs), texts * (senders + 3 + verify), size)


@analysis(
    name="path_patch",
    question="What does a head or MLP do to a later head, or straight to the logits, and no more?",
    source="Wang et al. (2022), Interpretability in the Wild, arXiv 2211.00593; Goldowsky-Dill et "
    "al. (2023), Localizing Model Behavior with Path Patching, arXiv 2304.05969",
    cost="2 passes, and 2 for each sender (1 where the logits receive); an estimate before is a "
    "pass and a backward pass (2 of each where heads receive)",
    view="grid",
    lead="A cell is one head whose path to the receiver alone carries values of the other run: "
    "far from 0, the answer goes through it.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    inputs=("clean", "corrupt"),
    opens=open_path,
)
def path_patch(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    sender: Any = None,
    receiver: Any = "logits",
    direction: str = "noise",
    freeze_mlps: bool = False,
    positions: Any = None,
    align: Align | None = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | list[str | int] | None = None,
    wrong: str | int | list[str | int] | None = None,
    verify: int = 2,
    estimate_first: bool = False,
    method: Method = "auto",
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Change what one receiver reads of one sender, and see what becomes of the answer.

    Four runs for each sender, which is a head or a whole sublayer: (1) the run that is changed,
    (2) the run that the sender's activation comes from, (3) the first one again with the sender
    at its value in the second and every other head held at its value in the first, in which what
    the receiver would read is kept, (4) the first one with the receiver reading just that. MLPs
    between sender and receiver are part of the path unless they are frozen.

    Parameters
    ----------
    sender
        ``(layer, head)``, a list of these, or None for every head that can reach the receiver.
        ``"mlp_out"`` or ``"attn_out"``: all that the MLP or the attention of a layer adds, for
        every layer; ``(layer, "mlp_out")`` and such, or a list of these, for some.
    receiver
        ``"logits"``, ``(layer, head, "q" | "k" | "v")``, or a list of such triples, which then
        receive together. q and k are what the head's projections give, before the rotary
        embedding (where there is one); heads of k and v are key-value heads.
    direction
        ``"noise"``: corrupted activations into the clean run (as in both papers); ``"denoise"``:
        clean activations into the corrupted run.
    freeze_mlps
        Hold MLPs too, so that only the direct path through the residual stream is left.
    positions
        Where the sender is changed: an index, a slice, a list or the text of a span; None for
        everywhere.
    align
        As in ``ll.patch_sweep``.
    metric
    answer
    wrong
    verify
        How many of the strongest senders to compute again with four whole passes.
    estimate_first
        Estimate every sender by edge attribution patching before any is patched; then those come
        first that the estimate finds strongest.
    method
    memory_limit

    Notes
    -----
    ``recovered`` is ``effect`` over the difference of the two plain runs: 1 where the path alone
    turns the answer of the one into that of the other. Senders that cannot reach the receiver
    are not on the grid, which has an axis ``head``, or ``sublayer`` for whole ones.

    With ``estimate_first`` there is a variable ``estimate`` beside ``recovered``, in the same
    units. The attributes ``estimate_pearson``, ``estimate_cells`` and
    ``estimate_pearson_strongest`` say how well it agrees, as in ``ll.patch_sweep``;
    ``no_estimate`` says why there is none.

    Raises
    ------
    InputError
        An option does not fit, or nothing can reach the receiver.
    SiteError
        The model has no such site, or its q and k cannot be changed.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> clean, corrupt = [1, 2, 3, 4, 1], [3, 2, 1, 4, 1]
    >>> edges = ll.path_patch(model, clean, corrupt, receiver=(1, 0, "k"))
    """
    receivers = parse_receivers(model, receiver)
    pairs = make_pairs(clean, corrupt, align, direction)
    end = max((site.block for site in receivers), default=model.n_layers)
    senders = [place for place in parse_senders(model, sender) if place.block < end]
    if not senders:
        raise InputError(
            f"No sender can reach the receiver: it is in layer {end}, and only layers "
            "before it can."
        )
    grid = SenderGrid(model, senders)
    agreement = Agreement(job) if estimate_first else None
    grid.declare(job, len(pairs), estimate_first=estimate_first)
    if any(site.kind in KEY_VALUE for site in receivers) and model.n_kv_heads < model.n_heads:
        job.remark("Heads of k and v are key-value heads, each shared by several query heads.")
    answers, wrongs = one_each(answer, len(pairs), "answer"), one_each(wrong, len(pairs), "wrong")
    found = []
    for row, pair in enumerate(pairs):
        edges = Edges.make(
            model, pair, receivers, senders, freeze_mlps=freeze_mlps, where=positions
        )
        plain = (edges.base, edges.source)
        first, other = plain if direction == "noise" else plain[::-1]
        measure = make_metric(
            model,
            metric,
            final=first.final,
            other=other.final,
            answer=answers[row],
            wrong=wrongs[row],
        )
        paths = SenderPaths(job, edges, measure, grid, (row, len(pairs)))
        if agreement:
            paths.estimate(agreement)
        paths.run(verify, method=method, memory_limit=memory_limit)
        found.append(paths)
        _note(job, found)
    if agreement:
        agreement.remark()


def _note(job: Job, found: Sequence[SenderPaths]) -> None:
    """Say what was measured so far, and how."""
    first = found[0]
    edges = first.edges
    for name in ("effect", "metric"):
        job.describe(name, units=first.measure.units)
    ends = [(paths.value, paths.other) for paths in found]
    if edges.pair.direction == "denoise":
        ends = [(other, value) for value, other in ends]
    kept: dict[str, list[Any]] = {
        "clean_metric": [clean for clean, _ in ends],
        "corrupt_metric": [corrupt for _, corrupt in ends],
        "answer": [paths.measure.answer for paths in found],
    }
    if first.measure.wrong is not None:
        kept["wrong"] = [paths.measure.wrong for paths in found]
    receivers = [str(site) for site in edges.receivers] or ["logits"]
    job.note(
        metric=first.measure.name,
        metric_words=first.measure.words,
        direction=f"{edges.pair.words}, through one path alone",
        receiver=", ".join(receivers),
        method=", ".join(dict.fromkeys(paths.method for paths in found)),
        passes=sum(paths.passes for paths in found),
        **{name: json.dumps(v) if job.batched else v[0] for name, v in kept.items()},
    )
