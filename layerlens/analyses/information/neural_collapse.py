"""Down the layers, how texts of one label gather around one point, as a classifier sees it too."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.information.class_geometry import Geometry, class_means, geometry
from layerlens.analyses.information.label_classifier import Agreement
from layerlens.analyses.information.label_readers import PROBE, ProbeOfLabels, WordsOfLabels
from layerlens.analyses.information.text_states import pooled, require_pool
from layerlens.analyses.sweeps.clean_pass import passes
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.model.integers import is_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SHARES = (0.05, 0.5, 0.95)
LABELS = ("given", *(f"shuffled ({100 * share:.0f} %)" for share in SHARES))
_DIMS = ("point", "labels")
VARIABLES = {
    "nc1": Variable(
        _DIMS,
        "float64",
        "1",
        "scatter within labels, in units of that between them (NC1)",
        formula="tr(S_W pinv(S_B)) / C",
    ),
    "equinorm": Variable(
        _DIMS,
        "float64",
        "1",
        "spread of the lengths of centred label means (NC2)",
        formula="std |m_c - m| / mean |m_c - m|",
    ),
    "equiangle": Variable(
        _DIMS,
        "float64",
        "1",
        "distance of their cosines from a simplex's (NC2)",
        formula="mean |cos(m_c - m, m_d - m) + 1 / (C - 1)|",
    ),
    "nearest_mean_error": Variable(
        _DIMS,
        "float64",
        "1",
        "share of texts not nearest to the mean of the others of their label",
    ),
    "equinorm_weights": Variable(
        _DIMS,
        "float64",
        "1",
        "spread of the lengths of the classifier's rows (NC2)",
        formula="std |w_c - w| / mean |w_c - w|",
    ),
    "equiangle_weights": Variable(
        _DIMS,
        "float64",
        "1",
        "distance of these rows' cosines from a simplex's (NC2)",
        formula="mean |cos(w_c - w, w_d - w) + 1 / (C - 1)|",
    ),
    "duality": Variable(
        _DIMS,
        "float64",
        "1",
        "distance of the classifier's rows from label means (NC3); 2 at right angles",
        formula="|W / |W| - M / |M||^2",
    ),
    "disagreement": Variable(
        _DIMS,
        "float64",
        "1",
        "share of texts that classifier and nearest mean label otherwise (NC4)",
    ),
}
GEOMETRY = tuple(VARIABLES)[: len(Geometry._fields)]
AGREEMENT = tuple(VARIABLES)[len(GEOMETRY) :]


def count_work(
    model: LensModel, tokens: Tokens, *, batch_size: int | None, shuffles: int, **_: Any
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    points, texts = model.n_layers + 1, len(tokens.ids)
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    states = 8 * points * texts * model.d_model
    operations = 6.0 * points * (shuffles + 1) * texts**2 * model.d_model
    held = states + points * widest * model.d_model * model.dtype.itemsize
    return Work(1, 0, held, operations=operations)


@analysis(
    name="neural_collapse",
    question="From which layer on do texts of one label gather around one point?",
    source="Papyan, Han and Donoho (2020), Prevalence of Neural Collapse during the terminal phase "
    "of deep learning training, arXiv 2008.08186",
    cost="1 pass, and the arithmetic of each draw of shuffled labels",
    view="panels",
    lead="Where NC1 and the share of texts not nearest to their label lie below those of shuffled "
    "labels, states gather by label; at 0 each label is a point (NC1), these points are the "
    "corners of a simplex (NC2), and a classifier's rows point at them (NC3) and label texts as "
    "the nearest of them does (NC4).",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    effects={"ridge": among("classifier", PROBE)},
)
def neural_collapse(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    pool: str = "last",
    variant: str = "paper",
    classifier: str | Mapping[Any, str | int] | None = PROBE,
    ridge: float = 0.01,
    shuffles: int = 40,
    seed: int = 0,
    skip_first: bool | int = False,
    batch_size: int | None = None,
) -> None:
    """Measure the geometry of labelled texts after each layer.

    The texts are labelled, ``ll.texts(texts, label=[...])``, and each is one state: that of its
    last token, or the mean of its tokens. NC1 compares the scatter of states around the mean of
    their label with that of the means themselves; NC2 says how far these are from a simplex, the
    shape in which they are as far from each other as they can be.

    Parameters
    ----------
    pool
        ``last``: the state of a text's last token; ``mean``: the mean of its tokens.
    variant
        Of NC1: ``paper`` divides by the number of labels, the code published with it
        (``reference``) does not.
    classifier
        Whose rows are compared with the means. ``probe``: least squares with a ridge, fitted on
        one half of the texts of each label; a mapping from each label to a word: the rows of these
        tokens in the model's own head, which are compared with states as the head is given them;
        None: nothing is compared.
    ridge
        Of the probe, in units of the mean squared length of a centred state.
    shuffles
        How many times labels are dealt out anew, as a control.
    seed
        Of the shuffled labels, and of the halves.
    skip_first
        Leave out the first token of each text (or so many) from the means.
    batch_size

    Notes
    -----
    Means of few texts fit whatever labels there are: with fewer texts of a label than a state has
    entries, NC1 is small for shuffled labels, too, so only what lies outside the shares of the
    ``shuffled`` draws says something. With two labels the cosine of their means is -1 whatever they
    are, and ``equiangle`` and ``equinorm`` are 0.

    Where all states are the same, as those of a common last token are before the first block, no
    label has a place and everything is NaN.

    What is published is of a trained classifier's last layer. At other depths, and for labels of
    one's own, ``classifier`` stands in its place: ``classifier`` among the attributes says which.
    Either way the means of NC3 are of texts that it was not fitted on, and NC4 asks of these texts
    whether they are given the label whose mean over the other half is nearest. Shuffled labels go
    to the probe as well; words keep their rows, so that for these the ``shuffled`` draws of
    ``equinorm_weights`` and ``equiangle_weights`` are as many random tokens.

    ``nearest_mean_error`` is the error of the nearest mean itself, with each text left out of the
    mean that it is compared with.

    Raises
    ------
    InputError
        An option does not fit, texts lack labels, there are fewer than two labels, or a label has
        a single text, no word, or a single group of texts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ll.texts(["cat dog", "owl dog", "ant bee", "fox bee"], label=[0, 0, 1, 1])
    >>> found = ll.neural_collapse(model, texts)
    >>> float(found.data.nearest_mean_error.sel(labels="given")[0])
    0.0
    """
    require_pool(pool, skip_first, tokens)
    _require(variant, shuffles, ridge)
    names, place = _classes(job.labels(), len(tokens.ids))
    if len(names) > model.d_model + 1:
        job.remark(
            f"{len(names)} labels have no simplex in {model.d_model} dimensions: NC2 cannot be 0."
        )
    read: ProbeOfLabels | WordsOfLabels | None = None
    if classifier == PROBE:
        read = ProbeOfLabels(job, place, shuffles, seed, ridge)
    elif classifier is not None:
        read = WordsOfLabels(job, model, place, shuffles, seed, names, classifier)
    points = ["embed", *(f"{layer}_post" for layer in range(model.n_layers))]
    job.declare(
        {"point": len(points), "labels": len(LABELS)},
        {
            "point": (("point",), np.array(points)),
            "labels": (("labels",), np.array(LABELS)),
            "layer": (("point",), np.arange(-1, model.n_layers, dtype=np.int32)),
        },
        only=list(VARIABLES) if read else GEOMETRY,
    )
    states = np.empty((len(points), len(tokens.ids), model.d_model))
    for one in passes(model, tokens, skip_first, batch_size, job.tick):
        states[:, one.batch.numbers] = pooled(one, pool)
    job.note(passes=1, label_sizes=", ".join(map(str, np.bincount(place))))
    averaged = variant == "paper"
    random = np.random.default_rng(seed)
    dealt = [place, *(random.permutation(place) for _ in range(shuffles))]
    for point, here in enumerate(states):
        drawn = []
        for labels in dealt:
            job.tick()
            drawn.append(geometry(here, labels, averaged=averaged))
        job.emit({"point": point}, _quantiles(GEOMETRY, drawn))
        if read:
            job.emit({"point": point}, _quantiles(AGREEMENT, read.at(here)))
        job.progress(point + 1, len(states), "depths")
    _check(job, model, row_of(tokens, 0), states, place, (pool, skip_first))
    if read:
        read.check(states[-1], row_of(tokens, 0), pool)


def _require(variant: str, shuffles: int, ridge: float) -> None:
    if variant not in ("paper", "reference"):
        raise InputError(f"variant is {variant!r}; expected paper or reference.")
    if not is_whole(shuffles) or shuffles < 1:
        raise InputError(f"shuffles is {shuffles!r}; expected a whole number, at least 1.")
    if not 0 < ridge < np.inf:
        raise InputError(f"ridge is {ridge!r}; expected a positive number.")


def _classes(labels: Sequence[Any], rows: int) -> tuple[list[Any], np.ndarray]:
    """The labels there are, and the number of each text's."""
    if len(labels) != rows:
        raise InputError(
            f"There are {len(labels)} labels for {rows} rows: leave empty texts out, and do not "
            "cut or pack them."
        )
    sizes = Counter(labels)
    names = list(sizes)
    if len(names) < 2:
        raise InputError(f"All texts are labelled {names[0]!r}: give texts of two labels or more.")
    single = [name for name in names if sizes[name] < 2]
    if single:
        raise InputError(
            f"Label {single[0]!r} has a single text, which has no scatter: give it another, or "
            "leave it out."
        )
    return names, np.array([names.index(label) for label in labels])


def _quantiles(
    names: Sequence[str], drawn: Sequence[Geometry | Agreement]
) -> dict[str, np.ndarray]:
    """Of each measure that of the labels given, and the shares of the shuffled ones."""
    values = np.array(drawn)
    columns = np.vstack([values[0], np.quantile(values[1:], SHARES, axis=0)])
    return dict(zip(names, columns.T, strict=True))


def _check(
    job: Job,
    model: LensModel,
    first: Tokens,
    states: np.ndarray,
    place: np.ndarray,
    how: tuple[str, bool | int],
) -> None:
    """Compare with the first text by itself, and the parts of the scatter with the whole."""
    (alone,) = passes(model, first, how[1], None, job.tick)
    size = max(1.0, float(np.abs(states[:, 0]).max()))
    off = float(np.abs(pooled(alone, how[0])[:, 0] - states[:, 0]).max()) / size
    what = "states of the first text by itself against those of its batch, of the largest entry"
    job.check("alone as in a batch", off, logit_tolerance(model.dtype), what)
    last = states[-1]
    means, sizes = class_means(last, place)
    whole = ((last - last.mean(0)) ** 2).sum()
    within = ((last - means[place]) ** 2).sum()
    between = (sizes[:, None] * (means - last.mean(0)) ** 2).sum()
    what = "scatter within and between labels against all scatter, of it"
    job.check("scatter adds up", abs(whole - within - between) / max(whole, 1e-300), 1e-9, what)
