"""The facets of one neuron: the kinds of places that excite it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.features.facets.facet_cell import open_context
from layerlens.analyses.features.facets.told import CLOUDS, Told
from layerlens.analyses.features.page.reading import passes_of
from layerlens.analyses.lenses.fitting.documents import BATCH_TOKENS, read_rows, rows_of
from layerlens.analyses.neurons.places import neuron_places
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.metrics.top_activations import SIDES
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SINGLE = 0.1
"""Mean silhouette below which groups are none."""
STABLE = 0.8
"""Adjusted Rand index below which groups are an accident of the start."""
_NUMBER, _FACET, _EXAMPLE = ("groups",), ("facet",), ("example",)
_CLEAR = "mean silhouette of"
VARIABLES = {
    "silhouette": Variable(
        _NUMBER, "float64", "1", f"{_CLEAR} the neuron", signed=True,
        source="Rousseeuw (1987), Silhouettes",
    ),
    "silhouette_chance": Variable(
        _NUMBER, "float64", "1", f"{_CLEAR} one cloud without groups", signed=True
    ),
    "silhouette_baseline": Variable(
        _NUMBER, "float64", "1", f"{_CLEAR} random places", signed=True
    ),
    "random_silhouette": Variable(
        _NUMBER, "float64", "1", f"{_CLEAR} other neurons", signed=True
    ),
    "places": Variable(_FACET, "int32", "places", "places of the facet"),
    "share": Variable(_FACET, "float64", "1", "share of the places"),
    "mean_activation": Variable(_FACET, "float64", "activation", "mean activation", signed=True),
    "own_silhouette": Variable(
        _FACET, "float64", "1", "mean silhouette of the facet's places", signed=True
    ),
    "token": Variable(("facet", "rank"), "int32", "1", "tokens of the facet", is_token=True),
    "of_facet": Variable(
        _EXAMPLE, "int32", "1", "places nearest to the centre of their facet, and its number"
    ),
    "activation": Variable(_EXAMPLE, "float64", "activation", "activation there", signed=True),
    "text": Variable(_EXAMPLE, "int32", "1", "number of the text, from 0"),
    "position": Variable(_EXAMPLE, "int32", "1", "position in its row, from 0"),
    "facets": Variable((), "int32", "facets", "facets of the neuron"),
    "contexts": Variable((), "int32", "places", "places that were grouped"),
    "counted": Variable((), "int32", "tokens", "tokens that were read"),
    "cloud_limit": Variable(
        (), "float64", "1", "largest mean silhouette of 19 clouds in as many groups", signed=True,
        source="Liu, Hayes, Nobel and Marron (2008), Statistical Significance of Clustering for "
        "High-Dimension, Low-Sample Size Data",
    ),
    "stability": Variable(
        (), "float64", "1", "adjusted Rand index with other starts of k-means",
        source="Hubert and Arabie (1985), Comparing partitions",
    ),
    "half_stability": Variable(
        (), "float64", "1", "adjusted Rand index with groups that half of the places give the rest"
    ),
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    layer: int,
    contexts: int,
    most: int,
    draws: int,
    seeds: int,
    **_: Any,
) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    [block] = model.layers(layer)
    kept = min(contexts, len(rows))
    fits = (3 + draws) * max(0, most - 1) + 2 * seeds + CLOUDS
    size = 4 * model.d_model * (kept * (2 + draws) + 4 * BATCH_TOKENS)
    # Some ten starts of k-means take some ten rounds each.
    operations = fits * 100 * 2.0 * kept * most * min(kept, model.d_model)
    return Work((block + 1) / model.n_layers, 0, size, tokens=fed, operations=operations)


@analysis(
    name="facets",
    question="Is one neuron excited by one kind of thing, or by several?",
    source="Nguyen, Yosinski and Clune (2016), Multifaceted Feature Visualization, arXiv "
    "1602.03616; the build for texts is ours",
    cost="1 pass as far as the layer",
    view="panels",
    lead="A neuron has several facets where its silhouette lies above all of its controls and "
    "above 0.1, and other starts give the same groups: read the places of each, and open one for "
    "its whole text.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("layer", "number"),
    opens=open_context,
)
def facets(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    layer: int = 0,
    number: int = 0,
    contexts: int = 200,
    above: float = 0.5,
    most: int = 6,
    each: int = 5,
    side: str = "largest",
    draws: int = 4,
    seeds: int = 4,
    around: int = 8,
    seed: int = 0,
    skip_first: bool | int = True,
) -> None:
    """Group the places that excite a neuron most by the states that they stand in.

    Of each text the place with the largest activation counts. The state there that the MLP reads
    (``resid_mid``; ``resid_pre`` where attention and MLP run side by side), divided by its norm,
    is what k-means groups; the number of groups is that of the largest mean silhouette.

    Parameters
    ----------
    layer, number
        Of the neuron; the layer negative from the end.
    contexts
        How many places at most, one in a text, the strongest.
    above
        Only places with more than this share of the largest activation.
    most
        The largest number of facets.
    each
        How many places of a facet are shown: those nearest to its centre.
    side
        ``"largest"`` activations, ``"smallest"``, or those of the largest ``"magnitude"``.
    draws
        How many other neurons of the layer are grouped in the same way; 0 for none.
    seeds
        How many other starts, and how many halves, the groups are compared with.
    around
        Tokens shown on either side of a place.
    seed
        Of k-means, the other neurons, and all that is drawn.
    skip_first

    Notes
    -----
    With a largest mean silhouette below 0.1, or not above that of each of 19 clouds without groups
    (`cloud_limit`), the neuron has a single facet, whatever k-means makes of it. Three controls
    say what silhouettes are without facets of this neuron: places drawn at random, one in a text
    (``silhouette_baseline``; where they are as clear, a note says so); the strongest places of
    other neurons (`random_silhouette`, their mean); and as many draws of one Gaussian that is as
    wide in every direction (``silhouette_chance``). ``stability`` below 0.8 says that the groups
    are an accident of where k-means began. Facets are ordered by their size.

    Multifaceted feature visualization makes an image of each group of a neuron's best images; here
    the places themselves are read. Silhouette, clouds and stability are added.

    Raises
    ------
    InputError
        The neuron does not exist, is never active on that side, no token counts, or an option does
        not fit.
    SiteError
        The layer has no neurons that could be watched, such as one made of experts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl {b} cat" for a in ("bee", "ant") for b in ("emu", "hen", "fox")]
    >>> found = ll.facets(model, texts, 1, 7, draws=1)
    >>> int(found.data.places.sum()) == int(found.data.contexts), found.checks.ok
    (True, True)
    """
    least = {"contexts": (contexts, 2), "most": (most, 2), "each": (each, 1), "draws": (draws, 0),
             "seeds": (seeds, 1), "around": (around, 0)}  # fmt: skip
    for name, (value, lowest) in least.items():
        if whole(value, name) < lowest:
            raise InputError(f"{name} is {value}; expected a number from {lowest}.")
    if side not in SIDES:
        raise InputError(f"side is {side!r}; expected one of {', '.join(SIDES)}.")
    if not 0 <= above < 1:
        raise InputError(f"above is {above}; expected a share from 0 to below 1.")
    [place] = neuron_places(model, (layer, number))
    told = Told(job, model, place, (draws, whole(seed, "seed")), (above, most, seeds))
    told.watch(contexts, side, int(skip_first))
    total = None if isinstance(tokens, Texts) else len(tokens.ids)
    for batch, rows in passes_of(model, read_rows(model, tokens)):
        told.read(batch, rows, total)
    told.choose(SINGLE)
    told.declare(VARIABLES, each, around)
    told.facets(each)
    told.controls()
    told.stable(STABLE)
    told.check()
