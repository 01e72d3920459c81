"""The graph of a task: which part passes what differs between two texts to which other part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.circuits.edge_cell import open_edges
from layerlens.analyses.circuits.edge_graph import VARIABLES, EdgeGraph
from layerlens.analyses.circuits.edge_nodes import parts_of
from layerlens.analyses.circuits.edge_scores import EdgeScores
from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.provenance import named_texts
from layerlens.analyses.texts.text_pair import Align, make_pairs
from layerlens.analyses.tracing.head_edges import Edges
from layerlens.errors import Cancelled, InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import MetricFunction
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def count_work(
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    steps: int,
    most_edges: int,
    verify: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    parts, length = parts_of(model), clean.ids.shape[1]
    passes = 3 + 3 * steps + len(parts) + 2 * 2 * verify
    state = 4 * length * model.d_model * model.n_layers
    return Work(passes, 2 + steps + 2 * verify, 20 * state + 100 * most_edges)


@analysis(
    name="edge_attribution",
    question="Which part passes what differs between two texts to which other part?",
    source="Syed, Rager and Conmy (2023), Attribution Patching Outperforms Automated Circuit "
    "Discovery, arXiv 2310.10348; Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, "
    "arXiv 2403.17806 (steps)",
    cost="3 passes and a backward pass for each part; 4 for each edge that is verified",
    view="graph",
    lead="The tokens below, the answer above, parts of the model between them. A link is what its "
    "lower part changes, carried to the upper one alone; blue links move the answer to what it is "
    "for the other text, red ones away from it. Choose a part, and open it to patch its links.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal", "attention", "gradients"),
    inputs=("clean", "corrupt"),
    opens=open_edges,
)
def edge_attribution(
    job: Job,
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    direction: str = "noise",
    align: Align | None = None,
    metric: str | MetricFunction = "logit_diff",
    answer: str | int | None = None,
    wrong: str | int | None = None,
    steps: int = 5,
    most_edges: int = 100,
    verify: int = 12,
    seed: int = 0,
) -> None:
    """Estimate every edge between parts of a model, draw the strongest, and cut some to see.

    Parts are the tokens (the state before the first layer), heads, MLPs and the answer; heads that
    share their keys and values are one part. An edge is what one part adds to the stream, as
    another one reads it: patching it gives that reader, and nobody else, the sender's output in the
    other text. ``weight`` estimates by how much that changes the metric, as a share of the
    difference between the two texts; ``link_effect`` is what it really changes, for the strongest
    edges and for as many drawn at random.

    Parameters
    ----------
    direction
        ``"noise"``: corrupted outputs into the clean run; ``"denoise"``: the other way.
    align
        As in ``ll.patch_sweep``.
    metric
    answer
    wrong
    steps
        Derivatives are averaged over so many inputs on the straight way between the embeddings of
        both texts (EAP-IG), which helps where a first step misleads; 1: only at the text that is
        changed (EAP).
    most_edges
        How many of the strongest are kept; those that lead nowhere are left out of them.
    verify
        How many of the strongest edges are really patched, and how many of all edges at random.
    seed
        Of those drawn.

    Notes
    -----
    All positions are patched together, so an edge says nothing of where in the text it acts.
    What enters a head's queries, keys and values is added up. An estimate is of first order: it is
    exact where the model is linear, and worst at early parts and saturated attention. Attributes
    ``estimate_spearman`` and ``estimate_spearman_random`` compare it with what was really patched.
    ``influence`` of a part is the share of what enters the answer that runs through it over the
    kept edges. When it is stopped, the graph of what was followed by then, from the answer down, is
    handed over.

    Raises
    ------
    InputError
        Several pairs were given, an option does not fit, or the metric has no derivative.
    ModelError
        The model has no attention, or no gradients.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.edge_attribution(model, "cat dog bee cat", "dog cat bee cat", verify=2)
    >>> found.data.node.values[0], sorted(found.data.sizes)
    ('tokens', ['link', 'node'])
    """
    for name, value, least in (("steps", steps, 1), ("most_edges", most_edges, 1),
                               ("verify", verify, 0)):  # fmt: skip
        if whole(value, name) < least:
            raise InputError(f"{name} is {value}; expected {least} or more.")
    pairs = make_pairs(clean, corrupt, align, direction)
    if len(pairs) > 1:
        raise InputError(f"A graph is of one pair and got {len(pairs)}: give one of them.")
    parts = parts_of(model)
    sends = [site for part in parts for site in part.sends]
    receives = [site for part in parts for site in part.receives]
    edges = Edges.make(model, pairs[0], receives, sends, freeze_mlps=True, where=None)
    ends = (edges.base, edges.source)
    first, other = ends if direction == "noise" else ends[::-1]
    measure = make_metric(
        model, metric, final=first.final, other=other.final, answer=answer, wrong=wrong
    )
    job.note(**named_texts({"clean": clean, "corrupt": corrupt}))
    graph = EdgeGraph(job, EdgeScores(edges, parts, measure, steps, job.tick), most_edges)
    receivers = [part for part in reversed(parts) if part.receives or part.name == "answer"]
    try:
        for done, receiver in enumerate(receivers, 1):
            graph.add(receiver)
            job.progress(done, len(receivers), "parts")
        graph.verify(verify, np.random.default_rng(seed))
    except Cancelled:
        if graph.kept:
            graph.hand_over()
        raise
    graph.check()
    graph.hand_over()
