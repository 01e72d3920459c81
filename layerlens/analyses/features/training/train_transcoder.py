"""Learn transcoders: sparse features that read what an MLP reads, and write what it writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.parts import Variable
from layerlens.analyses.contributions.value_paths import Node
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.training.asked import DEFAULT_LIMIT, Asked
from layerlens.analyses.features.training.crossing import Crossing, CrossJudge
from layerlens.analyses.features.training.judge import COMPONENT_ROWS, Judge
from layerlens.analyses.features.training.learner import Learns
from layerlens.analyses.features.training.pairs import NORMALISE, PairJudge, Pairs
from layerlens.analyses.features.training.train_sae import SHARE, VARIABLES, work_of
from layerlens.analyses.features.training.training import LAYERS, Training
from layerlens.errors import InputError
from layerlens.model.sites import Site
from layerlens.result.fitted import Fitted

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


@dataclass(frozen=True, kw_only=True)
class AskedTranscoder(Asked):
    """The options of ``ll.train_transcoder``; see there."""

    LEARNS = "transcoder"
    CONTROL = "linear maps of that rank"
    SAME = ("skip", "cross_layer", *Asked.SAME)

    skip: bool
    cross_layer: bool

    @cached_property
    def places(self) -> Places:
        """For each layer what the MLP's norm is given, and what the MLP writes.

        Raises
        ------
        InputError
            ``layers`` is no layer, or a layer has no MLP.
        """
        model, layers = self.model, self.layers
        if isinstance(layers, str) and layers != "all":
            raise InputError(f"layers is {layers!r}; expected numbers, or 'all'.")
        if self.positions_skipped < 0:
            raise InputError(
                f"positions_skipped is {self.positions_skipped}; expected a number from 0."
            )
        middle = model.n_layers // 2 if layers is None else layers
        chosen = model.layers(None if middle == "all" else middle)
        sites = []
        for layer in sorted(set(chosen)):
            sites += [Node(layer, mlp=True).reads(model), Site("mlp_out", layer)]
        if self.cross_layer and len(sites) == 2:
            raise InputError(
                f"cross_layer=True needs several layers and got layer {sites[0].layer} alone: give "
                "layers='all', or several."
            )
        for site in sites:
            model.anatomy.tap(site)
        return Places(model, tuple(sites), self.positions_skipped)

    @property
    def dictionaries(self) -> int:
        """One a layer."""
        return len(self.places.layers)

    @property
    def sites_of_one(self) -> int:
        """All: a token gives each layer a pair."""
        return len(self.places.sites)

    @property
    def parameters(self) -> int:
        """With the affine path, and the decoders into later layers, mean over layers."""
        later = self.cross_layer * (self.dictionaries - 1) / 2
        own = super().parameters + self.skip * self.width**2
        return own + round(later * self.width * self.features)

    @property
    def beginning(self) -> int:
        """Of the linear maps, with what the first read and write, a few times over."""
        rows = min(COMPONENT_ROWS, self.activations or COMPONENT_ROWS)
        layers = self.dictionaries if self.cross_layer else 1
        found = 24 * (rows + 4 * self.width) * self.width * (1 + layers) // 2
        return found + 32 * self.test_tokens * self.width

    @property
    def normalise(self) -> str:
        """As an RMS norm does."""
        return NORMALISE

    def learner(self, total: int, first: Tensor) -> Learns:
        """Transcoders, one a layer."""
        made = Crossing if self.cross_layer else Pairs
        return made(self.recipe(total), first, skip=self.skip)

    def judge(self, x: Tensor) -> Judge:
        """Beside linear maps."""
        return CrossJudge(x) if self.cross_layer else PairJudge(x)

    def facts(self) -> dict[str, Any]:
        """Layers, and what is read and written there."""
        read, written = self.places.sites[:2]
        return super().facts() | {"site": read.kind, "site_out": written.kind}


def count_work(model: LensModel, tokens: Tokens | Texts, **options: object) -> Work:
    """Count passes and bytes of one call; reads the texts, runs nothing."""
    return work_of(AskedTranscoder(model=model, **options), tokens)  # type: ignore[arg-type]


@analysis(
    name="train_transcoder",
    question="Which features does an MLP compute, as a sparse map from what it reads to what it "
    "writes?",
    source="Dunefsky, Chlenski and Nanda (2024), Transcoders Find Interpretable LLM Feature "
    "Circuits, arXiv 2406.11944; Paulo, Shabalin and Belrose (2025), Transcoders Beat Sparse "
    "Autoencoders for Interpretability, arXiv 2501.18823; Ameisen et al. (2025), Circuit Tracing: "
    "Revealing Computational Graphs in Language Models",
    cost="1 pass over the texts up to the last layer that is read, and for each layer a product of "
    "each token's activation with the transcoder for each of a few directions",
    view="curves",
    lead="The transcoder explains more of what the MLP writes the longer it learns; linear maps "
    "that hand on as many numbers a token are the control that it has to beat.",
    variables={
        **VARIABLES,
        LAYERS: Variable(
            ("activations", "layer"),
            "float32",
            "1",
            "explained variance of each layer",
            formula=SHARE,
        ),
    },
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("gradients",),
    gradients=True,
    learns="transcoder",
)
def train_transcoder(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    layers: int | Sequence[int] | str | None = None,
    kind: str = "topk",
    size: float = 8,
    k: int = 32,
    skip: bool = False,
    cross_layer: bool = False,
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
    """Learn a transcoder for the MLP of each of some layers.

    It reads what the norm before the MLP is given: the stream between the sublayers
    (``resid_mid``; ``resid_pre`` where they run in parallel), brought to one norm token by token as
    an RMS norm does it. It writes what the MLP adds to the stream (``mlp_out``). Layers learn at
    the same time, from the same passes, each its own transcoder. With ``cross_layer=True`` a
    feature also writes into every later layer that is learned, so that what several MLPs do one
    after the other may be one feature, where transcoders of single layers have a copy in each.

    Parameters
    ----------
    layers
        A layer, several, or ``"all"``, as ``ll.feature_circuit`` wants them. None: the middle one.
    kind
        As of ``ll.train_sae``: ``"topk"``, ``"batchtopk"``, ``"relu"``, ``"jumprelu"``,
        ``"gated"``.
    size
        Features for each entry of the stream.
    k
        Features that are on for a token (L0); of the kinds without a choice, in the mean.
    skip
        Whether an affine path leads past the features, so that these need not spell out what is
        linear in the MLP.
    cross_layer
        Whether features write into all learned layers from their own on, which are explained
        together; a transcoder of ``n`` layers has ``n (n + 1) / 2`` decoders then.
    activations
        Tokens to learn from; None: every one of the texts once. Texts are read again where they
        have fewer.
    batch
        Tokens for each step of Adam.
    lr
        Size of the steps; it falls to 0 over the last fifth.
    dead_after
        A feature that was off for so many tokens is dead; those of kinds with ``k`` are taught
        what the others leave over. None: a tenth of all.
    positions_skipped
        Tokens at the beginning of each text that are left out, beside special ones.
    test
        Share of the texts (or groups) to set apart.
    test_tokens
        At most so many of their tokens are measured.
    seed
        Of what is drawn.
    resume
        What was begun with the same texts and options: it goes on exactly where it was stopped.
    memory_limit

    Notes
    -----
    Returned is a :class:`layerlens.Fitted` of kind ``"transcoder"``; its arrays are listed in
    ``layerlens.analyses.features.dictionaries.dictionary``, with an axis of layers in front where
    there are several. ``explained_variance`` of the control is that of the best linear map of as
    high a rank as features are on (reduced-rank regression), mean over layers; ``scores`` has each
    layer's, and so has ``layer_explained_variance`` while it learns.

    Cross-layer ones are of Ameisen et al. (2025): the errors of all layers are summed, and of the
    kinds without a choice a feature pays by the norm of its decoders side by side. That ``k`` of a
    layer are on in the mean of all layers (of the kinds with a choice: in each) is ours.

    Raises
    ------
    InputError
        An option does not fit, a side has no token, or ``resume`` was begun otherwise.
    SiteError
        A layer has no MLP that writes one tensor.
    MemoryLimitError
        The limit is too small for the transcoders and one batch.
    ActivationError
        Activations or the loss hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> found = ll.train_transcoder(model, texts, layers="all", size=2, k=4, test=0.25, batch=16)
    >>> found.kind, list(found["W_dec"].shape), found.options["site"], found.options["layers"]
    ('transcoder', [2, 128, 64], 'resid_mid', [0, 1])
    """
    asked = AskedTranscoder(
        model=model, layers=layers, kind=kind, size=size, k=k, skip=skip,
        cross_layer=cross_layer, activations=activations, batch=batch, lr=lr, dead_after=dead_after,
        positions_skipped=positions_skipped, test=test, test_tokens=test_tokens, seed=seed,
        resume=resume, memory_limit=memory_limit,
    )  # fmt: skip
    Training(job, tokens, asked).run()
