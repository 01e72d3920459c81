"""The page of one feature: when it is on, what it writes, and what a text becomes with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.features.effects import why_no_effects
from layerlens.analyses.features.page.feature_page import Page, Sizes
from layerlens.analyses.features.page.page_cell import open_page
from layerlens.analyses.features.page.reading import Reading
from layerlens.analyses.features.page.spread import BINS
from layerlens.analyses.features.page.variables import VARIABLES
from layerlens.analyses.features.sae_metrics import Given, dictionary_of
from layerlens.analyses.lenses.fitting.documents import read_rows, rows_of
from layerlens.analyses.texts.text_pair import row_of
from layerlens.corpus.texts import Texts
from layerlens.errors import InputError
from layerlens.model.integers import whole

if TYPE_CHECKING:
    from layerlens.analyses.features.activations import Places
    from layerlens.corpus.rows import Row
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

STRENGTHS = (-1.0, 0.5, 1.0, 2.0)
PROMPT = 8
"""Tokens of the first text that are gone on from where nothing is said."""
SIDES = ("raised", "lowered")


def count_work(
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    sae: Given | None,
    k: int,
    strengths: Sequence[float],
    new_tokens: int,
    draws: int,
    **_: Any,
) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    dictionary, places = dictionary_of(model, sae)[1:]
    rows = rows_of(model, tokens)
    fed = sum(len(row.ids) for row in rows)
    mean = max(1.0, fed / max(1, len(rows)))
    alone = k * (2 + draws) * mean + (2 * len(strengths) + 3) * (new_tokens + PROMPT)
    depth = (max(places.layers) + 1) / model.n_layers
    passes = (1 + draws) * depth + alone / max(1, fed)
    operations = 2.0 * (1 + draws) * fed * len(places.sites)
    operations *= dictionary.width * dictionary.features
    held = 4 * (dictionary.width * dictionary.features + BINS * 1024 * k)
    return Work(passes, 2 * k + (2 * len(strengths) + 1) * new_tokens, held, tokens=fed,
                operations=operations)  # fmt: skip


@analysis(
    name="feature",
    question="What is one feature of a dictionary on for, what does it write, and what does a text "
    "become with it?",
    source="Bricken et al. (2023), Towards Monosemanticity: Decomposing Language Models With "
    "Dictionary Learning; Lin (2023), Neuronpedia",
    cost="1 pass, and 1 more for each shuffle; for each of the strongest examples 2 of its text, "
    "and 2 texts for each strength",
    view="feature",
    lead="Read the weaker examples too: a feature that only its strongest ones explain is about "
    "something else. Beside each number stands what chance, a shuffled text or another feature "
    "that is on about as often gives.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    positional=("sae", "number"),
    needs=("head", "causal"),
    opens=open_page,
    finds="features that are on at a token, and features that raise it",
)
def feature(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    sae: Given | None = None,
    number: int = 0,
    k: int = 10,
    bands: int = 5,
    per_band: int = 3,
    around: int = 12,
    effect_tokens: int = 10,
    near: int = 8,
    prompt: Any = None,
    strengths: Sequence[float] = STRENGTHS,
    new_tokens: int = 12,
    draws: int = 1,
    seed: int = 0,
) -> None:
    """Put together what is known of one feature: from texts, by its weights, and by adding it.

    Parameters
    ----------
    sae
        What ``ll.train_sae`` or ``ll.load_sae`` returned, or the path of its file.
    number
        Of the feature.
    k
        How many of its strongest examples, the best of each row of tokens.
    bands
        Into how many bands of about the same width its activations are cut, from 0 to the largest.
    per_band
        How many examples are drawn from each band.
    around
        Tokens on either side of an example.
    effect_tokens
        How many tokens that it raises, and that it lowers, are named.
    near
        How many features with the nearest decoder rows.
    prompt
        A text that the model goes on from while the feature is added; None: the beginning of the
        first text.
    strengths
        How much of it is added at each token, in units of what it writes at its strongest example.
    new_tokens
        How many tokens are written.
    draws
        How many times each text is shuffled for comparison; 0 for never.
    seed
        Of the shuffles, and of the draw of examples.

    Notes
    -----
    Examples stand one after the other: the ``k`` strongest (``group`` 0), then some of each band,
    strongest first (``group`` 1 and on); -1 and NaN where there are fewer. ``context_token`` and
    ``context_activation`` are the tokens around, -1 beyond the text. Memory does not grow with the
    texts: bins of ``count`` become twice as wide when the feature is stronger than ever before,
    and keep a few examples each.

    ``kl_without`` is how far the next token moves at one of the strongest examples when what the
    feature writes there is taken out; ``other_kl_without`` when as much is taken out along another
    feature (``other_feature``), the one that is on about as often. That one also stands beside
    the steered texts. A cell of the strongest examples opens its whole text.

    Raises
    ------
    InputError
        The dictionary is of another model, the feature does not exist, an option does not fit, or
        no token counts.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> strongest = int(sae["density"].argmax())
    >>> page = ll.feature(model, texts, sae, strongest, k=2, bands=2)
    >>> page.data.sizes["example"], int(page.data["count"].sum()) == int(page.data.firings)
    (8, True)
    >>> page.checks.ok
    True
    """
    _, dictionary, places = dictionary_of(model, sae)
    dictionary.require(whole(number, "number"))
    least = {"k": (k, 1), "bands": (bands, 1), "per_band": (per_band, 1), "around": (around, 0),
             "effect_tokens": (effect_tokens, 1), "near": (near, 1), "new_tokens": (new_tokens, 1),
             "draws": (draws, 0)}  # fmt: skip
    for name, (value, lowest) in least.items():
        if whole(value, name) < lowest:
            raise InputError(f"{name} is {value}; expected a number from {lowest}.")
    amounts = _strengths(strengths)
    first, rows = _first(read_rows(model, tokens))
    begun = job.tokens(first.ids[:PROMPT]) if prompt is None else row_of(job.tokens(prompt), 0)
    sizes = Sizes(k, bands, per_band, around, min(effect_tokens, model.d_vocab), near)
    reading = Reading(places, dictionary, number, (k, per_band), draws, whole(seed, "seed"))
    page = Page(job, places, dictionary, number, sizes, reading)
    _declare(job, places, sizes, begun, amounts, (new_tokens, draws))
    job.note(number=number, site=places.sites[0].kind, dictionary_layers=json.dumps(places.layers))
    job.emit({}, {"prompt_token": begun.ids[0].numpy().astype(np.int32),
                  "features": np.array(dictionary.features)})  # fmt: skip
    page.decode()
    page.read(rows, None if isinstance(tokens, Texts) else len(tokens.ids))
    if not reading.counted:
        raise InputError("No token counts: special ones and the first of each text do not.")
    page.remove(draws)
    page.steer(begun, amounts, new_tokens)
    page.check()


def _first(rows: Iterator[Row]) -> tuple[Row, Iterable[Row]]:
    """The first row, and all of them again."""
    first = next(rows, None)
    if first is None:
        raise InputError("There is no text: give some with at least two tokens.")
    return first, chain([first], rows)


def _strengths(strengths: Sequence[float]) -> list[float]:
    try:
        found = [float(strength) for strength in strengths]
    except (TypeError, ValueError):
        found = []
    if not found or not np.isfinite(found).all() or len(set(found)) < len(found):
        raise InputError(f"strengths is {strengths!r}; expected different finite numbers.")
    return sorted(found)


def _declare(
    job: Job,
    places: Places,
    sizes: Sizes,
    prompt: Tokens,
    strengths: Sequence[float],
    written: tuple[int, int],
) -> None:
    steps, draws = written
    groups = [0] * sizes.top + [1 + i // sizes.each for i in range(sizes.bands * sizes.each)]
    lengths = {
        "example": sizes.examples, "rank": sizes.top, "offset": 2 * sizes.around + 1,
        "band": sizes.bands, "bin": BINS, "side": len(SIDES), "order": sizes.tokens,
        "near": sizes.near, "prompt_position": prompt.ids.shape[1], "strength": len(strengths),
        "step": steps,
    }  # fmt: skip
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        "group": (("example",), np.array(groups, dtype=np.int32)),
        "rank": (("rank",), np.arange(1, sizes.top + 1, dtype=np.int32)),
        "offset": (("offset",), np.arange(-sizes.around, sizes.around + 1, dtype=np.int32)),
        "band": (("band",), np.arange(1, sizes.bands + 1, dtype=np.int32)),
        "side": (("side",), np.array(SIDES)),
        "order": (("order",), np.arange(1, sizes.tokens + 1, dtype=np.int32)),
        "near": (("near",), np.arange(1, sizes.near + 1, dtype=np.int32)),
        "strength": (("strength",), np.array(strengths, dtype=np.float32)),
    }
    left = set()
    if len(places.sites) > 1:
        lengths["layer"] = len(places.sites)
        coords["layer"] = (("layer",), np.array(places.layers, dtype=np.int32))
    else:
        left |= {"layer_share", "all_layer_share", "at_layer"}
    if not draws:
        left |= {"shuffled_count", "shuffled_density", "shuffled_activation"}
    if why_no_effects(places.model, places.sites[0].kind):
        left |= {"effect_token", "effect_score", "random_effect_score", "neighbour_token"}
    job.declare(lengths, coords, [name for name in VARIABLES if name not in left])
