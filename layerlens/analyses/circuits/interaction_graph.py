"""What coordinates of a state pass on to those of the next, and whether they form modules."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from layerlens.analyses.circuits.basis_cell import open_coordinates
from layerlens.analyses.circuits.basis_graph import BasisGraph
from layerlens.analyses.circuits.basis_states import BasisStates
from layerlens.analyses.circuits.graph import VARIABLES as GRAPH
from layerlens.analyses.circuits.interaction_basis import VARIABLES as BASIS
from layerlens.analyses.circuits.interaction_basis import (
    halves,
    names_of,
    require_foretold,
    require_options,
)
from layerlens.analyses.contract.cells import Opened, Place
from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.errors import Cancelled, InputError

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_OWN = {
    "node_position": Variable(("node",), "int32", "1", "column: the module of a coordinate"),
    "feature": Variable(("node",), "int32", "1", "number of the coordinate, the strongest first"),
    "weight": Variable(
        ("link",),
        "float32",
        "1",
        "variance that the source passes on, by the target's own",
        formula="mean of squared derivatives, times the source's variance, by the target's",
    ),
}
VARIABLES = {
    **{
        name: _OWN.get(name, variable)
        for name, variable in GRAPH.items()
        if name not in ("activation", "probability")
    },
    "link_effect": Variable(
        ("link",), "float32", "1", "what moves in the target without the source, by its variance"
    ),
    "modularity": Variable((), "float64", "1", "modularity of the links"),
    "modularity_shuffled": Variable(
        (), "float64", "1", "modularity of links that were dealt out anew, mean"
    ),
    "modularity_shuffled_high": Variable(
        (), "float64", "1", "modularity of links that were dealt out anew, largest"
    ),
    "agreement": Variable(
        (), "float64", "1", "rank correlation of links with what taking a source away changes",
        signed=True,
    ),
    "agreement_shuffled": Variable(
        (), "float64", "1", "rank correlation of links with the changes of other links",
        signed=True,
    ),
    "share": Variable(("point", "coordinate"), "float64", "1", BASIS["share"].long_name,
                      hidden=True),
    **{name: BASIS[name] for name in ("read", "write", "mean")},
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any,
    top: int,
    draws: int,
    sample: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; a way back counts as two passes."""
    starts = model.layers(layers)
    share = min(1.0, sample / sum(tokens.lengths))
    above = 1 - starts[0] / model.n_layers
    fitted = 1 + above * (1 + 2 * draws * (1 + top))
    tried = 1 + above * 2 * top
    used, points = round(share * sum(tokens.lengths)), len(starts) + 1
    rows = round(used * (draws + top) / 2)
    states = used * points * model.d_model * model.dtype.itemsize
    held = states + 6 * 4 * 256 * model.d_vocab + 12 * 8 * model.d_model**2
    return Work(share * (fitted + tried) / 2, rows, held)


def open_node(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    place: Place,
    *,
    layers: Any,
    predict: str,
    skip_first: bool | int,
    seed: int,
    **_: Any,
) -> Opened:
    """Take the coordinates of a node's state away, each alone."""
    name, *number = str(place.need("node")).rsplit(" ", 1)
    if not number:
        raise InputError("The logits are no coordinate: open a node below them.")
    here = replace(place, labels={"point": name, "coordinate": int(number[0])})
    return open_coordinates(
        job, model, tokens, here,
        layers=layers, predict=predict, kept=None, skip_first=skip_first, seed=seed,
    )  # fmt: skip


@analysis(
    name="interaction_graph",
    question="What do the coordinates of a state pass on to those of the next, and are there "
    "modules of them?",
    source="Bushnaq et al. (2024), The Local Interaction Basis, arXiv 2405.10928; Blondel et al. "
    "(2008), Fast Unfolding of Communities in Large Networks, arXiv 0803.0476",
    cost="half of the texts: draws (top + 1) passes back from each state to the one before; the "
    "other half: 2 top passes",
    view="graph",
    lead="A circle is a coordinate of a state, darker where more of what the logits change runs "
    "through it; rows are states from the embedding up, columns are modules. A link is the "
    "variance that a coordinate passes on, in units of the upper one's own. Modules say something "
    "where their modularity is more than that of links dealt out anew. Choose a coordinate to see "
    "its links, really cut in other texts, and open it to take it away.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    pooled=True,
    gradients=True,
    opens=open_node,
)
def interaction_graph(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layers: Any = None,
    predict: Literal["all", "last"] = "all",
    top: int = 6,
    draws: int = 4,
    shuffles: int = 20,
    sample: int = 1024,
    skip_first: bool | int = True,
    seed: int = 0,
) -> None:
    """Follow the strongest coordinates of each state from the logits down, and group them.

    The coordinates are those of ``ll.interaction_basis``: they vary independently, and what follows
    depends on them independently. Between two states a link says how much variance the upper
    coordinate gets from the lower one, in units of its own; Louvain's method groups coordinates so
    that most of this stays inside groups.

    Parameters
    ----------
    layers
        Blocks whose input is looked at, negative from the end; None for all. The state after the
        last block always is. What lies between two of them is one step.
    predict
        Which next tokens count: ``"all"``, or the ``"last"`` token of each text.
    top
        How many coordinates of each state, the strongest.
    draws
        Random signs for each token and coordinate, each with a backward pass.
    shuffles
        How many graphs the modularity is compared with, in which each coordinate deals its links
        upwards out anew.
    sample
        How many tokens are used, at most; each keeps its states.
    skip_first
        Leave out the first token of each text (or so many); its state stays what it is.
    seed
        Of the halves, the signs, the shuffled links and Louvain's order.

    Notes
    -----
    The basis, squared derivatives as links and modules by Louvain's method are the source's; it
    works with small networks. The strongest coordinates alone, random signs, links in units of
    variances, links dealt out anew and the true runs are ours. Coordinates and ``weight`` are of
    half of the texts. In the others each coordinate is set to its mean at all tokens that count,
    and the blocks run on: ``link_effect`` is how far the upper coordinate moves (mean square by its
    variance), ``agreement`` the rank correlation of both over all links. Where all is linear and
    tokens vary independently the two are the same.

    A layered graph has modularity without any modules, as its links are between neighbours only;
    that of ``modularity_shuffled`` has, too, and each coordinate in it sends as much as before.
    ``influence`` is the share of what the logits change that runs through a coordinate, over the
    links that are drawn.

    Raises
    ------
    InputError
        There are fewer than 4 texts, too few tokens count, a state has fewer coordinates than
        `top`, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:modular")
    >>> texts = [f"{a} + {b} = {(a + b) % 113}" for a, b in ((3, 5), (70, 60), (9, 8), (50, 1))]
    >>> found = ll.interaction_graph(model, texts, top=2, shuffles=2)
    >>> found.data.node.values.tolist(), found.data.sizes["link"]
    (['logits', '0_post 1', '0_post 2', 'embed 1', 'embed 2'], 6)
    """
    require_options(predict, top=top, draws=draws, shuffles=shuffles, sample=sample)
    starts = model.layers(layers)
    read = partial(
        BasisStates, model, starts=starts, last=predict == "last", skip=int(skip_first),
        tick=job.tick,
    )  # fmt: skip
    own, apart = halves(tokens, sample, seed)
    graph = BasisGraph(
        job,
        read(tokens.chosen(own), for_autograd=True),
        read(tokens.chosen(apart), for_autograd=False),
        names_of(model, starts),
        top,
        draws,
        seed,
    )
    require_foretold(graph.own, graph.apart)
    _declare(job, model, graph)
    try:
        graph.follow()
    except Cancelled:
        graph.close()
        raise
    graph.group(shuffles)
    graph.check()


def _declare(job: Job, model: LensModel, graph: BasisGraph) -> None:
    """Say which nodes there will be, and room for links."""
    labels = np.array(graph.nodes, dtype=object)
    job.declare(
        {
            "node": len(labels),
            "link": graph.links,
            "point": graph.points,
            "coordinate": graph.top,
            "width": model.d_model,
        },
        {
            "node": (("node",), labels),
            "words": (("node",), labels),
            "point": (("point",), np.array(graph.names)),
            "point_layer": (("point",), np.array(graph.own.ends, dtype=np.int32) - 1),
            "coordinate": (("coordinate",), np.arange(1, graph.top + 1, dtype=np.int32)),
        },
    )
