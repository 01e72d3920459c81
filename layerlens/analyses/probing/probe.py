"""A label read from the states of each layer, and how much of that is the probe's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.asked import points_of, require, where_of
from layerlens.analyses.probing.marks import marks_of
from layerlens.analyses.probing.probing import OF, Probing
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError

if TYPE_CHECKING:
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
    **with_interval(
        "transfer_accuracy",
        Variable(("point",), "float64", "1", "share of the other texts that are told right"),
        _OVER,
    ),
    "transfer_majority": Variable((), "float64", "1", "share of their commonest class"),
    **with_interval(
        "selected_accuracy",
        Variable((), "float64", "1", "accuracy of layers chosen without the fold"),
        _OVER,
    ),
    "selected_layer": Variable((), "int32", "layer", "the layer that most folds chose", -2),
    "jumping_point": Variable((), "float64", "1", "depth at which accuracy first jumps"),
    "converging_point": Variable((), "float64", "1", "depth from which on accuracy stands still"),
    "converging_point_literal": Variable(
        (), "float64", "1", "last depth at which accuracy stands still, as published"
    ),
}


def count_work(model: LensModel, tokens: Tokens | Texts, **options: Any) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    points = points_of(model, options["site"], options["layers"])
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    examples = fed if options["position"] == "each" else len(rows)
    models = 2 if options["untrained"] else 1
    # A regression takes some hundred products with all states, for each fold and its control.
    fits = 2 * models * options["folds"] * 100 * 4.0 * examples * model.d_model * len(points)
    size = min(4 * examples * model.d_model * len(points), options["memory_limit"])
    return Work(models, 0, size, tokens=fed, operations=fits)


@analysis(
    name="probe",
    question="At which layer can a label be read, and does the probe read it or make it up?",
    source="Alain and Bengio (2016), Understanding intermediate layers using linear classifier "
    "probes, arXiv 1610.01644; Hewitt and Liang (2019), Designing and Interpreting Probes with "
    "Control Tasks, arXiv 1909.03368; Voita and Titov (2020), Information-Theoretic Probing with "
    "Minimum Description Length, arXiv 2003.12298; Jin et al. (2024), Exploring Concept Depth, "
    "arXiv 2404.07066",
    cost="1 pass over the texts, and 1 of an untrained model",
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
        "spans": among("position", "span"),
        "other_labels": given("other_texts"),
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
    strength: float = 1.0,
    other_texts: Any = None,
    other_labels: Sequence[Any] | None = None,
    untrained: bool = True,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Fit a probe to the states of each layer, and judge it on texts that it has not seen.

    Parameters
    ----------
    labels
        One for each text (for each of its tokens where ``position="each"``): classes of any kind,
        or floats, which are predicted as numbers. None: those of ``ll.texts(..., label=)``.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    position
        Where states are read: an index, ``"mean"`` of all tokens, ``"each"`` token (an example
        each), or ``"span"``: the mean over `spans`.
    spans
        For each text its first position and the one behind its last.
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
        ``C`` of the regressions: the larger, the less weights are held small.
    other_texts, other_labels
        Texts of another kind with the same labels, which what was learned is tried on.
    untrained
        Whether the same is read from a model of this configuration that was never trained.
    seed
        Of folds, controls and the untrained model.
    memory_limit
        Bytes of states; more go to a file while the call lasts.

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
    names = [name for name in VARIABLES if other_texts is not None or "transfer" not in name]
    work = Probing(
        job, model, points, where, kind, strength, folds, seed, memory_limit, names,
        send=measure == "mdl",
    )  # fmt: skip
    marks = marks_of(job, labels, groups)
    work.run(tokens, *marks, control=control, types=types, untrained=untrained)
    if other_texts is not None:
        read = job.tokens(other_texts)
        known = other_labels if other_labels is not None else _own_labels(other_texts)
        work.transfer(read, known)


def _own_labels(texts: Any) -> Sequence[Any]:
    found = [item.label for item in texts.items()] if isinstance(texts, Texts) else []
    if not found or any(label is None for label in found):
        raise InputError(
            "other_texts have no labels: give other_labels=[...], or ll.texts(..., label=[...])."
        )
    return found
