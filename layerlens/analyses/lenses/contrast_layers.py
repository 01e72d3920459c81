"""What a model writes when an earlier layer's answer is held against the final one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.lenses.contrast_candidates import candidates
from layerlens.analyses.lenses.contrast_rules import require
from layerlens.analyses.lenses.contrast_states import Rule
from layerlens.analyses.lenses.contrast_writing import WRITINGS, Contrast
from layerlens.analyses.lenses.readers import LOGIT, Lens, reader_of, told_reader
from layerlens.analyses.lenses.variables import NO_LAYER
from layerlens.analyses.lenses.write_calls import Wanted
from layerlens.errors import InputError
from layerlens.run.edit_lists import as_edits, code_of
from layerlens.run.edits import Edit
from layerlens.run.resolve import count_runs

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

VARIABLES = {
    "divergence": Variable(
        ("point", "step"), "float32", "nats", "how far the layer's answer is from the final one"
    ),
    "chosen": Variable(
        ("point", "step"), "float32", "nats", "the same at the layer that was chosen"
    ),
    "chosen_layer": Variable(("step",), "int32", "layer", "layer that was chosen", NO_LAYER),
    **{
        name: Variable(("step",), "int32", "1", words, is_token=True)
        for name, words in (
            ("written_id", "token written with contrast"),
            ("own_written_id", "token of the model's own text"),
            ("random_written_id", "token written with layers drawn at random"),
        )
    },
    "own_id": Variable(
        ("step",), "int32", "1", "what the model itself would write there", is_token=True
    ),
    "own_rank": Variable(("step",), "int32", "1", "rank of the written token for the model itself"),
    "own_probability": Variable(
        ("step",), "float32", "1", "probability of the written token for the model itself"
    ),
    "early_probability": Variable(
        ("step",), "float32", "1", "probability of the written token at the chosen layer"
    ),
    "plausible": Variable(("step",), "int32", "tokens", "tokens that alpha leaves to choose from"),
}
REMARKS = {
    "dola": "Small models gain little from DoLa, by its authors: compare the text with the one "
    "beside it, and with that of layers drawn at random.",
    "fused": "LFD-style: the paper's score of internal knowledge and its fusion are not public in "
    "code; the divergence across the MLP, the sum and its weight are choices of our own.",
    "difference": "LOL-style: the paper's formula and weights are not public in code; the layer, "
    "the sum and its weights are choices of our own, its instruction term is left out.",
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    method: str,
    layers: Any,
    max_new_tokens: int,
    edits: Edit | Iterable[Edit],
    control: bool,
    amateur: Any,
    verify: int,
    **_: object,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    points = candidates(model, method, layers)
    texts, length = tokens.ids.shape
    new = Wanted(max_new_tokens).new
    writings = len(_writings(control, len(points)))
    a_token = (1 + (method == "fused")) * len(points)
    rows = texts * new * (writings + (writings - 1) * a_token + 1)
    passes = writings + bool(verify) + (writings - 1) * new * (amateur is not None)
    again = texts * min(verify, new) * (a_token + 1)
    passes += count_runs(model, tokens, edits)
    # Log probabilities of a candidate, the chosen one, the final one, and what they are made of.
    held = 8 * 4 * model.d_vocab * texts * max(1, min(verify, new))
    return Work(passes, rows + again, held, texts * (length + new - 1), steps=writings * new)


def _writings(control: bool, points: int) -> tuple[str, ...]:
    """Which texts are written; one candidate drawn at random is no control."""
    return WRITINGS if control and points > 1 else WRITINGS[:2]


@analysis(
    name="contrast_layers",
    question="What would the model write if an earlier layer's answer were held against its own?",
    source="DoLa: Chuang et al. (2023), DoLa: Decoding by Contrasting Layers Improves Factuality, "
    "arXiv 2309.03883; fused in the style of Sun et al. (2025), Layer Fused Decoding, arXiv "
    "2508.19614; difference in the style of Chen et al. (2024), Lower Layer Matters, arXiv "
    "2408.08769",
    cost="1 pass of the text and of each new token for each of two or three texts, with a product "
    "of every candidate with the head; 1 pass more to verify; an amateur adds a pass of each token",
    view="grid",
    lead="Each column is a token that was written with contrast, each row a layer that it could be "
    "held against: how far its answer is from the final one, and which was chosen. The table has "
    "the texts with it, without it, and with layers drawn at random.",
    variables=VARIABLES,
    work=count_work,
    needs=("head", "causal"),
    effects={
        "amateur": among("method", "difference"),
        "amateur_weight": given("amateur"),
        "seed": given("control"),
    },
)
def contrast_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    method: str = "dola",
    variant: str = "paper",
    layers: str | int | Sequence[int | str] | None = None,
    alpha: float = 0.1,
    weight: float = 1.0,
    max_new_tokens: int = 20,
    lens: Lens = LOGIT,
    edits: Edit | Iterable[Edit] = (),
    amateur: Any = None,
    amateur_weight: float = 1.0,
    stop: str | Sequence[str] = (),
    control: bool = True,
    seed: int = 0,
    verify: int = 2,
) -> None:
    """Write greedily by the final layer's answer and an earlier one's, and without it beside.

    With ``q`` the final layer's probabilities and ``e`` those of an earlier layer, read where the
    token is written from, only tokens with ``q >= alpha * max q`` may be written, and of these the
    one with the highest score. Transformers' own ``generate`` writes, with its cache.

    Parameters
    ----------
    method
        ``"dola"``: ``ln q - weight * ln e``, at the candidate whose answer is farthest from the
        final one. ``"fused"``, LFD-style: ``ln q + weight * ln e``, at the block whose MLP changes
        the answer least. ``"difference"``, LOL-style: the same sum at DoLa's choice, where with an
        amateur ``(1 + amateur_weight) * own - amateur_weight * amateur`` stands for each term.
    variant
        How an earlier state is read and how far is measured: ``"paper"`` through the final norm
        and by the Jensen-Shannon divergence, ``"reference"`` as DoLa's code does, by the head's
        weights alone and with both divergences the other way round.
    layers
        Candidates: ``"low"`` or ``"high"``, every second state of the lower or upper half as in
        DoLa's code; numbers of blocks, read after them; or labels (``"embed"``, ``"3_post"``).
        None: ``"low"``, and for ``"fused"`` the latter half without the last block.
    alpha
        Above 0; at 1 the text is the model's own.
    weight
        Of the earlier layer. 1 is DoLa; at 0 the text is the model's own.
    max_new_tokens
        How many tokens to write at most; fewer where the model ends its text.
    lens
        How states are read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    edits
        What to change while the model runs (``ll.edit``), in all texts alike.
    amateur
        For ``"difference"``, a model with the same tokens and depths that knows less, such as one
        that was tuned to be wrong. It is not edited, and read by the logit lens.
    amateur_weight
        How much of it is taken off.
    stop
        Texts behind which writing ends.
    control
        Write a third text, with candidates drawn at random instead of chosen.
    seed
        Of the draws.
    verify
        How many tokens' divergences are computed again from one pass of the whole text without a
        cache; 0 for none.

    Notes
    -----
    ``written_id`` is the text with contrast, ``own_written_id`` the model's own,
    ``random_written_id`` that of ``control``; everything else is of the text with contrast. The
    attributes ``text_contrast``, ``text_own``, ``text_random_layer`` hold the
    texts. For ``"fused"`` the divergence is that between the answers before and after a block's
    MLP, and the smallest is chosen. DoLa's code chooses one layer for all texts of a batch; here
    each text has its own, so that none depends on the others. Of LFD and LOL only descriptions
    are public: what is called their style is built from these, and reproduces neither paper.

    Raises
    ------
    InputError
        An option does not fit, or the text and what is to be written are longer than the context.
    LayerLensError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> both = ll.contrast_layers(model, "cat dog owl cat", layers=[0], max_new_tokens=3)
    >>> both.data.token.values.tolist(), both.data.chosen_layer.values.tolist()
    (['dog', 'owl', 'cat'], [0, 0, 0])
    >>> both.data.attrs["text_own"]
    'dogowlcat'
    """
    require(method, variant, alpha, weight=weight, amateur_weight=amateur_weight)
    reader = told_reader(job, model, lens)
    if variant == "reference":
        _require_reference(model, method, reader.fitted is not None)
    points = candidates(model, method, layers)
    reader.require(points)
    rule = Rule(method, variant, points, float(alpha), float(weight), float(amateur_weight))
    texts = (stop,) if isinstance(stop, str) and stop else tuple(stop)
    found = as_edits(edits)
    if found:
        job.note(edits=code_of(found))
    job.remark(REMARKS[method])
    weaker = None if amateur is None else (amateur, reader_of(_require_amateur(model, amateur)))
    wanted = Wanted(max_new_tokens, seed=seed, stop=texts)
    writings = _writings(control, len(points))
    Contrast(job, model, tokens, reader, rule, wanted, writings, VARIABLES, weaker).run(
        found, verify
    )


def _require_reference(model: LensModel, method: str, fitted: bool) -> None:
    """Refuse what DoLa's code cannot read."""
    if method == "fused":
        raise InputError("variant='reference' is DoLa's code, which method='fused' is not part of.")
    if fitted:
        raise InputError("variant='reference' reads by the head alone: leave lens out.")
    head: Any = model.hf.get_output_embeddings()
    if head is None or head.weight.shape[-1] != model.d_model:
        raise InputError(
            f"The head of {model.name} does not take states as they are, as variant='reference' "
            "needs: use variant='paper'."
        )


def _require_amateur(model: LensModel, amateur: Any) -> LensModel:
    """The amateur, if its answers can be held against those of the model."""
    from layerlens.model.lensmodel import LensModel

    if not isinstance(amateur, LensModel) or amateur.hf is model.hf:
        raise InputError("amateur has to be another model, as ll.load gives it.")
    if amateur.d_vocab != model.d_vocab or amateur.n_layers != model.n_layers:
        raise InputError(
            f"The amateur has {amateur.d_vocab} tokens and {amateur.n_layers} blocks, the model "
            f"{model.d_vocab} and {model.n_layers}: take one with the same."
        )
    return amateur
