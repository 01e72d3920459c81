"""Which features of a dictionary are on at each token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.effects import left_out
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.features.effects import logit_effects, why_no_effects
from layerlens.analyses.features.encoded_text import EncodedText
from layerlens.analyses.features.feature_cell import open_feature
from layerlens.analyses.features.sae_metrics import CONTROL, Given, dictionary_of
from layerlens.analyses.texts.chosen_positions import Cells
from layerlens.analyses.texts.text_pair import row_of
from layerlens.errors import InputError
from layerlens.model.integers import whole, wholes

if TYPE_CHECKING:
    from layerlens.analyses.features.activations import Places
    from layerlens.analyses.features.dictionaries.dictionary import Dictionary
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

_CELL, _TOKEN = ("layer?", "feature", "position"), ("layer?", "position")
SIDES = ("raised", "lowered")
VARIABLES = {
    "activation": Variable(_CELL, "float32", "activation", "activation of the feature"),
    "shuffled_activation": Variable(
        _CELL, "float32", "activation",
        "the same for the same tokens, with the text shuffled, mean over draws",
    ),
    "explained": Variable(
        _TOKEN, "float32", "1", "explained share of the activation; the mean alone explains 0",
        formula="1 - |x - y|^2 / |x - mean|^2", signed=True,
    ),
    "random_explained": Variable(
        _TOKEN, "float32", "1", "the same by as many random directions, combined at their best",
        signed=True,
    ),
    "error": Variable(
        _TOKEN, "float32", "1", "norm of what is not decoded over that of the activation",
        formula="|x - y| / |x|",
    ),
    "l0": Variable(_TOKEN, "int32", "features", "features on for the token (L0)"),
    "density": Variable(
        ("feature",), "float32", "1", "share of the training tokens that the feature is on for"
    ),
    "effect_token": Variable(
        ("feature", "side", "rank"), "int32", "1", "token whose logit it raises or lowers most",
        is_token=True,
    ),
    "effect_score": Variable(
        ("feature", "side", "rank"), "float32", "logits, before the norm's scale",
        "what its decoder row does to the logit of that token", signed=True,
        formula="w_dec through the final norm's gain and the head, from the vocabulary's mean",
    ),
}  # fmt: skip


def count_work(
    model: LensModel, tokens: Tokens, *, sae: Given | None, draws: int, k: int, **_: Any
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    dictionary, places = dictionary_of(model, sae)[1:]
    layers, fed, longest = len(places.sites), sum(tokens.lengths), max(tokens.lengths)
    products = (3 + draws) * fed * layers
    operations = 2.0 * products * dictionary.width * dictionary.features
    operations += 2.0 * k * model.d_model * model.d_vocab
    held = 4 * (layers * (fed * dictionary.width + longest * dictionary.features))
    held += 4 * dictionary.width * dictionary.features + 3 * 4 * longest * model.d_vocab
    first = (1 + layers) / len(tokens.ids)
    return Work(1 + draws + first, (1 + layers) * tokens.lengths[0], held, operations=operations)


@analysis(
    name="features",
    question="Which features of a dictionary are on at each token, and what does each write?",
    source="Bricken et al. (2023), Towards Monosemanticity; Cunningham et al. (2023), Sparse "
    "Autoencoders Find Highly Interpretable Features in Language Models, arXiv 2309.08600",
    cost="1 pass, and 1 for each shuffled text; of the first text 1 more, and 1 for each layer",
    view="grid",
    lead="A feature that stays as strong in the shuffled text is about the token alone; one that "
    "goes away is about what stands around it. The strongest is the lowest row. A cell opens its "
    "page.",
    variables=VARIABLES,
    work=count_work,
    positional=("sae",),
    needs=("head",),
    opens=open_feature,
    effects={"k": left_out("features")},
)
def features(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    sae: Given | None = None,
    k: int = 20,
    features: Sequence[int] | int | None = None,
    effect_tokens: int = 8,
    draws: int = 4,
    seed: int = 0,
) -> None:
    """Encode a text with a sparse autoencoder: its strongest features, token by token.

    Parameters
    ----------
    sae
        What ``ll.train_sae`` or ``ll.load_sae`` returned, or the path of its file.
    k
        How many features: those that write most at any token, by activation times the norm of the
        decoder's row; fewer where fewer are on.
    features
        Numbers of the features that are wanted, in the place of the ``k`` strongest.
    effect_tokens
        How many tokens that a feature raises, and that it lowers, are named.
    draws
        How many times the text is shuffled for comparison; 0 for never.
    seed
        Of the shuffles and of the random directions.

    Notes
    -----
    Tokens that the dictionary was not learned from (special ones, the first of a text) have no
    numbers and stay where they are when the text is shuffled. ``activation`` and
    ``shuffled_activation`` over (``feature``, ``position``) have an axis ``layer`` for a dictionary
    of several layers. Of several texts the features are the strongest of all of them, and the mean
    of ``explained`` is over all of them.

    ``random_explained`` draws as many directions as the dictionary has features, takes for each
    token those nearest to its activation, as many as features are on, and combines them by least
    squares: what so many directions explain that were never learned. ``effect_token`` is of the
    direct effect alone; later layers read what a feature writes, too, and a cell says what becomes
    of the next token without it.

    Raises
    ------
    InputError
        The dictionary is of another model, a feature does not exist, or none is on in the text.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> found = ll.features(model, texts[0], sae, k=5)
    >>> found.data.activation.dims, found.data.activation.shape, found.checks.ok
    (('feature', 'position'), (5, 10), True)
    """
    for name, number, least in (
        ("k", k, 1),
        ("draws", draws, 0),
        ("effect_tokens", effect_tokens, 0),
    ):
        if whole(number, name) < least:
            raise InputError(f"{name} is {number}; expected a number from {least}.")
    _, dictionary, places = dictionary_of(model, sae)
    texts = []
    for row in range(len(tokens.ids)):
        texts.append(EncodedText.of(places, dictionary, row_of(tokens, row), job.tick))
        job.progress(row + 1, len(tokens.ids), "texts")
    if not any(text.states.shape[1] for text in texts):
        raise InputError("No token counts: special ones and the first of each text do not.")
    numbers = _chosen(dictionary, texts, k, features)
    why = why_no_effects(model, places.sites[0].kind)
    count = 0 if why else min(effect_tokens, model.d_vocab)
    _declare(job, model, tokens, (dictionary, places), (numbers, draws, count))
    if why:
        job.remark(f"There is no effect on logits: {why}.")
    _emit_texts(
        job,
        dictionary,
        texts,
        numbers,
        torch.Generator().manual_seed(CONTROL + whole(seed, "seed")),
        draws,
    )
    _emit_features(job, model, dictionary, numbers, (len(texts), count))
    _check(job, next(text for text in texts if text.states.shape[1]))
    job.note(passes=len(texts) * (1 + draws) + 1 + len(places.sites))


def _chosen(
    dictionary: Dictionary,
    texts: Sequence[EncodedText],
    k: int,
    asked: Sequence[int] | int | None,
) -> Tensor:
    """Numbers of the features that are shown."""
    if asked is not None:
        return torch.tensor([dictionary.require(n) for n in wholes(asked, "features", least=0)])
    best = torch.zeros(dictionary.features)
    for text in texts:
        if text.states.shape[1]:
            best = torch.maximum(best, text.encode().amax((0, 1)))
    best = best * dictionary["W_dec"].norm(dim=1)
    on = int((best > 0).sum())
    if not on:
        raise InputError(
            "No feature is on in this text: give another text, or the features in features=."
        )
    strongest: Tensor = best.topk(min(k, on)).indices
    return strongest


def _declare(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    of: tuple[Dictionary, Places],
    shown: tuple[Tensor, int, int],
) -> None:
    dictionary, places = of
    numbers, draws, count = shown
    cells = Cells(model, tokens)
    sizes, coords = cells.sizes(), cells.coords()
    sizes |= {"feature": len(numbers)}
    coords["feature"] = (("feature",), numbers.numpy().astype(np.int32))
    if len(places.sites) > 1:
        sizes["layer"] = len(places.sites)
        coords["layer"] = (("layer",), np.array(places.layers, dtype=np.int32))
    if count:
        sizes |= {"side": len(SIDES), "rank": count}
        coords["side"] = (("side",), np.array(SIDES))
        coords["rank"] = (("rank",), np.arange(1, count + 1, dtype=np.int32))
    left = set() if draws else {"shuffled_activation"}
    left |= set() if "density" in dictionary.arrays else {"density"}
    job.declare(sizes, coords, [name for name in VARIABLES if name not in left])


def _emit_texts(
    job: Job,
    dictionary: Dictionary,
    texts: Sequence[EncodedText],
    numbers: Tensor,
    generator: torch.Generator,
    draws: int,
) -> None:
    """Hand over each text's features, then what they explain, then the controls."""
    length = max(text.tokens.ids.shape[1] for text in texts)
    mean = torch.cat([text.states for text in texts], 1).mean(1, keepdim=True)
    rows = torch.randn(dictionary["W_dec"].shape, generator=generator)
    rows = torch.nn.functional.normalize(rows, dim=1)
    for row, text in enumerate(texts):
        where = {"batch": row} if job.batched else {}

        def emit(values: dict[str, Tensor], text: EncodedText = text, where: Any = where) -> None:
            placed = {name: _placed(text, value, length) for name, value in values.items()}
            job.emit(where, placed)

        encoded = text.encode()
        emit({"activation": encoded[..., numbers]})
        written = [dictionary.written(x, f) for x, f in zip(text.states, encoded, strict=True)]
        left = (text.states - torch.stack(written)).square().sum(-1)
        around = (text.states - mean).square().sum(-1)
        counts = (encoded > 0).sum(-1)
        emit(
            {
                "explained": 1 - left / around.where(around > 0, torch.nan),
                "error": left.sqrt() / text.states.norm(dim=-1),
                "l0": counts.int(),
            }
        )
        if draws:
            emit({"shuffled_activation": text.shuffled(numbers, draws, generator, job.tick)})
        drawn = [text.random_errors(i, one, rows, job.tick) for i, one in enumerate(counts)]
        emit({"random_explained": 1 - torch.stack(drawn) / around.where(around > 0, torch.nan)})
        job.progress(row + 1, len(texts), "controls")


def _placed(text: EncodedText, values: Tensor, length: int) -> np.ndarray:
    """``[layer, n]`` or ``[layer, n, feature]`` with the tokens at their positions, last."""
    whole_numbers = values.dtype == torch.int32
    shape = (len(values), length, *values.shape[2:])
    found = torch.full(shape, -1 if whole_numbers else torch.nan, dtype=values.dtype)
    found[:, text.kept.nonzero().flatten()] = values
    found = found.movedim(1, -1)
    return (found if len(text.places.sites) > 1 else found[0]).numpy()


def _emit_features(
    job: Job, model: LensModel, dictionary: Dictionary, numbers: Tensor, sizes: tuple[int, int]
) -> None:
    """Hand over what is known of each feature whatever the text is."""
    texts, count = sizes
    known: dict[str, np.ndarray] = {}
    if "density" in dictionary.arrays:
        known["density"] = dictionary["density"][numbers].numpy()
    if count:
        tokens, scores = logit_effects(model, dictionary["W_dec"][numbers], count, job.tick)
        known |= {"effect_token": tokens.int().numpy(), "effect_score": scores.numpy()}
    for row in range(texts):
        job.emit({"batch": row} if job.batched else {}, known)


def _check(job: Job, text: EncodedText) -> None:
    job.check(
        "features and error are the activation", text.off_by_parts(), 1e-5,
        "largest difference, over the largest entry, of the features that are on, added one by "
        "one, with the error",
    )  # fmt: skip
    off, allowed = text.with_error_put_back(job.tick)
    what = "largest difference of a logit from the model's own, with what is not decoded put back"
    job.check("with the error, the model itself", off, allowed, what)
