"""The texts that excite a neuron most."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.neurons.top_texts_cell import open_text
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.metrics.collection import MetricSet
from layerlens.metrics.runner import run_metrics
from layerlens.metrics.top_activations import TopActivations
from layerlens.model.feed import ANY_KIND
from layerlens.model.integers import wholes

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL = ("neuron", "rank")
VARIABLES = {
    "activation": Variable(_CELL, "float64", "activation", "activation of the neuron", signed=True),
    "text": Variable(_CELL, "int32", "1", "number of the text, from 0"),
    "position": Variable(_CELL, "int32", "1", "position in the text, from 0"),
    "token": Variable(_CELL, "int32", "1", "token there", is_token=True),
}
WORDS_AROUND = 10
"""Tokens of the snippets on either side."""


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    layer: int,
    neurons: int | Sequence[int],
    k: int,
    side: str,
    per_text: bool,
    skip_first: bool | int,
    batch_size: int | None,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    return Work(1, len(tokens.ids), widest * model.d_model * 4 * 6)


@analysis(
    name="top_texts",
    question="Which texts excite a neuron most?",
    source=TopActivations.source,
    cost="1 pass",
    view="grid",
    lead="A row is a neuron, a column its best, second best and further texts: open a cell to "
    "read the text with the token marked.",
    reads=ANY_KIND,
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("layer", "neurons"),
    opens=open_text,
)
def top_texts(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layer: int = 0,
    neurons: int | Sequence[int] = 0,
    k: int = 10,
    side: str = "largest",
    per_text: bool = True,
    skip_first: bool | int = True,
    batch_size: int | None = None,
) -> None:
    """Find, for each of some neurons of one MLP, the texts and tokens where it is most active.

    Memory does not grow with the number of texts: of each neuron ``k`` places are kept. For a
    corpus from ``ll.texts`` measure the metric ``top_activations`` with ``ll.layer_metrics``.

    Parameters
    ----------
    layer
        Of the neurons, negative from the end.
    neurons
        One number, or several.
    k
        How many places of each.
    side
        ``"largest"`` activations, ``"smallest"``, or those of the largest ``"magnitude"``.
    per_text
        One place in each text; else a text can have several.
    skip_first
        Leave out the first token of each text (or so many), which excites many neurons whatever
        it is.
    batch_size

    Notes
    -----
    Variables over ``neuron`` and ``rank`` (from 1, the best); NaN and -1 where there are fewer
    texts. Attribute ``snippets`` holds, as JSON, for each neuron the tokens around each place,
    with ``[[`` and ``]]`` around the token itself.

    Raises
    ------
    InputError
        A layer, a neuron or an option does not exist, or no token counts.
    SiteError
        The model's MLPs have no neurons that could be watched.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.top_texts(model, [[5, 9, 4], [3, 7, 1]], 1, [0, 7], k=2)
    >>> found.data.text.sizes
    Frozen({'neuron': 2, 'rank': 2})
    """
    (number,) = model.layers(layer)
    options = {
        "layer": number,
        "neurons": list(wholes(neurons, "neurons", least=0)),
        "k": k,
        "side": side,
        "per_text": per_text,
    }
    made = MetricSet.make(
        model, TopActivations.name, skip_first=skip_first, options={TopActivations.name: options}
    )
    if made.skip_first >= max(tokens.lengths):
        raise InputError(
            f"No token counts: the longest text has {max(tokens.lengths)} and the first "
            f"{made.skip_first} are left out. Give longer texts, or skip_first=False."
        )
    (metric,) = made.metrics
    assert isinstance(metric, TopActivations)
    sizes, coords = metric.sizes(), metric.coords()
    ranks = coords.pop("top_activations_rank")[1]
    job.declare({"neuron": sizes["neuron"], "rank": k}, {**coords, "rank": (("rank",), ranks)})
    batches = split(tokens, batch_size)
    done = iter(range(1, len(batches) + 1))

    def show(*_: object) -> None:
        value = metric.value()
        found = {name: value[f"top_activations_{name}"] for name in ("text", "position", "token")}
        job.emit({}, {"activation": value["top_activations"], **found})
        job.progress(next(done), len(batches), "texts")

    passes = run_metrics(model, batches, made, tick=job.tick, on_batch=show)
    job.note(
        passes=passes,
        texts=made.texts,
        tokens_counted=made.kept,
        layer=number,
        snippets=json.dumps(snippets(metric, tokens), ensure_ascii=False),
    )
    missed = abs(made.tokens - sum(tokens.lengths))
    job.check("tokens", missed, 0, "tokens fed but not seen, padding aside")


def snippets(metric: TopActivations, tokens: Tokens) -> list[list[str]]:
    """The tokens around each place, a list for each neuron."""
    return [
        [
            _snippet(tokens, int(text), int(position))
            for text, position in zip(texts, positions, strict=True)
            if text >= 0
        ]
        for texts, positions in zip(metric.arrays["text"], metric.arrays["position"], strict=True)
    ]


def _snippet(tokens: Tokens, text: int, position: int) -> str:
    kept = tokens.mask[text].tolist()
    strings = [string for string, real in zip(tokens.strings[text], kept, strict=True) if real]
    first, last = max(0, position - WORDS_AROUND), position + WORDS_AROUND + 1
    before, after = "".join(strings[first:position]), "".join(strings[position + 1 : last])
    return f"{before}[[{strings[position]}]]{after}"
