"""Observable propagation: a combination of logits, taken back through heads and MLPs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import given
from layerlens.analyses.contributions.head_matrices import HeadMaps
from layerlens.analyses.contributions.logit_directions import norms_on_stream
from layerlens.analyses.contributions.observable_on_text import (
    on_text,
    vector_of,
    written_before,
)
from layerlens.analyses.contributions.token_scores import final_direction, read_scores
from layerlens.analyses.contributions.value_paths import Node, parse_path
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError, ModelError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SIDES = ("positive", "negative")
_NODE = ("node",)
_TOKENS = ("node", "side", "k")
VARIABLES = {
    "contribution": Variable(
        ("node", "position"), "float32", "logit", "taken from the position by the node", signed=True
    ),
    "carried": Variable(
        _NODE, "float32", "logit", "passes through the node, and on by the path", signed=True
    ),
    "constant": Variable(
        _NODE,
        "float32",
        "logit",
        "comes from no position: biases, and what is not linear",
        signed=True,
    ),
    "component_contribution": Variable(
        ("component",),
        "float32",
        "logit",
        "written by the component, and read by the path",
        signed=True,
    ),
    "strength": Variable(_NODE, "float32", "1", "length of the direction that the node reads"),
    "direction": Variable(
        ("node", "channel"),
        "float32",
        "1",
        "direction that the node reads, by weights alone",
        signed=True,
    ),
    "direction_token": Variable(
        _TOKENS, "int32", "1", "tokens furthest along the direction", is_token=True
    ),
    "direction_score": Variable(
        _TOKENS, "float32", "1", "of the tokens along the direction", signed=True
    ),
}


def count_work(model: LensModel, *, path: Any, text: Any, top_k: int, **_: Any) -> Work:
    """Count passes, operations and bytes of one call; runs nothing."""
    nodes = parse_path(model, path)
    operations = 2.0 * model.d_model * model.d_vocab * (len(nodes) + 2)
    size = 8 * (2 * model.d_vocab + 4 * model.d_model * model.n_layers)
    passes = (1 + sum(2 * node.mlp for node in nodes)) * (text is not None)
    return Work(passes, passes, size, operations=operations)


@analysis(
    name="observable",
    question="Which directions does a path through heads read, to make this token or that?",
    source="Dunefsky and Cohan (2024), Observable Propagation: Uncovering Feature Vectors in "
    "Transformers, arXiv 2312.16291",
    cost="no pass, weights only; with a text 1 pass, and 2 for each MLP on the path",
    view="curves",
    lead="A line is what one head of the path takes from each position for the sum of logits; the "
    "last one is where the logits themselves are read.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    positional=("weights", "path"),
    needs=("head",),
    effects={"position": given("text")},
    gradients=True,
)
def observable(
    job: Job,
    model: LensModel,
    *,
    weights: Any = None,
    path: Any = (),
    text: Any = None,
    position: Any = None,
    top_k: int = 8,
) -> None:
    """Take a sum of logits back along a path: what each head on it reads for that sum.

    An observable is a number that is linear in the logits, such as that of `` she`` minus that of
    `` he``. Its direction in the last state is carried back through the values and the output of
    each head on the path (attention patterns are taken as given), and through MLPs by their
    derivative. What a node reads along its direction is what the observable gets through it.

    Parameters
    ----------
    weights
        A token (a string or an id), or a mapping from tokens to the weights of their logits.
    path
        ``(layer, head)`` or ``(layer, "mlp")``, in the order in which they are passed; none: from
        the stream straight into the logits.
    text
        A text on which the path is followed exactly; None: weights only.
    position
        The position whose next token is observed: an index, or the text of a token (of a span: its
        last token). None: where the model answers the text.
    top_k
        How many tokens to name at either end of a direction.

    Notes
    -----
    The axis ``node`` holds the path and, at its end, ``logits``. By weights alone (``direction``,
    its length ``strength``, ``direction_token``) the statistics of norms and the attention
    weights are left out: a direction is that for full attention, and its length counts up to a
    positive number. A direction cannot pass an MLP so, and is NaN from there on.

    With a text, norms and patterns are held as they are in the run: over a path of heads
    ``contribution`` sums exactly, with ``constant``, to ``carried``, and ``carried`` to that of
    the node's direct effect in ``ll.direct_logit_attribution`` where the path is one head. An MLP
    is replaced by its derivative at what it was given, norms held here, too; what that leaves out
    is in its ``constant``. ``component_contribution`` splits what the first node reads into what
    wrote it. The gains of norms are folded into copies (attribute ``folded``); no weight is
    changed.

    Raises
    ------
    InputError
        An option does not fit.
    ModelError
        Heads cannot be read from weights, or blocks norm the stream itself.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.observable(model, {"dog": 1, "owl": -1}, [(1, 2)], text="cat dog owl cat")
    >>> found.data.contribution.dims
    ('node', 'position')
    """
    nodes, top_k = parse_path(model, path), whole(top_k, "top_k")
    most = min(model.d_vocab, model.d_vocab_in)
    if not 1 <= top_k <= most:
        raise InputError(f"top_k is {top_k}; expected 1 to {most}.")
    if nodes:
        _require_plain_stream(model)
    parts = _weights(model, weights)
    layers = list(dict.fromkeys(node.layer for node in nodes if not node.mlp))
    maps = HeadMaps(job, model, layers) if layers else None
    tokens = None if text is None else _one_text(job, text)
    _declare(job, model, nodes, top_k, tokens)
    _by_weights(job, model, nodes, parts, maps, top_k)
    if tokens is not None:
        on_text(job, model, nodes, parts, maps, tokens, position)
    job.note(
        passes=(maps is not None) + (0 if tokens is None else 1 + sum(node.mlp for node in nodes)),
        observable=_words(model, parts),
        path=" > ".join([*map(str, nodes), "logits"]),
    )


def _require_plain_stream(model: LensModel) -> None:
    if paths := norms_on_stream(model):
        raise ModelError(
            f"{model.name} norms the residual stream itself ({paths[0]} and {len(paths) - 1} "
            "more), so what a head writes is rescaled at each position by every later block: no "
            "path through heads is followed; path=() reads the logits alone."
        )


def _one_text(job: Job, text: Any) -> Tokens:
    tokens = job.tokens(text)
    if tokens.ids.shape[0] != 1:
        raise InputError("text is several texts; give one.")
    return row_of(tokens, 0)


def _weights(model: LensModel, given: Any) -> dict[int, float]:
    """Weight of each token's logit."""
    if given is None or (isinstance(given, Mapping) and not given):
        raise InputError(
            "weights names no token: give one, or a mapping like {' she': 1, ' he': -1}."
        )
    pairs = given.items() if isinstance(given, Mapping) else [(given, 1.0)]
    found: dict[int, float] = {}
    for token, weight in pairs:
        index = model.token_id(token)
        if index in found:
            raise InputError(f"weights names the token {model.token_string(index)!r} twice.")
        if not np.isfinite(value := float(weight)):
            raise InputError(f"The weight of {token!r} is {weight}; expected a finite number.")
        found[index] = value
    return found


def _words(model: LensModel, parts: Mapping[int, float]) -> str:
    terms = [f"{weight:+g} x logit of {model.token_string(i)!r}" for i, weight in parts.items()]
    return " ".join(terms).replace("+1 x ", "+ ").replace("-1 x ", "- ").removeprefix("+ ")


def _declare(
    job: Job, model: LensModel, nodes: list[Node], top_k: int, tokens: Tokens | None
) -> None:
    labels = [*map(str, nodes), "logits"]
    sizes = {"node": len(labels), "side": 2, "k": top_k, "channel": model.d_model}
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "node": (("node",), np.array(labels)),
        "side": (("side",), np.array(SIDES)),
    }
    names = list(VARIABLES)
    if tokens is None:
        names = names[4:]
    else:
        cells = Cells(model, tokens)
        written = written_before(model, nodes)
        sizes |= {"position": len(cells.positions), "component": len(written)}
        named = ["embed", *(f"{site.layer}_{site.kind}" for site in written[1:])]
        coords |= {**cells.coords(), "component": (("component",), np.array(named))}
    job.declare(sizes, coords, names)


def _by_weights(
    job: Job,
    model: LensModel,
    nodes: list[Node],
    parts: Mapping[int, float],
    maps: HeadMaps | None,
    top_k: int,
) -> None:
    """Directions without any text; from the logits back."""
    along: Tensor | None = final_direction(model, vector_of(model, parts))[0]
    head = model.anatomy.head
    assert head is not None  # the contract asked
    folded = [f"{head.norm} before the head"] if head.norm else []
    norm = head.norm
    for index in reversed(range(len(nodes) + 1)):
        if index < len(nodes):
            along, norm = _before(nodes[index], along, maps, folded)
        where = {"node": index}
        if along is None:
            nothing = np.full((2, top_k), np.nan)
            arrays: dict[str, Any] = {
                "strength": np.array(np.nan),
                "direction": np.full(model.d_model, np.nan),
                "direction_token": np.full((2, top_k), -1),
                "direction_score": nothing,
            }
        else:
            scores = read_scores(model, norm, along[None].float(), job.tick)[0]
            best = [scores.topk(top_k), (-scores).topk(top_k)]
            arrays = {
                "strength": np.array(float(along.norm())),
                "direction": along.numpy(),
                "direction_token": torch.stack([end.indices for end in best]).numpy(),
                "direction_score": torch.stack([best[0].values, -best[1].values]).numpy(),
            }
        job.emit(where, arrays)
    job.note(folded="; ".join(dict.fromkeys(reversed(folded))) or "nothing")


def _before(
    node: Node, along: Tensor | None, maps: HeadMaps | None, folded: list[str]
) -> tuple[Tensor | None, str | None]:
    """A direction in what a node writes, as one in what it reads; and the norm in between."""
    if along is None or node.mlp:
        return None, None
    assert maps is not None  # the path has a head
    heads = maps.of(node.layer)
    folded += heads.folded
    o, v = heads.o[node.head], heads.v_of_heads()[node.head]
    return v.cpu().double().T @ (o.cpu().double().T @ along), heads.norm
