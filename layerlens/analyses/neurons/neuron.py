"""The page of one neuron: what it writes and reads, what excites it, how often, to what effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.neurons.neuron_directions import require_norms
from layerlens.analyses.neurons.neuron_page import Page
from layerlens.analyses.neurons.neuron_tokens import NORMS
from layerlens.analyses.neurons.places import neuron_places
from layerlens.analyses.neurons.top_texts_cell import open_place
from layerlens.analyses.sweeps.clean_pass import require_tokens
from layerlens.errors import InputError
from layerlens.metrics.batch import split
from layerlens.metrics.top_activations import SIDES
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_RANK, _K = ("rank",), ("k",)
VARIABLES = {
    "activation": Variable(_RANK, "float64", "activation", "activation of the neuron", signed=True),
    "token": Variable(_RANK, "int32", "1", "token there", is_token=True),
    "text": Variable(_RANK, "int32", "1", "number of the text, from 0"),
    "position": Variable(_RANK, "int32", "1", "position in the text, from 0"),
    "kl_without": Variable(
        _RANK, "float32", "nats", "KL divergence of the next token there, neuron set to 0"
    ),
    "random_kl_without": Variable(
        _RANK, "float32", "nats", "random neurons of the layer, moved by as much"
    ),
    **{
        f"{end}_{what}": Variable(
            _K, dtype, "1", words, is_token=what == "token", signed=what == "score"
        )
        for end, verb in (
            ("raised", "that it writes most"),
            ("lowered", "that it writes least"),
            ("read", "that it reads most"),
            ("gate", "that open it most"),
        )
        for what, dtype, words in (
            ("token", "int32", f"tokens {verb}"),
            ("score", "float32", f"score of the tokens {verb}"),
        )
    },
    "prominence": Variable(
        (), "float32", "sd", "how far its first written token stands out of the vocabulary"
    ),
    "random_prominence": Variable(
        (), "float32", "sd", "median over random directions, as long as the neuron"
    ),
    "firing": Variable((), "float64", "1", "share of tokens that the neuron is on at"),
    "layer_firing": Variable(
        (), "float64", "1", "share of tokens that neurons of its layer are on at, mean"
    ),
    "counted": Variable((), "int32", "tokens", "tokens that the shares are of"),
}


def count_work(
    model: LensModel, tokens: Tokens, *, k: int, draws: int, batch_size: int | None, **_: object
) -> Work:
    """Count passes, rows and bytes of one call; runs nothing."""
    widest = max(part.ids.numel() for part, _ in split(tokens, batch_size))
    places = min(k, len(tokens.ids))
    size = 4 * (widest * model.d_model * 6 + 2 * model.d_vocab * model.d_model)
    passes = 1 + places * (2 + draws) / len(tokens.ids)
    return Work(passes, places * (2 + draws), size)


@analysis(
    name="neuron",
    question="What does one neuron write and read, what excites it, and does it matter there?",
    source="Bills et al. (2023), Language Models Can Explain Neurons in Language Models, OpenAI; "
    "Geva et al. (2022), Transformer Feed-Forward Layers Build Predictions by Promoting Concepts "
    "in the Vocabulary Space, arXiv 2203.14680",
    cost="1 pass, and for each of its places one more and a replay for each random neuron",
    view="panels",
    lead="Its best texts say what excites it, its tokens what it writes: where the divergence "
    "without it is above that of random neurons, it matters to what comes next.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("layer", "number"),
    needs=("head",),
    opens=open_place,
)
def neuron(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    layer: int = 0,
    number: int = 0,
    k: int = 10,
    side: str = "largest",
    norm: str = "gamma",
    epsilon: float = 0.01,
    draws: int = 4,
    seed: int = 0,
    skip_first: bool | int = True,
    batch_size: int | None = None,
) -> None:
    """Put together what is known of one neuron: by its weights, by texts, and by removing it.

    What it writes and reads is that of ``ll.neuron_tokens``, the places that excite it those of
    ``ll.top_texts``; at each of them it is then set to 0. ``ll.clamp`` holds it at other values.

    Parameters
    ----------
    layer, number
        Of the neuron; the layer negative from the end.
    k
        How many places, the best of each text, and how many tokens.
    side
        ``"largest"`` activations, ``"smallest"``, or those of the largest ``"magnitude"``. Where
        it is active below zero it writes the opposite of its tokens.
    norm
        How directions get to the head: ``"gamma"`` or ``"none"``, as in ``ll.neuron_tokens``.
    epsilon
        A neuron is on at a token when its magnitude is above this share of the token's largest
        one; 0: when it is not exactly zero.
    draws
        How many other neurons of the layer are moved by as much, for ``random_kl_without``, their
        mean; 0 for none.
    seed
        Of their draw, and of the random directions.
    skip_first
    batch_size

    Notes
    -----
    Arrays over ``rank`` (from 1, the best) are NaN and -1 where there are fewer texts.
    ``kl_without`` is the divergence of the model's next-token distribution at that place, from as
    it is to with the neuron set to 0 there and nowhere else. A cell opens the text, each token
    marked by the activation, and the next token with the neuron and without it.

    Raises
    ------
    InputError
        The neuron does not exist, an option does not fit, no token counts, or weights are
        quantised.
    SiteError
        The layer has no neurons that could be watched, such as one made of experts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> page = ll.neuron(model, ["cat dog owl cat", "owl cat dog owl"], 1, 7, k=2).data
    >>> page.activation.shape, page.raised_token.shape, int(page.counted)
    ((2,), (2,), 8)
    """
    k = whole(k, "k")
    if not 1 <= k <= model.d_vocab:
        raise InputError(f"k is {k}; expected 1 to {model.d_vocab}.")
    for name, value, known in (("norm", norm, NORMS), ("side", side, SIDES)):
        if value not in known:
            raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}.")
    if whole(draws, "draws") < 0:
        raise InputError(f"draws is {draws}; expected 0 or more.")
    require_tokens(tokens, skip_first)
    require_norms(model, norm)
    [place] = neuron_places(model, (layer, number))
    page = Page(job, model, tokens, place, k)
    ranks = np.arange(1, k + 1, dtype=np.int32)
    absent = {"read", "gate"} - set(page.ends)
    filled = [
        name
        for name in VARIABLES
        if name.partition("_")[0] not in absent and (draws or name != "random_kl_without")
    ]
    job.declare({"rank": k, "k": k}, {"rank": (_RANK, ranks), "k": (_K, ranks)}, filled)
    page.decode(norm, seed)
    page.read(side, epsilon, skip_first, batch_size)
    page.remove(draws, np.random.default_rng(seed))
