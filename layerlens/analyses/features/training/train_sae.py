"""Learn a sparse autoencoder: a dictionary of features that activations are sums of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.features.training.asked import DEFAULT_LIMIT, Asked, AskedSae, sizes_of
from layerlens.analyses.features.training.training import Training
from layerlens.result.fitted import Fitted

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

SHARE = "1 - sum |x - y|^2 / sum |x - mean|^2"
VARIABLES = {
    "explained_variance": Variable(
        ("activations", "dictionary"), "float32", "1", "explained variance on texts set apart",
        formula=SHARE,
    ),
    "loss": Variable(
        ("activations",), "float32", "1", "unexplained variance of the batch that was learned from",
        formula="sum |x - y|^2 / sum |x - mean|^2",
    ),
    "l0": Variable(("activations",), "float32", "features", "features on for a token (L0)"),
    "dead": Variable(("activations",), "float32", "1", "share of features that are dead"),
}  # fmt: skip


def count_work(model: LensModel, tokens: Tokens | Texts, **options: object) -> Work:
    """Count passes and bytes of one call; reads the texts, runs nothing."""
    return work_of(AskedSae(model=model, **options), tokens)  # type: ignore[arg-type]


def work_of(asked: Asked, tokens: Tokens | Texts) -> Work:
    """Count passes and bytes of a training; reads the texts, runs nothing."""
    sizes = sizes_of(asked, tokens)
    fed = round(sizes.fed * min(1.0, sizes.total / max(1, sizes.train)))
    passes = max(1.0, sizes.total / max(1, sizes.train)) * asked.depth_share
    features = asked.width * asked.size
    # Per activation: the encoder's product, and for kinds that do not choose all of the others.
    products = 2 if asked.kind == "topk" else 12
    operations = 1.0 * products * sizes.total * asked.width * features * asked.dictionaries
    return Work(passes, 0, asked.held(sizes.total), tokens=fed, operations=operations)


@analysis(
    name="train_sae",
    question="Which features is a layer made of, learned from my own texts?",
    source="Bricken et al. (2023), Towards Monosemanticity; Gao et al. (2024), Scaling and "
    "Evaluating Sparse Autoencoders, arXiv 2406.04093; Lawson et al. (2024), Residual Stream "
    "Analysis with Multi-Layer SAEs, arXiv 2409.04185",
    cost="1 pass over the texts up to the last layer that is read, and a product of each token's "
    "activation with the dictionary for each of a few directions",
    view="curves",
    lead="The dictionary explains more the longer it learns; principal components with as many "
    "numbers a token are the control that it has to beat.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("gradients",),
    gradients=True,
    learns="sae",
)
def train_sae(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    site: str = "resid_post",
    layers: int | Sequence[int] | str | None = None,
    kind: str = "topk",
    size: float = 8,
    k: int = 32,
    activations: int | None = None,
    batch: int = 1024,
    lr: float = 1e-3,
    dead_after: int | None = None,
    positions_skipped: int = 1,
    test: float = 0.1,
    test_tokens: int = 4096,
    seed: int = 0,
    resume: Fitted | str | os.PathLike[str] | None = None,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Learn a sparse autoencoder of a site, in one layer or of several at once.

    Activations stream from the model: passes end at the last layer that is read, and a buffer in
    which they are shuffled is all that is held. Special tokens and the first of each text are left
    out, whose activations are outliers in most models.

    Parameters
    ----------
    site
        Kind of site: ``resid_post``, ``resid_pre``, ``resid_mid``, ``attn_out``, ``mlp_out``, or
        ``z``: the outputs of the heads, side by side.
    layers
        A layer, several, or ``"all"``: one dictionary of all of them, to which every activation
        is given standardised. None: the middle one.
    kind
        ``"topk"``: the ``k`` largest features of a token are on; ``"batchtopk"``: of a batch as
        many as ``k`` for each token, later those above a threshold; ``"relu"``, ``"jumprelu"``,
        ``"gated"``: those whose use is worth a price, which is steered until they are ``k``.
    size
        Features for each entry of the activation.
    k
        Features that are on for a token (L0); of the kinds without a choice, in the mean.
    activations
        How many to learn from, a token in each layer being one; the last batch is a whole one.
        None: every one of the texts once. Texts are read again where they have fewer.
    batch
        Activations for each step of Adam.
    lr
        Size of the steps; it falls to 0 over the last fifth.
    dead_after
        A feature that was off for so many activations is dead; those of kinds with ``k`` are
        taught what the others leave over. None: a tenth of all.
    positions_skipped
        Tokens at the beginning of each text that are left out, beside special ones.
    test
        Share of the texts (or groups) to set apart.
    test_tokens
        At most so many of their tokens are measured.
    seed
        Of what is drawn.
    resume
        One that was begun with the same texts and options: it goes on exactly where it was
        stopped.
    memory_limit

    Notes
    -----
    Returned is a :class:`layerlens.Fitted` of kind ``"sae"``; its arrays are listed in
    ``layerlens.analyses.features.dictionaries.dictionary``. Activations are learned with a scale
    that brings their norm near the root of the width, which is folded into the biases at the end.
    The price starts low and rises while the L0 it is to give falls to ``k`` over the first half;
    a training of a few hundred batches or more comes within about 15 % of ``k``, and a shorter
    one says how far it came.

    ``memory_limit`` covers what the analysis holds: the buffer, the dictionary with its optimiser
    and its last copy, the features of a batch and the activations set apart. Beside it stand the
    model, one pass of it over 1,024 tokens, the texts, and what the allocator keeps for later.

    Of the default model: ``ll.train_sae(model, texts, layers=15, activations=1_000_000)`` with
    ``texts = ll.texts(installed_texts(most=40_000) + installed_docs(most=100_000), length=128,
    long="split")``, which ``layerlens.corpus.installed`` has, in random order; ``ll.estimate`` says
    how long it takes.

    Raises
    ------
    InputError
        An option does not fit, a side has no token, or ``resume`` was begun otherwise.
    MemoryLimitError
        The limit is too small for the buffer of one batch.
    ActivationError
        Activations or the loss hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> sae = ll.train_sae(model, texts, layers=0, size=2, k=4, test=0.25, batch=16)
    >>> sae.kind, list(sae["W_dec"].shape), sae.options["layers"]
    ('sae', [128, 64], [0])
    """
    asked = AskedSae(
        model=model, site=site, layers=layers, kind=kind, size=size, k=k,
        activations=activations, batch=batch, lr=lr, dead_after=dead_after,
        positions_skipped=positions_skipped, test=test, test_tokens=test_tokens, seed=seed,
        resume=resume, memory_limit=memory_limit,
    )  # fmt: skip
    Training(job, tokens, asked).run()
