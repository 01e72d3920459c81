"""A layer's activations as sums of a few concepts, and what each does to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.answers.answer_metric import MetricFunction
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.split import Split
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.concepts.by_label import VARIABLES as BY_LABEL
from layerlens.analyses.features.concepts.by_label import ByLabel
from layerlens.analyses.features.concepts.concept_cell import open_concept
from layerlens.analyses.features.concepts.factors import ROUNDS, SIGNS
from layerlens.analyses.features.concepts.told import Asked, Told
from layerlens.analyses.features.concepts.units import UNITS
from layerlens.analyses.lenses.fitting.documents import rows_of
from layerlens.analyses.probing.untrained import untrained as make_untrained
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.run.many_edits import DEFAULT_LIMIT

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_LAYER, _CONCEPT = ("layer?",), ("layer?", "concept")
_HELD = "explained (texts set apart) by"
_MOVED = "answer moves without"
_RANDOM = "answer moves without a random direction"
VARIABLES = {
    **with_interval(
        "importance",
        Variable(
            _CONCEPT, "float64", "1", "importance for the answer (total Sobol index)",
            formula="sum (y_A - y_C)^2 / (2 n Var y_A)",
            source="Jansen (1999), Analysis of Variance Designs for Model Output",
        ),
    ),
    "deletion": Variable(
        _CONCEPT, "float64", "logit", f"{_MOVED} the concept"
    ),
    "random_deletion": Variable(
        _CONCEPT, "float64", "logit", _RANDOM
    ),
    "share": Variable(_CONCEPT, "float64", "1", "share of all that concepts write"),
    "density": Variable(_CONCEPT, "float64", "1", "share of the units that it is in"),
    "agreement": Variable(
        _CONCEPT, "float64", "1", "cosine with its partner from another start"
    ),
    "units": Variable(_CONCEPT, "int32", "units", "units that it is in"),
    "token": Variable(
        ("layer?", "concept", "rank"), "int32", "1", "tokens that have most of it", is_token=True
    ),
    "written_token": Variable(
        ("layer?", "concept", "rank"), "int32", "1", "tokens whose logits it raises most",
        is_token=True,
    ),
    "explained": Variable(
        _LAYER, "float64", "1", f"{_HELD} concepts",
        formula="1 - sum |x - y|^2 / sum |x - mean|^2", signed=True,
    ),
    "explained_baseline": Variable(
        _LAYER, "float64", "1", f"{_HELD} principal components", signed=True
    ),
    "explained_random": Variable(
        _LAYER, "float64", "1", f"{_HELD} random units", signed=True
    ),
    "explained_shuffled": Variable(
        _LAYER, "float64", "1", f"{_HELD} shuffled concepts", signed=True
    ),
    "explained_untrained": Variable(
        _LAYER, "float64", "1", f"{_HELD} concepts of an untrained model", signed=True
    ),
    "top_deletion": Variable(_LAYER, "float64", "logit", f"{_MOVED} the top concept"),
    "top_deletion_baseline": Variable(
        _LAYER, "float64", "logit", f"{_MOVED} another concept"
    ),
    "top_deletion_random": Variable(
        _LAYER, "float64", "logit", _RANDOM
    ),
    "top_ratio": Variable(
        _LAYER, "float64", "1", "move of the top concept, by that of a random direction"
    ),
    "top_ratio_untrained": Variable(
        _LAYER, "float64", "1",
        "move of the top concept, by that of a random direction: untrained"
    ),
    "rank_correlation": Variable(
        _LAYER, "float64", "1", "rank correlation of importance and deletion",
        signed=True,
    ),
    "stability": Variable(
        _LAYER, "float64", "1", "cosine with partners from other starts"
    ),
    "stability_shuffled": Variable(
        _LAYER, "float64", "1", "cosine with partners of shuffled entries"
    ),
    **BY_LABEL,
    "dictionary": Variable(
        ("layer?", "concept", "entry"), "float32", "1",
        "concepts: with doubled signs entries above zero, then those below",
        hidden=True,
    ),
    "example_row": Variable(
        ("layer?", "concept", "example"), "int32", "1", "row of a unit that has most of it",
        hidden=True,
    ),
    "example_position": Variable(
        ("layer?", "concept", "example"), "int32", "1", "its position in that row",
        hidden=True,
    ),
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    site: str,
    layers: Any,
    r: int,
    most: int,
    explain: int,
    designs: int,
    longest: int,
    starts: int,
    untrained: bool,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, rows, bytes and operations of one call; reads the texts, runs nothing."""
    places = Places.of(model, site, _layers(model, layers), 1)
    rows = rows_of(model, tokens)
    fed = max(1, sum(len(row.ids) for row in rows))
    units, width = min(most, fed), 2 * model.d_model
    left = sum((model.n_layers - layer) / model.n_layers for layer in places.layers)
    labels = {item.label for item in tokens.items()} if isinstance(tokens, Texts) else ()
    models = 1 + bool(untrained)
    runs = models * explain * max(1, len(labels)) * ((r + 2) * designs + 2 * r + 1)
    alone = min(longest, max((len(row.ids) for row in rows), default=1))
    passes = models * (max(places.layers) + 1) / model.n_layers + runs * left * alone / fed
    fits = (models + starts) * ROUNDS * 6.0 * units * width * r * len(places.sites)
    size = 4 * 2 * units * width * len(places.sites) + memory_limit
    return Work(passes, runs * len(places.sites), size, tokens=fed, operations=fits)


def _layers(model: LensModel, layers: Any) -> Any:
    return model.n_layers // 2 if layers is None else layers


@analysis(
    name="concepts",
    question="Of which few parts is a layer made in these texts, and which of them does an answer "
    "need?",
    source="Fel et al. (2023), CRAFT: Concept Recursive Activation FacTorization for "
    "Explainability, arXiv 2211.10154; the build for texts and signed activations is ours",
    cost="1 pass as far as the layer, and for each text that is explained (r + 2) designs and 2 r "
    "runs from the layer on; as much again for each further label, and for an untrained model",
    view="panels",
    lead="A concept matters where taking it out of texts set apart moves the answer further than "
    "taking out others, and than as much along a random direction; its importance was found on "
    "other texts. Pin a concept for its page; of several layers, a layer for its top one. "
    "Concepts tell labels apart where an AUC lies above that of chance.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head",),
    opens=open_concept,
)
def concepts(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    site: str = "resid_post",
    layers: Any = None,
    r: int = 20,
    unit: str = "token",
    signs: str = "double",
    answer: Any = None,
    wrong: Any = None,
    metric: str | MetricFunction = "logit",
    keep_error: bool = True,
    designs: int = 32,
    explain: int = 8,
    longest: int = 64,
    most: int = 2000,
    test: float = 0.25,
    starts: int = 2,
    k: int = 5,
    seed: int = 0,
    positions_skipped: int = 1,
    untrained: bool = False,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Factorise a layer's activations into concepts, and run the model with less of each.

    Activations of texts become non-negative, and a non-negative factorisation finds `r` rows
    (concepts) whose sums they are. Each text's coefficients are then multiplied by numbers between
    0 and 1, the activations put back, and the rest of the model run: how much of the answer's
    variance goes when one concept is held is its importance (total Sobol index). Texts with labels
    (``ll.texts(..., label=)``) have the importance for each label, and the concepts that tell
    labels apart in texts that were set apart.

    Parameters
    ----------
    site
        Kind of site with one activation a token: ``resid_post``, ``resid_mid``, ``mlp_out``,
        ``mlp_post`` ...
    layers
        Of which layers, each by itself; None for the middle one, ``"all"`` for all.
    r
        How many concepts.
    unit
        What is factorised: the activation of a ``"token"``, or its mean over a ``"clause"`` (up to
        a comma, a full stop and the like).
    signs
        ``"double"``: each entry becomes two, what of it is above zero and what is below, which
        says the same and folds back exactly; ``"plain"`` for activations without negative entries
        (the neurons of a ReLU), refused for others.
    answer
    wrong
    metric
    keep_error
        Whether what concepts leave out of an activation stays when they are turned down; else the
        model runs on their sum alone.
    designs
        Points of each design of the Sobol indices.
    explain
        How many texts (with labels: of each) the importance is measured on, and as many that were
        set apart for deletion.
    longest
        Of longer texts, so many tokens from the beginning are run for that.
    most
        Units that the factors are fitted on, at most, drawn at random.
    test
        Share of the texts to set apart.
    starts
        How many fits from other starts the concepts are compared with.
    k
        How many tokens and examples of each concept.
    seed
        Of the split, the draws, the fits and the designs.
    positions_skipped
        Tokens at the beginning of each row that do not count; they and special ones keep the
        model's own activations throughout.
    untrained
        Do the same in a model of the same shape with random weights; it costs as much again.
    memory_limit

    Notes
    -----
    CRAFT factorises the means of image crops, which a ReLU made non-negative; doubled signs,
    clauses, the kept error, texts set apart and all controls are ours. Concepts are ordered by
    what they write (``share``). Of one layer they are named by their tokens; of several, the
    picture has only what is said of each layer, as concepts of one layer are not those of another.

    ``explained`` is of units of texts set apart, whose coefficients are the exact non-negative
    least squares; beside it as many principal components (without signs to respect, so an upper
    end), as many activations drawn at random in the place of concepts, and concepts with shuffled
    entries. ``deletion`` takes a concept out of all tokens of a text (texts set apart again) and
    runs the model: absolute change of `metric`, mean over texts; ``random_deletion`` takes as much
    out of each token along a random direction. ``agreement`` matches the concepts with those of
    fits that began elsewhere, one to one (Hungarian method); a mean below 0.8 is noted as
    unstable. ``dictionary`` holds the concepts themselves, of length 1. ``top_ratio`` is the top
    concept's deletion by that of a random direction, which an untrained model has too, whatever the
    size of its logits; its answer is its own where none is given.

    With labels, ``label_importance`` is the mean over a label's texts, as CRAFT has it for each
    class. ``label_auc`` is how often a text of the label has more of a concept (mean over its
    units) than one without; ``told_auc`` that of the concept that did best in the texts learned
    from, so that choosing it cost nothing. Beside both stands what 1 draw of shuffled labels in 20
    exceeds; groups whose texts share a label are dealt out whole.

    Raises
    ------
    InputError
        Activations are signed and ``signs="plain"``; an option does not fit; too few texts or
        tokens are left on either side, or of a label none.
    ModelError
        The model cannot be built untrained.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> found = ll.concepts(model, texts, layers=0, r=3, designs=8, explain=1)
    >>> found.data.importance.dims, found.checks.ok
    (('concept',), True)
    """
    asked = Asked(
        site, unit, signs == "double", r, designs, explain, longest, most, starts, k, seed,
        untrained, keep_error, memory_limit,
    )  # fmt: skip
    _require(asked, signs)
    skipped = whole(positions_skipped, "skipped")
    places = Places.of(model, site, _layers(model, layers), skipped)
    split, rows = job.split(seed, test), rows_of(model, tokens)
    measured, by_label = (metric, answer, wrong), _by_label(job, split, seed)
    told = Told(job, places, asked, measured, by_label)
    told.read(rows, split)
    told.all_layers(VARIABLES)
    told.check()
    if untrained:
        other = make_untrained(model, seed)
        there = Places.of(other, site, places.layers, skipped)
        beside = Told(job, there, asked, measured, by_label, beside=True)
        with other.running():
            beside.read(rows, split)
            beside.all_layers(VARIABLES)


def _by_label(job: Job, split: Split, seed: int) -> ByLabel | None:
    """The labels of the texts, where they have several."""
    labels = job.labels(needed=False)
    if len(set(labels)) == 1:
        job.remark(f"All texts have the label {labels[0]!r}, so that nothing is said by label.")
    return ByLabel(labels, job.groups(), split, seed) if len(set(labels)) > 1 else None


def _require(asked: Asked, signs: str) -> None:
    for name, given, known in (("unit", asked.unit, UNITS), ("signs", signs, SIGNS)):
        if given not in known:
            raise InputError(f"{name} is {given!r}; expected one of {', '.join(known)}.")
    least = {"r": 2, "designs": 2, "explain": 1, "longest": 2, "most": 2, "starts": 0, "k": 1}
    for name, lowest in least.items():
        value = getattr(asked, name)
        if whole(value, name) < lowest:
            raise InputError(f"{name} is {value}; expected a number from {lowest}.")
