"""The graph of a task: which part passes what differs between two texts to which other part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.answers.answer_metric import make_metric
from layerlens.analyses.circuits.edge_cell import open_edges
from layerlens.analyses.circuits.edge_faithfulness import DEFAULT_SIZES, GRAPHS, sizes_of
from layerlens.analyses.circuits.edge_faithfulness import VARIABLES as FAITHFULNESS
from layerlens.analyses.circuits.edge_graph import VARIABLES, EdgeGraph
from layerlens.analyses.circuits.edge_nodes import Part, edge_count, parts_of
from layerlens.analyses.circuits.edge_scores import EdgeScores
from layerlens.analyses.circuits.kept_edges import KeptEdges, can_keep, graph_passes
from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.provenance import named_texts
from layerlens.analyses.texts.one_each import one_each
from layerlens.analyses.texts.text_pair import Align, Pair, make_pair, make_pairs
from layerlens.analyses.tracing.head_edges import Edges
from layerlens.errors import Cancelled, InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.answers.answer_metric import Metric, MetricFunction
    from layerlens.analyses.contract.parts import Coords
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

RESTS = ("patched", "zero")


def count_work(
    model: LensModel,
    clean: Tokens,
    corrupt: Tokens,
    *,
    steps: int,
    most_edges: int,
    verify: int,
    sizes: Sequence[int],
    draws: int,
    others: Any,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    parts, length = parts_of(model), clean.ids.shape[1]
    asked = sizes_of(sizes, edge_count(parts))
    texts = 1 + (0 if others is None else len(others))
    graphs = texts * (2 + len(asked) * (2 + draws)) if asked and can_keep(model) else 0
    passes = 3 + 3 * steps + len(parts) + 2 * 2 * verify + graphs * graph_passes(model)
    state = 4 * length * model.d_model * model.n_layers
    held = 4 * length * model.d_model * len(parts) * (2 + texts)
    return Work(passes, 2 + steps + 2 * verify, 20 * state * texts + held + 100 * most_edges)


@analysis(
    name="edge_attribution",
    question="Which part passes what differs between two texts to which other part?",
    source="Syed, Rager and Conmy (2023), Attribution Patching Outperforms Automated Circuit "
    "Discovery, arXiv 2310.10348; Hanna, Pezzelle and Belinkov (2024), Have Faith in Faithfulness, "
    "arXiv 2403.17806 (steps)",
    cost="3 passes and a backward pass for each part; 4 for each edge that is verified; for each "
    "graph that is run, a pass for each group of heads of a layer and one",
    view="graph",
    lead="The tokens below, the answer above, parts of the model between them. A link is what its "
    "lower part changes, carried to the upper one alone; blue links move the answer to what it is "
    "for the other text, red ones away from it. Choose a part, and open it to patch its links. "
    "Below: how much of the answer a graph of so many edges keeps by itself; it says something "
    "where random ways to the answer keep less.",
    variables={**VARIABLES, **FAITHFULNESS},
    work=count_work,
    needs=("head", "causal", "attention", "gradients"),
    inputs=("clean", "corrupt"),
    effects={
        **dict.fromkeys(("rest", "draws", "others"), given("sizes")),
        "others_answer": given("others"),
        "others_wrong": given("others"),
    },
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
    sizes: Sequence[int] = DEFAULT_SIZES,
    rest: str = "patched",
    draws: int = 3,
    others: Sequence[tuple[Any, Any]] | None = None,
    others_answer: str | int | list[str | int] | None = None,
    others_wrong: str | int | list[str | int] | None = None,
    seed: int = 0,
) -> None:
    """Estimate every edge between parts of a model, draw the strongest, and cut some to see.

    Parts are the tokens (the state before the first layer), heads, MLPs and the answer; heads that
    share their keys and values are one part. An edge is what one part adds to the stream, as
    another one reads it: patching it gives that reader, and nobody else, the sender's output in the
    other text. ``weight`` estimates by how much that changes the metric, as a share of the
    difference between the two texts; ``link_effect`` is what it really changes, for the strongest
    edges and for as many drawn at random. Then graphs of the strongest edges are run: all other
    edges really are patched, in one run, and ``faithfulness`` is the share of the difference that
    is left, 1 with all edges, 0 with none.

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
    sizes
        How many of the strongest edges the graphs have that are run. Those with all edges or more
        are left out; an empty list is for no graph.
    rest
        What edges that are not of a graph carry: ``"patched"``, what they carry in the other text,
        or ``"zero"``, nothing.
    draws
        How many graphs of random edges there are of each size.
    others
        Pairs of a clean and a corrupted text in which the same graphs are run; None for none.
    others_answer, others_wrong
        Of these, one or one each, as ``answer`` and ``wrong``.
    seed
        Of those drawn.

    Notes
    -----
    All positions are patched together, so an edge says nothing of where in the text it acts.
    What enters a head's queries, keys and values is added up. An estimate is of first order: it is
    exact where the model is linear, and worst at early parts and saturated attention;
    ``estimate_spearman`` compares it with what was really patched.

    In a graph that is run every part reads a stream of its own, so that each edge is cut by itself.
    Beside the strongest edges stand those that changed most of the edges that were patched (only as
    many as were), and random ones, each with a random way from the tokens and to the answer: edges
    drawn without would lead nowhere. Estimates, steps and graphs that are run are the sources';
    these random ways and other texts are ours. Where norms follow the sublayers, heads of one layer
    do not add up: the check then says by how much.

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
    >>> found.data.node.values[0], found.data.faithfulness.dims
    ('tokens', ('edges_kept', 'edges'))
    """
    for name, value, least in (("steps", steps, 1), ("most_edges", most_edges, 1),
                               ("verify", verify, 0), ("draws", draws, 1)):  # fmt: skip
        if whole(value, name) < least:
            raise InputError(f"{name} is {value}; expected {least} or more.")
    if rest not in RESTS:
        raise nearest(rest, list(RESTS), "rest of edge_attribution:")
    pairs = make_pairs(clean, corrupt, align, direction)
    if len(pairs) > 1:
        raise InputError(f"A graph is of one pair and got {len(pairs)}: give one of them.")
    parts = parts_of(model)
    asked = _sizes(job, model, sizes, edge_count(parts))
    pair = Task.make(model, parts, pairs[0], metric, answer, wrong)
    more = _others(job, model, parts, clean, direction, metric,
                   (others, others_answer, others_wrong)) if asked else []  # fmt: skip
    job.note(**named_texts({"clean": clean, "corrupt": corrupt}))
    graph = EdgeGraph(
        job, EdgeScores(pair.edges, parts, pair.metric, steps, job.tick), most_edges,
        *_axes(asked, others is not None),
    )  # fmt: skip
    generator = np.random.default_rng(seed)
    receivers = [part for part in reversed(parts) if part.receives or part.name == "answer"]
    try:
        for done, receiver in enumerate(receivers, 1):
            graph.add(receiver)
            job.progress(done, len(receivers), "parts")
        graph.verify(verify, generator)
        if asked:
            runs = [KeptEdges(one.edges, parts, one.metric, job.tick, zero=rest == "zero")
                    for one in (pair, *more)]  # fmt: skip
            graph.run(runs, asked, draws, generator)
    except Cancelled:
        graph.close()
        raise
    graph.check()
    graph.close()


@dataclass(frozen=True)
class Task:
    """The two runs of a pair of texts, with all parts' sites, and what is measured."""

    edges: Edges
    metric: Metric

    @classmethod
    def make(
        cls,
        model: LensModel,
        parts: Sequence[Part],
        pair: Pair,
        metric: str | MetricFunction,
        answer: Any,
        wrong: Any,
    ) -> Task:
        """Run both texts of a pair."""
        sends = [site for part in parts for site in part.sends]
        receives = [site for part in parts for site in part.receives]
        edges = Edges.make(model, pair, receives, sends, freeze_mlps=True, where=None)
        ends = (edges.base, edges.source)
        first, other = ends if pair.direction == "noise" else ends[::-1]
        made = make_metric(
            model, metric, final=first.final, other=other.final, answer=answer, wrong=wrong
        )
        return cls(edges, made)


def _sizes(job: Job, model: LensModel, sizes: Sequence[int], count: int) -> list[int]:
    """How many edges the graphs have that are run."""
    if wrong := [size for size in sizes if whole(size, "sizes") < 1]:
        raise InputError(f"sizes holds {wrong[0]}; expected numbers from 1.")
    asked = sizes_of(sizes, count)
    if asked and not can_keep(model):
        job.remark("Graphs were not run: a recurrence of this model moves what no edge carries.")
        return []
    return asked


def _others(
    job: Job,
    model: LensModel,
    parts: Sequence[Part],
    like: Tokens,
    direction: str,
    metric: str | MetricFunction,
    asked: tuple[Any, Any, Any],
) -> list[Task]:
    """Run the other pairs of texts."""
    others, *tokens = asked
    if others is None:
        return []
    if isinstance(others, str) or not all(
        isinstance(one, tuple | list) and len(one) == 2 for one in others
    ):
        raise InputError("others is a list of pairs: [(clean text, corrupted text), ...].")
    answers, wrongs = (
        one_each(given, len(others), f"others_{name}")
        for given, name in zip(tokens, ("answer", "wrong"), strict=True)
    )
    found = []
    for texts, answer, wrong in zip(others, answers, wrongs, strict=True):
        job.tick()
        clean, corrupt = (job.tokens(text, like=like) for text in texts)
        pair = make_pair(clean, corrupt, None, direction)
        found.append(Task.make(model, parts, pair, metric, answer, wrong))
    return found


def _axes(sizes: Sequence[int], others: bool) -> tuple[dict[str, int], Coords, list[str]]:
    """Axes and variables of graphs that are run, where any are."""
    names = [*VARIABLES]
    if not sizes:
        return {}, {}, names
    names += [name for name in FAITHFULNESS if others or not name.startswith("others_")]
    coords = {
        "edges": (("edges",), np.array(GRAPHS)),
        "edges_kept": (("edges_kept",), np.array(sizes, dtype=np.int32)),
    }
    return {"edges": len(GRAPHS), "edges_kept": len(sizes)}, coords, names
