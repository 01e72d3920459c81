"""Whether the neurons of an MLP fall into modules: by when they fire, and by what they read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.neurons.module_run import CONTROLS, ModuleRun
from layerlens.analyses.texts.one_each import one_each
from layerlens.errors import InputError
from layerlens.metrics.layer import sites_of
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_MODULE = ("module",)
VARIABLES = {
    "cofiring": Variable(
        ("module", "fires_with"),
        "float64",
        "1",
        "how neurons of two modules fire together",
        signed=True,
        formula="mean phi coefficient over pairs of different neurons",
    ),
    "firing": Variable(
        ("module", "group"), "float64", "1", "share of tokens at which its neurons fire"
    ),
    "size": Variable(_MODULE, "int32", "neurons", "neurons of the module"),
    "loss_change": Variable(
        _MODULE, "float64", "nats", "change of the loss with the module at 0", signed=True
    ),
    "loss_change_chance": Variable(
        _MODULE, "float64", "nats", "change of the loss with as many other neurons at 0",
        signed=True,
    ),
    **{
        f"loss_change_chance_{end}": Variable(
            _MODULE, "float64", "nats", f"{words} of the sets of other neurons", signed=True
        )
        for end, words in (("low", "least"), ("high", "largest"))
    },
    "modularity": Variable((), "float64", "1", "modularity of the modules"),
    "modularity_chance": Variable((), "float64", "1", "modularity of rewired graphs, mean"),
    "modularity_chance_high": Variable((), "float64", "1", "modularity of rewired graphs, largest"),
    "modularity_shuffled": Variable(
        (), "float64", "1", "modularity when each neuron fires at other tokens"
    ),
    "agreement": Variable(
        (), "float64", "1", "agreement with groups by weights",
        formula="adjusted Rand index of both groupings",
    ),
    "agreement_chance": Variable((), "float64", "1", "agreement of shuffled labels, largest"),
    "again": Variable((), "float64", "1", "agreement of modules found in either half of the texts"),
    "loss": Variable((), "float64", "nats", "loss of the model as it is"),
    "module_of": Variable(
        ("neuron",), "int32", "1", "module of each neuron, -1: of none shown", hidden=True
    ),
}  # fmt: skip


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layer: int,
    modules: int,
    most: int,
    sample: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    neurons = min(most, 4 * model.d_model)
    known = min(sample, sum(tokens.lengths))
    runs = (1 + (1 + CONTROLS) * modules) / 2
    size = 20 * neurons**2 + 13 * known * neurons  # float32 and its order; activations and fired
    return Work(
        1 + runs, round(runs * sum(tokens.lengths)), size, operations=8.0 * known * neurons**2
    )


@analysis(
    name="neuron_modules",
    question="Do the neurons of an MLP fall into modules, and does the model need them as such?",
    source="Zhang et al. (2022), MoEfication, arXiv 2110.01786 (groups by weights); Xiao et al. "
    "(2024), Configurable Foundation Models, arXiv 2409.02877; Blondel et al. (2008), Fast "
    "Unfolding of Communities in Large Networks (Louvain)",
    cost="1 pass as far as the layer; 1 pass over half of the texts for each module, and 3 for as "
    "many other neurons",
    view="grid",
    lead="Neurons of a module fire together: a row is a module. There are modules where the "
    "modularity lies above that of rewired graphs and of neurons that fire at other tokens.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    pooled=True,
    positional=("layer",),
)
def neuron_modules(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layer: int = 0,
    groups: Sequence[str] | None = None,
    share: float = 0.1,
    neighbours: int = 10,
    modules: int = 12,
    draws: int = 10,
    most: int = 4096,
    sample: int = 4096,
    skip_first: bool | int = True,
    seed: int = 0,
) -> None:
    """Find the modules of one MLP's neurons, and set each to 0 in texts that were not used.

    A neuron fires at the ``share`` of tokens at which its own magnitude is largest. Two neurons are
    joined where they fire at the same tokens (phi coefficient), each with its few nearest, and
    Louvain's method finds the modules of that graph. Half of the texts are used for that; in the
    others each module is set to 0, beside three sets of as many other neurons.

    Parameters
    ----------
    layer
        Whose MLP, negative from the end.
    groups
        A word for each text: ``firing`` is then told for each of them.
    share
        Of its tokens at which a neuron fires.
    neighbours
        Of each neuron in the graph.
    modules
        How many are shown and tried, the largest.
    draws
        How many rewired graphs, shuffles and shuffled labels there are.
    most
        Of wider MLPs so many neurons are drawn.
    sample
        How many tokens are kept, at most.
    skip_first
        Leave out the first token of each text (or so many).
    seed
        Of all draws.

    Notes
    -----
    ``modularity`` is Q of the weighted graph. Any sparse graph has a Q above 0: it is compared with
    that of graphs in which every neuron has as many neighbours, but other ones, and of neurons that
    fire as often, but at other tokens. ``agreement`` compares the modules with equal groups of the
    neurons' first weights (balanced k-means; those of the gate, where there is one), ``again`` with
    those found in the other half of the texts. Of the sources are groups by weights and by firing
    together; phi, the graph of nearest neurons, the controls and the ablations are ours.

    Memory grows with the square of the neurons, at most of ``most``.

    Raises
    ------
    InputError
        There are fewer than 4 texts, too few tokens count, or an option does not fit.
    SiteError
        The layer's MLP has no neurons that could be watched.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> found = ll.neuron_modules(model, texts, 1, draws=2, modules=2)
    >>> found.data["size"].sizes
    Frozen({'module': 2})
    """
    least = {"neighbours": 1, "modules": 1, "draws": 1, "most": 4, "sample": 8}
    given = {"neighbours": neighbours, "modules": modules, "draws": draws, "most": most,
             "sample": sample}  # fmt: skip
    for name, low in least.items():
        if whole(given[name], name) < low:
            raise InputError(f"{name} is {given[name]}; expected {low} or more.")
    if not 0 < share < 1:
        raise InputError(f"share is {share}; expected a share between 0 and 1.")
    if len(tokens.ids) < 4:
        raise InputError(
            f"Texts given: {len(tokens.ids)}; expected 4 or more: half of them find the modules, "
            "and the others try them."
        )
    [number] = model.layers(layer)
    sites_of(model, "mlp_post", number)
    words = (
        None
        if groups is None
        else [str(one) for one in one_each(groups, len(tokens.ids), "groups")]
    )
    run = ModuleRun(job, model, tokens, number, int(skip_first), np.random.default_rng(seed))
    run.find(words, share, neighbours, modules, draws, (most, sample), seed)
    run.try_modules()
