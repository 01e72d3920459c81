"""A label read from the states of each layer, and how much of that is the probe's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.calling import tokens_of
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.asked import CV, Asked, points_of, require, where_of
from layerlens.analyses.probing.choosing import VARIABLES as CHOSEN
from layerlens.analyses.probing.examples import Where, numbers_each
from layerlens.analyses.probing.few_shot import VARIABLES as FEW_SHOT
from layerlens.analyses.probing.marks import marks_of
from layerlens.analyses.probing.other_texts import Other, Shots
from layerlens.analyses.probing.probing import OF, Probing
from layerlens.analyses.probing.strengths import GRID, INNER
from layerlens.analyses.probing.transfer import VARIABLES as TRANSFERRED
from layerlens.corpus.texts import Texts

if TYPE_CHECKING:
    from layerlens.corpus.spread import Workers
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
_ROW = (OF, "point")
_OVER = "texts or groups"
VARIABLES = {
    **with_interval(
        "accuracy", Variable(_ROW, "float64", "1", "share of examples that are told right"), _OVER
    ),
    "auc": Variable(_ROW, "float64", "1", "area under the curve, mean over classes"),
    "f1": Variable(_ROW, "float64", "1", "F1, mean over classes"),
    "compression": Variable(
        _ROW, "float64", "1", "length of the labels by themselves, over that with the probe"
    ),
    "selectivity": Variable(
        ("point",), "float64", "1", "accuracy above that on labels that say nothing", signed=True
    ),
    **CHOSEN,
    **TRANSFERRED,
    **FEW_SHOT,
    "log_strength": Variable(
        _ROW, "float64", "1", "log10 of the C chosen in training folds, median", signed=True
    ),
    "log_strength_low": Variable(_ROW, "float64", "1", "smallest of all folds", signed=True),
    "log_strength_high": Variable(_ROW, "float64", "1", "largest of all folds", signed=True),
}


def count_work(model: LensModel, tokens: Tokens | Texts, **options: Any) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    points = points_of(model, options["site"], options["layers"])
    where = where_of(options["position"], options["spans"])
    numbers, fed = _read(model, tokens, where)
    held = min(4 * numbers * len(points), options["memory_limit"])
    models = 2 if options["untrained"] else 1
    # A regression takes some hundred products with all states; the probe, its control and the
    # choice of a layer one for each fold.
    each = 1 + (INNER * len(GRID) if options["strength"] == CV else 0)
    fits = (2 + models) * options["folds"] * each * 100 * 4.0
    operations = fits * numbers * len(points)
    if options["other_texts"] is not None:
        if options["other_spans"] is not None:
            where = where_of(options["position"], options["other_spans"])
        there, more = _read(model, tokens_of(model, options["other_texts"], None), where)
        held += min(4 * there * len(points), options["memory_limit"])
        fed += more
        if options["n_shot"] is not None:
            share = options["other_apart"] * options["draws"]
            operations += (1 + models) * share * 100 * 4.0 * there * len(points)
    return Work(models, 0, held, tokens=fed, operations=operations)


def _read(model: LensModel, texts: Tokens | Texts, where: Where) -> tuple[int, int]:
    """Numbers that all examples of some texts hold at one point, and the tokens that are fed."""
    rows = rows_of(model, texts)
    return numbers_each(rows, where, model.d_model), sum(len(row.ids) for row in rows)


@analysis(
    name="probe",
    question="At which layer can a label be read, and does the probe read it or make it up?",
    source="Alain and Bengio (2016), Understanding intermediate layers using linear classifier "
    "probes, arXiv 1610.01644; Hewitt and Liang (2019), Designing and Interpreting Probes with "
    "Control Tasks, arXiv 1909.03368; Voita and Titov (2020), Information-Theoretic Probing with "
    "Minimum Description Length, arXiv 2003.12298; Jin et al. (2024), Exploring Concept Depth, "
    "arXiv 2404.07066; Tenney et al. (2019), What do you learn from context?, arXiv 1905.06316 "
    "(pairs); Uselis and Oh (2025), Intermediate Layer Classifiers for OOD generalization, arXiv "
    "2504.05461 (other texts)",
    cost="1 pass over the texts, and 1 of an untrained model; the same over other texts",
    view="curves",
    lead="The higher above the majority, the better the label can be read from that depth. A "
    "control above the majority says that the probe learns by heart; an untrained model above it, "
    "that the words alone are enough.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("labels",),
    learns="probe",
    keeps_curves=True,
    effects={
        "types": among("control", "types"),
        "spans": among("position", "span", "pair"),
        "other_labels": given("other_texts"),
        "other_apart": given("other_texts"),
        "n_shot": given("other_texts"),
        "draws": given("n_shot"),
        "other_spans": (given("other_texts"), among("position", "span", "pair")),
        "strength": among("kind", "linear", "mlp"),
    },
)
def probe(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    labels: Sequence[Any] | None = None,
    site: str = "resid_post",
    layers: Any = None,
    position: Any = -1,
    spans: Sequence[Any] | None = None,
    groups: Sequence[Any] | None = None,
    kind: str = "linear",
    control: str = "shuffle",
    types: Sequence[Any] | None = None,
    measure: str = "accuracy",
    folds: int = 5,
    strength: float | str = 1.0,
    other_texts: Any = None,
    other_labels: Sequence[Any] | None = None,
    other_spans: Sequence[Any] | None = None,
    other_apart: float = 0.2,
    n_shot: int | None = None,
    draws: int = 20,
    untrained: bool = True,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
    workers: Workers = None,
) -> None:
    """Fit a probe to the states of each layer, and judge it on texts that it has not seen.

    Parameters
    ----------
    labels
        One for each text, or a list for each of its tokens or pairs where these are examples:
        classes of any kind, or floats, which are predicted as numbers. None: those of
        ``ll.texts(..., label=)``.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    position
        Where states are read: an index, ``"mean"`` of all tokens, ``"each"`` token (an example
        each), ``"span"``: the mean over `spans`, or ``"pair"``: the means over two spans, one
        behind the other (edge probing).
    spans
        For each text its first position and the one behind its last; for pairs two of these, or a
        list of such pairs, and then a list of labels.
    groups
        Of each text: those of one group never stand on both sides. None: those of
        ``ll.texts(..., group=)``, and where there are none every text is one.
    kind
        ``"linear"``: a logistic (for numbers a ridge) regression of standardised states;
        ``"mean_difference"``: the class whose mean is nearest; ``"mlp"``: one hidden layer of 64.
    control
        ``"shuffle"``: the same labels dealt out anew; ``"types"``: a random label for each type
        of example (the token it is read at, or `types`), the same wherever it occurs.
    types
        Of each example.
    measure
        ``"accuracy"``; ``"mdl"``: also the compression by the online code, which says how easily
        labels are read, and takes some twenty more fits at each layer.
    folds
        Parts that are judged in turn by what was learned from the others; the same for all layers.
    strength
        ``C`` of the regressions: the larger, the less weights are held small. ``"cv"``: for each
        probe chosen from 0.001 to 100 by three folds of what it is taught, groups kept whole.
    other_texts, other_labels, other_spans
        Texts of another kind with the same labels, which what was learned is tried on.
    other_apart
        Share of the other texts (of their groups, where ``ll.texts`` has some) that chooses a
        layer; the rest judges it.
    n_shot
        Teach further probes by so many examples of each class from that share of the other texts:
        whether the label is there and only lies elsewhere.
    draws
        How often these examples are drawn.
    untrained
        Whether the same is read from a model of this configuration that was never trained.
    seed
        Of folds, controls and the untrained model.
    memory_limit
        Bytes of states; more go to a file while the call lasts.
    workers

    Returns
    -------
    Result
        Its ``fitted`` holds, of linear probes, ``"<point>.weight"`` ``[class or 1, d_model]``,
        ``"<point>.bias"`` and, of two classes, ``"<point>.direction"`` of length 1, towards the
        second class, in the states' own units: ``ll.edit("resid_post.7", "add", c *
        result.fitted["7_post.direction"])`` steers with it, ``ll.probe_steering`` tries it.

    Notes
    -----
    ``accuracy`` over (``of``, ``point``) is that of the probe, of its control, of the probe of the
    untrained model, and of the commonest class. Its interval is Wilson's, or over groups where
    these hold several examples. For numbers it is the share of variance explained. The layer that
    looks best is the largest of many noisy numbers; ``selected_accuracy`` is what remains when
    each fold is answered by the layer that did best on another one, by probes that saw neither.
    ``difference_to_last`` and ``difference_to_selected`` hold each point to the last one and to
    that choice; their intervals are the paired bootstrap over texts or groups.

    On other texts three layers are judged, ``transfer_choice_accuracy``: the one that is best on
    a part of them set apart, the one that is best on the folds of the texts, and the last point.
    No example that judges had a part in a choice.

    ``few_shot_accuracy`` (with `n_shot`) is judged by the same examples as ``transfer_accuracy``:
    where it is high and that is low, the label is there, and lies otherwise than in the texts. Its
    interval holds 95 % of the draws: what other few examples would have led to. The control's
    few have their labels dealt out anew. With ``strength="cv"`` it is what was chosen for all of
    the texts. The source has heads trained by gradient descent on all positions; here it is the
    probe that is asked for.

    A linear probe of a pair adds up what either span says. Whether two spans agree is more than
    that: ask with ``kind="mlp"``. The embedding and the untrained model show what the words alone
    tell.

    Raises
    ------
    InputError
        Labels or options do not fit, or there are too few texts.
    ModelError
        The model cannot be built untrained.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> found = ll.probe(model, texts, [text[:3] for text in texts], folds=3, untrained=False)
    >>> found.data.accuracy.dims, found.fitted.kind
    (('of', 'point'), 'probe')
    """
    require(kind, control, measure, folds, strength)
    where = where_of(position, spans)
    points = points_of(model, site, layers)
    known, units = marks_of(job, labels, groups)
    shots = Shots.asked(n_shot, draws)
    other = None
    if other_texts is not None:
        there = where if other_spans is None else where_of(position, other_spans)
        other = Other.of(job, other_texts, other_labels, there, other_apart, shots)
        other.require_known(known, where)
    asked = Asked(kind, strength, folds, control, types, untrained, measure == "mdl", seed,
                  memory_limit, workers)  # fmt: skip
    Probing(job, model, points, where, asked, list(VARIABLES)).run(tokens, known, units, other)
