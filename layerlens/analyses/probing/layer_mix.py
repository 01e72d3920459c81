"""Which layers one classifier of all of them together leans on, and what each one adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.asked import points_of, require, where_of
from layerlens.analyses.probing.examples import numbers_each
from layerlens.analyses.probing.marks import marks_of
from layerlens.analyses.probing.mixing import LABELS, OF, Mixing
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
_OVER = "texts or groups"
VARIABLES = {
    **with_interval(
        "weight",
        Variable((LABELS, "point"), "float64", "1", "weight of a layer in the mix of all",
                 unclipped=True),
        "folds",
    ),
    **with_interval(
        "accuracy", Variable((OF, "point"), "float64", "1", "share of examples told right"), _OVER
    ),
    **with_interval(
        "gain",
        Variable(
            ("point",), "float64", "1", "what a layer adds to the mix of those before",
            formula="accuracy(mix of 0..l) - accuracy(mix of 0..l-1)", signed=True,
        ),
        _OVER,
    ),
    **with_interval(
        "centre_of_gravity",
        Variable((LABELS,), "float64", "layer", "mean layer, by weight", formula="sum_l l s_l"),
        "folds",
    ),
    "evenness": Variable(
        (LABELS,), "float64", "1", "entropy of the weights, 1 where all are equal",
        formula="-sum_l s_l ln s_l / ln(number of layers)",
    ),
    "gamma": Variable((LABELS,), "float64", "1", "scale of the mix, before weights of length 1"),
    **with_interval(
        "expected_layer",
        Variable((), "float64", "layer", "mean layer, by gain",
                 formula="sum_l l gain_l / sum_l gain_l"),
        _OVER,
    ),
    **with_interval(
        "shuffled_accuracy",
        Variable((), "float64", "1", "accuracy of the mix on shuffled labels"),
        _OVER,
    ),
    **with_interval(
        "selected_accuracy",
        Variable((), "float64", "1", "accuracy of one layer, chosen without the fold"),
        _OVER,
    ),
    "selected_layer": Variable((), "int32", "layer", "the layer that most folds chose", -2),
    **with_interval(
        "mix_over_layer",
        Variable(
            (), "float64", "1", "accuracy of the mix above that of this layer",
            signed=True,
        ),
        _OVER,
    ),
}  # fmt: skip


def count_work(model: LensModel, tokens: Tokens | Texts, **options: Any) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    points = len(points_of(model, options["site"], options["layers"]))
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    where = where_of(options["position"], options["spans"])
    # Some fifty steps of the mix up to each layer, some hundred of each layer alone, twice.
    states = 4.0 * numbers_each(rows, where, model.d_model) * points
    operations = options["folds"] * states * (2 * 50 * points / 2 + 2 * 100)
    size = 2 * min(states, options["memory_limit"])
    return Work(1, 0, int(size), tokens=fed, operations=operations)


@analysis(
    name="layer_mix",
    question="Which layers does a classifier lean on that may read all of them at once?",
    source="Peters et al. (2018), Deep contextualized word representations, arXiv 1802.05365 "
    "(scalar mix); Tenney, Das and Pavlick (2019), BERT Rediscovers the Classical NLP Pipeline, "
    "arXiv 1905.05950 (centre of gravity, cumulative scoring); Nadeau and Bengio (2003), "
    "Inference for the Generalization Error (intervals over folds)",
    cost="1 pass over the texts",
    view="curves",
    lead="A layer weighs much where the classifier reads it rather than its neighbours. Labels "
    "dealt out anew have weights too: where both curves run alike, or the band over folds is wide, "
    "the weights say little, and what a layer adds to those before it says more.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("labels",),
    effects={"spans": among("position", "span", "pair")},
)
def layer_mix(
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
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
    workers: Workers = None,
) -> None:
    """Learn one linear classifier of a weighted mean of all layers, weights and all.

    Parameters
    ----------
    labels
        Classes, one for each text (for each of its tokens where ``position="each"``). None: those
        of ``ll.texts(..., label=)``.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    position
        Where states are read: an index, ``"mean"`` of all tokens, ``"each"`` token (an example
        each), ``"span"``: the mean over `spans`, or ``"pair"``: the means over two spans, one
        behind the other.
    spans
        For each text its first position and the one behind its last; for pairs two of these, or a
        list of such pairs, and then a list of labels.
    groups
        Of each text: those of one group never stand on both sides. None: those of
        ``ll.texts(..., group=)``, and where there are none every text is one.
    folds
        Parts that are judged in turn by what was learned from the others.
    strength
        ``C`` of the classifier: the larger, the less its weights are held small.
    seed
        Of folds and of the labels that are dealt out anew.
    memory_limit
        Bytes of states, and once more of what a fold learns from; more goes to files while the
        call lasts.
    workers

    Notes
    -----
    ``x = gamma * sum_l s_l h_l`` with ``s = softmax(w)``; ``w`` begins at 0. Each layer is
    standardised feature by feature on what the fold learns from, or the layer with the largest
    states would have the largest weight. ``weight`` over (``labels``, ``point``) is ``s``, mean
    over folds, of the labels as ``given``, of the same ``shuffled``, and ``equal`` ones.

    Weights are no measure of importance: layers that hold the same may share a weight in any way,
    and one layer often gets nearly all of it even where labels mean nothing. ``accuracy`` of the
    mix *up to here* rises only where a layer holds what those before it do not; ``expected_layer``
    is the mean layer by that rise (NaN where nothing rises). The first point is what the rise is
    counted from. What equal weights reach needs no learning of weights; ``shuffled_accuracy`` is
    the control of the learned ones.

    Raises
    ------
    InputError
        Labels or options do not fit, or there are too few texts or layers.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox {a}" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> found = ll.layer_mix(model, texts, [text[:3] for text in texts], folds=3)
    >>> round(float(found.data.weight.sel(labels="given").sum()), 6)
    1.0
    """
    require("linear", "shuffle", "accuracy", folds, strength)
    where = where_of(position, spans)
    points = points_of(model, site, layers)
    if len(points) < 2:
        raise InputError(f"There is one layer to mix ({points[0].label}): give two or more.")
    work = Mixing(job, model, points, where, strength, folds, seed, memory_limit, workers)
    work.run(tokens, *marks_of(job, labels, groups))
