"""Numbers as angles: the frequencies of embeddings, neurons and logits, and what each is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.numbers.fourier_run import FourierRun
from layerlens.analyses.numbers.question_rows import QuestionRows
from layerlens.analyses.numbers.sums import Numbers, Prompt, Sums, trained_pairs
from layerlens.errors import InputError
from layerlens.model.integers import whole
from layerlens.run.where import neurons_of

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel

NANDA = (
    "Nanda, Chan, Lieberum, Smith and Steinhardt (2023), Progress measures for grokking via "
    "mechanistic interpretability, arXiv 2301.05217"
)
QUESTION = 1e6
"""What making the tokens of a question takes, as so many operations."""
_WAVE = ("frequency",)
_SHARE = "share of variance"
VARIABLES = {
    "embed_power": Variable(
        _WAVE, "float64", _SHARE, "in the embedding",
        formula="(|W^T cos_k|^2 + |W^T sin_k|^2) / sum over k",
    ),
    "embed_power_chance": Variable(
        _WAVE, "float64", _SHARE, "in the embedding, by chance"
    ),
    "neuron_power": Variable(("layer", "frequency"), "float64", _SHARE, "in the neurons"),
    "neuron_power_chance": Variable(
        ("layer", "frequency"), "float64", _SHARE, "in the neurons, by chance"
    ),
    "logit_power": Variable(_WAVE, "float64", _SHARE, "in the logits"),
    "logit_power_chance": Variable(
        _WAVE, "float64", _SHARE, "in the logits, by chance"
    ),
    "loss_alone": Variable(_WAVE, "float64", "nats", "loss of logits with this frequency alone"),
    "loss_without": Variable(_WAVE, "float64", "nats", "loss of logits without this frequency"),
    "loss_ablated": Variable(
        _WAVE, "float64", "nats", "loss of the model without this frequency in its embedding"
    ),
    "accuracy_ablated": Variable(
        _WAVE, "float64", "share", "right answers without this frequency in the embedding"
    ),
    "neuron_frequency": Variable(
        ("layer", "neuron"), "int32", "1", "strongest frequency of a neuron"
    ),
    "neuron_share": Variable(
        ("layer", "neuron"), "float64", _SHARE, "of a neuron at its strongest frequency"
    ),
    "loss": Variable((), "float64", "nats", "loss on pairs of training"),
    "held_out_loss": Variable((), "float64", "nats", "loss on other pairs"),
    "restricted_loss": Variable(
        (), "float64", "nats", "loss with key frequencies alone", source=NANDA
    ),
    "restricted_loss_chance": Variable(
        (), "float64", "nats", "loss with other frequencies alone"
    ),
    "excluded_loss": Variable(
        (), "float64", "nats", "loss without key frequencies",
        source=NANDA,
    ),
    "excluded_loss_chance": Variable(
        (), "float64", "nats", "loss without other frequencies"
    ),
    "accuracy": Variable((), "float64", "share", "right answers on pairs of training"),
    "held_out_accuracy": Variable((), "float64", "share", "right answers on other pairs"),
    "keyless_accuracy": Variable(
        (), "float64", "share", "right answers, key frequencies taken out of the embedding"
    ),
    "key_only_accuracy": Variable(
        (), "float64", "share", "right answers, all others taken out of the embedding"
    ),
}  # fmt: skip


def count_work(
    model: LensModel,
    *,
    numbers: Numbers,
    prompt: Prompt,
    layers: Any,
    pairs: int,
    draws: int,
    **_: Any,
) -> Work:
    """Count passes and bytes of one call; runs nothing."""
    sums = Sums.of(model, numbers, prompt, model.tokens)
    period, frequencies = sums.period, sums.period // 2
    width = max((neurons_of(model, layer) for layer in neural_layers(model, layers)), default=0)
    rows = 2 * period**2 + (frequencies + 1) * min(pairs, period**2)
    held = 8 * period**2 * (frequencies + 2 * draws + 32) + 8 * 18 * frequencies * width
    operations = 8.0 * period**3 * (2 * frequencies + draws) + QUESTION * rows
    return Work(rows, rows, held, tokens=len(sums.ids), operations=operations)


@analysis(
    name="fourier",
    question="Does a model hold numbers as angles, and which frequencies does its answer need?",
    source=NANDA,
    cost="2 passes of all pairs, and 1 of some pairs for each frequency",
    view="panels",
    lead="A frequency that stands above chance goes into the answer as an angle. Where the loss "
    "with the key frequencies alone is low, and that without them high, the answer is made of "
    "them.",
    variables=VARIABLES,
    work=count_work,
    inputs=(),
    pooled=True,
    needs=("head", "causal"),
)
def fourier(
    job: Job,
    model: LensModel,
    *,
    numbers: Numbers = None,
    prompt: Prompt = "{a} + {b} =",
    layers: Any = None,
    key: Sequence[int] | None = None,
    remove: Sequence[int] = (),
    trained: Any = None,
    pairs: int = 512,
    draws: int = 20,
    seed: int = 0,
) -> None:
    """Find the frequencies with which a model adds numbers modulo their count.

    It asks for every pair of numbers and takes its logits for all numbers apart, as functions of
    a and b, into waves: frequency k goes round k times from the first number to the last.

    Parameters
    ----------
    numbers
        The tokens that stand for 0, 1, 2 ... to p - 1; None: these words, as far as each is one
        token.
    prompt
        The question, with ``{a}`` and ``{b}`` for the numbers; or token ids with ``"a"`` and
        ``"b"`` among them. What follows is (a + b) mod p.
    layers
        Of which neurons are looked at.
    key
        The key frequencies; None: those whose ``embed_power`` is above chance. Along a training,
        give those of its end.
    remove
        Frequencies that are taken out of the embeddings of a and b before anything else is
        measured.
    trained
        ``[n, 2]``, the pairs (a, b) that training showed, as places of ``numbers``; None: what the
        model's ``trained_range`` says, and where it says nothing all pairs.
    pairs
        How many pairs of training the model answers without each frequency.
    draws
        How many random orders of the numbers, and random sets of frequencies, chance is judged by.
    seed
        Of these and of the pairs.

    Notes
    -----
    From the source: the basis; ``restricted_loss``, of the mean logits and what of them lies along
    cosine and sine of w_k(a + b) for key frequencies k, with w_k = 2 pi k / p; ``excluded_loss``,
    of the logits less these waves. A model that has learned by heart has a high restricted and a
    low excluded loss, and one that computes with angles the reverse. ``neuron_power`` is its
    measure of neurons: what lies along cos(w_k a), sin(w_k a), those of b and their products.

    Ours: chance. ``embed_power_chance`` and ``logit_power_chance`` are what the strongest frequency
    stays below in 95 % of random orders of the numbers; key frequencies are those above.
    ``neuron_power_chance`` is of one random order. ``restricted_loss_chance`` and
    ``excluded_loss_chance`` are means over random sets of as many frequencies that are no key ones.
    ``loss_ablated`` is of the model itself, run with one frequency less in its embedding, and
    ``keyless_accuracy`` and ``key_only_accuracy`` with none of the key frequencies, and no other.

    Every loss is a cross-entropy among the p numbers, in nats: ln p where nothing is known. An
    even p has no sine at its last frequency.

    Raises
    ------
    InputError
        Fewer than 3 numbers were found, the prompt does not hold two, or an option does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:addition")
    >>> found = ll.fourier(model, prompt="00{a}+00{b}=00", draws=4)
    >>> found.data.embed_power.sizes["frequency"], bool(found.checks.ok)
    (5, True)
    """
    sums = Sums.of(model, numbers, prompt, job.tokens)
    last = sums.period // 2
    for name, given in (("key", key or ()), ("remove", remove)):
        if wrong := [k for k in given if not 1 <= whole(k, name) <= last]:
            raise InputError(
                f"{name} holds {wrong[0]}; of {sums.period} numbers there are frequencies from 1 "
                f"to {last}."
            )
    for name, number in (("pairs", pairs), ("draws", draws)):
        if whole(number, name) < 1:
            raise InputError(f"{name} is {number}; expected at least 1.")
    found = neural_layers(model, layers)
    rows = QuestionRows(job, model, sums, found, sorted(set(remove)))
    shown = trained_pairs(model, trained, sums.period)
    FourierRun(job, rows, shown, pairs, draws, whole(seed, "seed")).run(key)


def neural_layers(model: LensModel, layers: Any) -> list[int]:
    """Those of the layers that have neurons."""
    blocks = model.anatomy.blocks
    return [layer for layer in model.layers(layers) if "mlp_post" in blocks[layer].taps]
