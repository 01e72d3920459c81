"""States of texts in a plane of each layer: where they gather, and whether it is by their label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.calling import tokens_of
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.information.map_items import labels_of, labels_of_others
from layerlens.analyses.information.mapping import Mapping
from layerlens.analyses.information.planes import ALIGNS
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.asked import points_of, where_of
from layerlens.analyses.probing.examples import EACH
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
METHODS = ("pca", "lda")
_MAP = ("labels", "point", "item")
_TOLD = Variable(
    ("point", "space"), "float64", "1", "share of texts set apart that are nearest to their label",
    formula="mean [argmin_c |h - m_c| = label of h], m_c: means of the other texts",
)  # fmt: skip
VARIABLES = {
    "x": Variable(_MAP, "float32", "1", "first axis", signed=True),
    "y": Variable(_MAP, "float32", "1", "second axis", signed=True),
    "label_id": Variable(("labels", "item"), "int32", "1", "number of its label", -1),
    "nearest_mean_accuracy": _TOLD,
    "nearest_mean_accuracy_low": replace(
        _TOLD, long_name=f"{_TOLD.long_name}, lower end of 95 % of texts, or of shuffles"
    ),
    "nearest_mean_accuracy_high": replace(
        _TOLD, long_name=f"{_TOLD.long_name}, upper end of 95 % of texts, or of shuffles"
    ),
    "explained": Variable(
        ("point", "axis"), "float64", "1", "share of the variance of states along each axis"
    ),
}


def count_work(model: LensModel, tokens: Tokens | Texts, **options: Any) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    points = points_of(model, options["site"], options["layers"])
    sides, width = [rows_of(model, tokens)], model.d_model
    if options["other_texts"] is not None:
        sides.append(rows_of(model, tokens_of(model, options["other_texts"], None)))
    lengths = [[len(row.ids) for row in rows] for rows in sides]
    counts = [sum(own) if options["position"] == EACH else len(own) for own in lengths]
    items, every, fed = counts[0], sum(counts), sum(map(sum, lengths))
    small = min(items, width)
    # Both products of a decomposition, and one for the control; means of each shuffle.
    each = 2 * (2.0 * items * width * small + 10.0 * small**3)
    each += options["shuffles"] * 4.0 * items * width
    size = min(4 * every * width * len(points), options["memory_limit"]) + 16 * every * width
    return Work(1, 0, size, tokens=fed, operations=each * len(points))


@analysis(
    name="state_map",
    question="How do states of texts lie to each other after each layer, and do they gather by "
    "label?",
    source="Pearson (1901), On lines and planes of closest fit to systems of points in space; "
    "Fisher (1936), The use of multiple measurements in taxonomic problems; Horn (1965), A "
    "rationale and test for the number of factors in factor analysis",
    cost="1 pass over the texts, 1 over other texts",
    view="scatter",
    lead="Each mark is a text (or a token) at the chosen layer. Labels gather where the share that "
    "is nearest to its own label lies above that of shuffled labels, which no picture shows by "
    "itself: most of a state lies outside of any plane.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("labels",),
    effects={
        "spans": among("position", "span"),
        "skip_first": among("position", EACH),
        "components": among("method", "lda"),
        "other_labels": given("other_texts"),
    },
)
def state_map(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    labels: Sequence[Any] | None = None,
    site: str = "resid_post",
    layers: Any = None,
    position: Any = -1,
    spans: Sequence[Any] | None = None,
    skip_first: bool | int = False,
    method: str = "pca",
    align: str = "signs",
    components: int = 50,
    test: float = 0.5,
    shuffles: int = 20,
    other_texts: Any = None,
    other_labels: Sequence[Any] | None = None,
    most: int = 10_000,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
    workers: Workers = None,
) -> None:
    """Draw the states of texts in the plane that shows most of them, at each layer.

    Parameters
    ----------
    labels
        One for each text, or for each of its tokens where ``position="each"``; None entries have
        none. None: those of ``ll.texts(..., label=)``, or no labels, and nothing that is said of
        them.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    position
        Where states are read: an index, ``"mean"`` of all tokens, ``"each"`` token (a mark each),
        or ``"span"``: the mean over `spans`.
    spans
        For each text its first position and the one behind its last.
    skip_first
        Leave out the first token of each text (or so many), where each is a mark: in most models
        its state lies so far off that it alone makes the first component.
    method
        ``"pca"``: the two principal components of all texts, which know no label; ``"lda"``: the
        two directions that tell labels apart best, fitted on a part of the texts.
    align
        What is done so that points do not jump from layer to layer: axes are reversed
        (``"signs"``), or turned within their plane too (``"rotation"``), after which they are no
        longer the components themselves.
    components
        Principal components within which discriminants are sought, at most.
    test
        Share of the texts (or of their groups) to set apart: means and discriminants do not know
        them.
    shuffles
        How many times labels are dealt out anew, as a control; 1 of these is drawn for ``lda``.
    other_texts, other_labels
        Texts that are drawn in the same plane and change nothing in it.
    most
        Marks that are drawn; of more states so many are drawn at random.
    seed
        Of what is set apart, of shuffles, and of which states are drawn.
    memory_limit
        Bytes of states; more go to a file while the call lasts.
    workers

    Notes
    -----
    Coordinates are in units that can be compared between layers: of principal components the root
    mean square distance of states from their mean, so that a cloud is as large as its share of the
    variance; of discriminants the standard deviation of the fitted texts along the axis.

    With fewer texts than a state has entries, discriminants part any labels of the texts that they
    were fitted on, shuffled ones as well. These are drawn as outlines; only the filled marks, of
    texts set apart, say something. ``nearest_mean_accuracy`` is of these, by the means of the
    others, in the plane and in all directions, and beside it for shuffled labels (of whole texts).

    The control of ``explained`` are the states with the values of each entry shuffled among texts
    (parallel analysis, Horn 1965) or, for discriminants, those of shuffled labels.

    Where all states are the same, as those of a common last token are before the first block, all
    coordinates are 0 and nothing is said of labels.

    Raises
    ------
    InputError
        An option or labels do not fit, or too few texts are left on a side.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"{a} {b} fox" for a in ("cat", "dog", "owl") for b in ("bee", "ant", "emu")]
    >>> found = ll.state_map(model, texts, [text[:3] for text in texts], position="mean")
    >>> found.data.x.dims, float(found.data.explained.sel(axis="x", point="embed").round(2))
    (('labels', 'point', 'item'), 0.41)
    """
    _require(method, align)
    for name, number in (("components", components), ("shuffles", shuffles), ("most", most)):
        if whole(number, name) < 2:
            raise InputError(f"{name} is {number}; expected at least 2.")
    known = labels_of(job, labels)
    if known is None and method == "lda":
        raise InputError("method='lda' needs labels: give labels=[...], or method='pca'.")
    work = Mapping(
        job, model, tokens, points_of(model, site, layers), where_of(position, spans), known,
        method, align, components, shuffles, seed, int(skip_first),
    )  # fmt: skip
    if known is not None:
        work.part(test)
    if other_texts is not None:
        work.add(job.tokens(other_texts), labels_of_others(other_texts, other_labels))
    work.declare(most)
    work.run(memory_limit, workers)


def _require(method: str, align: str) -> None:
    if method not in METHODS:
        raise nearest(method, METHODS, "Method of state_map:")
    if align not in ALIGNS:
        raise nearest(align, ALIGNS, "Way to align of state_map:")
