"""Early exit: how many layers a rule would save on texts, and what it would change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.about import Dose
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.exit_numbers import Scored
from layerlens.analyses.lenses.exit_tally import EXITS, ExitTally, When
from layerlens.analyses.lenses.exits import RULES, require_min_layers, require_rule
from layerlens.analyses.lenses.fitting.documents import (
    BATCH_TOKENS,
    count_kept,
    rows_of,
    seen,
    text_of,
)
from layerlens.analyses.lenses.points import Point, lens_points
from layerlens.analyses.lenses.readers import LOGIT, Lens, Reader, reader_of, told_reader
from layerlens.corpus.shard import batches
from layerlens.errors import InputError
from layerlens.model.evidence import logit_error, logit_size
from layerlens.model.sites import Site
from layerlens.run.forward import forward
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.corpus.rows import Row
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000

_EACH, _BY_POINT = ("exits", "threshold"), ("exits", "point")
VARIABLES = {
    "agreement": Variable(_EACH, "float64", "1", "share of tokens with the full model's top token"),
    "text_agreement": Variable(
        ("threshold",), "float64", "1", "share of texts in which every token agrees"
    ),
    "saved": Variable(("threshold",), "float64", "1", "share of layers left out"),
    "mean_layers": Variable(("threshold",), "float64", "layers", "mean layers that run"),
    "logprob_change": Variable(
        _EACH,
        "float64",
        "nats",
        "mean change of the next token's log-probability",
        formula="ln p_exit(next) - ln p_final(next)",
        signed=True,
    ),
    "exit_share": Variable(("threshold", "point"), "float64", "1", "share of tokens that exit"),
    "oracle_share": Variable(
        ("point",), "float64", "1", "share of tokens whose final top token is first on top here"
    ),
    "agreement_at_depth": Variable(
        _BY_POINT, "float64", "1", "agreement where so many layers run on the mean"
    ),
    "oracle_layers": Variable(
        (), "float64", "layers", "mean layers until the final top token is on top"
    ),
    "oracle_stable_layers": Variable(
        (), "float64", "layers", "mean layers until it is on top to stay"
    ),
}


def exits_of(model: LensModel, reader: Reader) -> list[Point]:
    """States before the last one that a lens reads; the last is the model's own end.

    Raises
    ------
    InputError
        It has a map for none.
    """
    states = lens_points(model, ("embed", "post"))[:-1]
    found = [p for p in states if reader.labels is None or p.label in reader.labels]
    if not found:
        raise InputError("This lens reads no state between blocks: fit it for 'post'.")
    return found


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    lens: Lens,
    positions_skipped: int,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    points = exits_of(model, reader_of(model, lens))
    rows = rows_of(model, tokens)
    states = (model.n_layers + 5) * BATCH_TOKENS * model.d_model * model.dtype.itemsize
    numbers = 6 * 8 * (len(points) + 1) * BATCH_TOKENS
    fed = sum(len(row.ids) for row in [*rows, *rows[:1]])
    head_rows = (len(points) + 1) * count_kept(rows, positions_skipped) + 1
    return Work(1, head_rows, states + numbers + memory_limit // 2, tokens=fed)


@analysis(
    name="early_exit",
    question="How many layers would an early exit save on my texts, and what would it change?",
    source="Schuster et al. (2022), Confident Adaptive Language Modeling, arXiv 2207.07061; "
    "confidence: Kaya et al. (2019), Shallow-Deep Networks, arXiv 1810.07052; "
    "patience: Zhou et al. (2020), BERT Loses Patience, arXiv 2006.04152",
    cost="1 pass, plus the head on every token at each layer",
    view="panels",
    lead="The higher the threshold, the later a token exits and the more often it is the full "
    "model's own; the rule is worth what it adds to the same exits dealt out at random.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head", "causal"),
    doses=[Dose("thresholds", RULES["margin"].thresholds(), "threshold", dim="threshold")],
)
def early_exit(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    rule: str = "margin",
    thresholds: Sequence[float] | None = None,
    decay: float = 0.0,
    min_layers: int = 0,
    lens: Lens = LOGIT,
    positions_skipped: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Let each token of texts leave the model early by a rule, at every threshold.

    All layers run, and the exits only relabel: a later token still sees the states of all layers
    of an earlier one. In a model that really stops these are missing or copied up.

    Parameters
    ----------
    rule
        When a token counts as ready: ``margin`` (top probability minus the second), ``confidence``
        (top probability), ``entropy`` (1 - entropy / ln vocabulary), ``state`` (cosine with the
        state that the block was given), ``patience`` (states in a row with the same top token).
    thresholds
        What the rule's score has to exceed; None: 0 to 1, for ``state`` 0.8 to 1, for
        ``patience`` 0 to 10.
    decay
        How fast a threshold falls along a text (CALM's temperature, published with 4):
        ``threshold (0.9 + 0.1 exp(-decay i / N))`` for token ``i``, where the longest piece has
        ``N``; 0: it does not.
    min_layers
        How many layers run for every token before a score counts; 0: it may exit at the embedding.
        The oracle is not held to it.
    lens
        How states are read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    positions_skipped
        Tokens at the beginning of each text that do not count.
    memory_limit

    Notes
    -----
    ``exits`` are the rule and two controls: ``random layers`` deals the rule's exits to tokens at
    random (the exact mean over all ways to do so), ``one layer`` lets every token exit at the
    rule's mean depth (between two layers: a mixture of them). ``agreement_at_depth`` lays the
    three over the depth, between thresholds by straight lines, NaN where no threshold leads. The
    oracle exits where the final top token is first on top: no rule that always agrees can exit
    earlier. The last ``point`` is the model's own end.

    Raises
    ------
    InputError
        An option does not fit, or no token counts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.early_exit(model, ["cat dog owl cat dog", "fox bee fox"], thresholds=[0.5, 1])
    >>> found.data.agreement.sel(exits="rule").values[-1], found.data.saved.values[-1]
    (np.float64(1.0), np.float64(0.0))
    """
    require_rule(rule, None)
    reader = told_reader(job, model, lens)
    points = exits_of(model, reader)
    chosen = _thresholds(rule, thresholds)
    if not np.isfinite(decay) or decay < 0:
        raise InputError(f"decay is {decay!r}; expected a number that is not negative.")
    require_min_layers(model, min_layers)
    rows = rows_of(model, tokens)
    total = count_kept(rows, positions_skipped)
    if not total:
        raise InputError(
            f"No token counts when the first {positions_skipped} of each text do not: give longer "
            "texts, or a smaller positions_skipped."
        )
    depths = np.array([*(point.layer + 1 for point in points), model.n_layers])
    texts = 1 + max(text_of(row) for row in rows)
    when = When(rule, chosen, float(decay), min_layers)
    tally = ExitTally(when, depths, texts, model.d_vocab)
    _declare(job, points, chosen, model.n_layers)
    job.note(rule=rule, decay=float(decay), min_layers=min_layers, lens=reader.name)
    head = Head.of(model, memory_limit // 2)
    longest = max(len(row.ids) for row in rows) - positions_skipped
    states = lens_points(model, ("embed", "post"))
    scored = Scored(model, head, reader, states, points, job.tick)
    for found in seen(model, rows, states, positions_skipped, job.tick):
        numbers = scored.numbers(found)
        place = (found.position.numpy() - positions_skipped) / longest
        tally.add(numbers, place, found.text.numpy())
        job.emit({}, tally.means())
        job.progress(tally.tokens, total, "reading")
    job.note(passes=1)
    what = "tokens that a higher threshold lets exit earlier"
    job.check("higher thresholds exit later", tally.later, 0, what)
    against_model(job, model, head, rows)


def _thresholds(rule: str, given: Sequence[float] | None) -> list[float]:
    if given is None:
        return list(RULES[rule].thresholds())
    try:
        found = sorted({float(one) for one in np.atleast_1d(np.asarray(given)).tolist()})
    except (TypeError, ValueError):
        found = []
    if not found or not np.isfinite(found).all():
        raise InputError(f"thresholds is {given!r}; expected finite numbers.")
    return found


def _declare(job: Job, points: Sequence[Point], thresholds: list[float], layers: int) -> None:
    labels = [*(point.label for point in points), "final"]
    sizes = {"exits": len(EXITS), "threshold": len(thresholds), "point": len(labels)}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "exits": (("exits",), np.array(EXITS)),
        "threshold": (("threshold",), np.array(thresholds)),
        "point": (("point",), np.array(labels)),
        "layer": (("point",), np.array([*(p.layer for p in points), layers - 1], dtype=np.int32)),
    }
    job.declare(sizes, coords)


def against_model(job: Job, model: LensModel, head: Head, rows: Sequence[Row]) -> None:
    """Compare the end of the first text, read as an exit, with the model's own logits there."""
    tokens, _ = next(iter(batches(model, rows[:1], BATCH_TOKENS)))
    last = Site("resid_post", model.n_layers - 1)
    states: list[Tensor] = []
    own = forward(model, tokens, [last], lambda _, value: states.append(value[:, -1].clone()))
    assert own is not None  # the analysis needs a head
    read = head.logits(head.accept(model.head_input(states[0])))[0].clone()
    theirs = own[0, -1].to(read)
    size = logit_size(theirs)
    what = "largest difference of the last exit's logits from the model's own, end of one text"
    limit = logit_tolerance(own.dtype) * size
    job.check("the last exit is the model's", logit_error(read, theirs) * size, limit, what)
