"""Fit a lens: what has to be added to a state so that the model's own head can read it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from layerlens.analyses.contract.contract import Job, Work, analysis
from layerlens.analyses.contract.effects import among, given
from layerlens.analyses.lenses.fitting.asked import (
    DEFAULT_LIMIT,
    JACOBIAN,
    LADDER,
    Asked,
    learned_kind,
)
from layerlens.analyses.lenses.fitting.documents import count_kept, rows_of
from layerlens.analyses.lenses.fitting.fit import Fit
from layerlens.analyses.lenses.fitting.judge import VARIABLES
from layerlens.analyses.lenses.fitting.kl_steps import STEP_TOKENS
from layerlens.analyses.lenses.jacobian.fit import VARIABLES as HALVES
from layerlens.analyses.lenses.jacobian.fit import JacobianFit
from layerlens.analyses.lenses.jacobian.plan import jacobian_work
from layerlens.analyses.lenses.jacobian.prompt import FUTURE
from layerlens.analyses.lenses.jacobian.token_fit import VARIABLES as ROWS
from layerlens.analyses.lenses.jacobian.token_fit import TokenFit
from layerlens.result.fitted import Fitted

if TYPE_CHECKING:
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens


def kind_of(options: Mapping[str, Any]) -> str:
    """What a call learns, as ``Fitted.kind`` says it."""
    return learned_kind(options["kind"], options["tracked"])


def count_work(model: LensModel, tokens: Tokens | Texts, *, kind: str, **options: Any) -> Work:
    """Count passes, rows through the head and bytes of one call; reads the texts, runs nothing."""
    asked = Asked(model, kind, **options)
    rows = rows_of(model, tokens)
    if kind == JACOBIAN:
        return jacobian_work(asked, rows)
    kept = count_kept(rows, asked.skipped)
    judged = round(asked.test * kept)
    taught, judged = kept - judged, min(asked.test_tokens, judged)
    plan = asked.plan(taught, judged)
    points = len(asked.chosen)
    head_rows = points * len(asked.lenses) * judged + 2 * plan.readings * judged
    # A step takes a product with the head for the lens, one for the final answer and one backwards.
    head_rows += points * 3 * asked.steps * min(STEP_TOKENS, taught) * (kind == "tuned")
    products = 4.0 * model.d_model**2 * taught * points * (kind != "bias")
    fed = sum(len(row.ids) for row in rows)
    return Work(plan.readings, head_rows, plan.bytes, tokens=fed, operations=products)


@analysis(
    name="fit_lens",
    question="How can a state of a middle layer be read by the model's own head?",
    source="Belrose et al. (2023), Eliciting Latent Predictions from Transformers with the Tuned "
    "Lens, arXiv 2303.08112; Hoerl and Kennard (1970), Ridge Regression; Gurnee et al. (2026), "
    "Verbalizable Representations Form a Global Workspace in Language Models",
    cost="1 pass over the texts (more under a small memory limit), plus the head on each test "
    "token and, for a tuned lens, on 256 tokens a step, at each point; for a Jacobian lens a pass "
    "back over the texts for each entry of a state",
    view="curves",
    lead="Each curve is a lens, judged on texts that it was not fitted on: the lower the "
    "divergence, the nearer its reading of that depth is to the model's final answer; a uniform "
    "guess is the control.",
    variables={**VARIABLES, **HALVES, **ROWS},
    work=count_work,
    pooled=True,
    corpus=True,
    needs=("head",),
    learns=kind_of,
    effects={
        "steps": among("kind", "tuned"),
        "rank": among("kind", "tuned"),
        "ridge": among("kind", "tuned", "ridge"),
        "test_tokens": among("kind", *LADDER[1:]),
        "reduction": among("kind", JACOBIAN),
        "tracked": among("kind", JACOBIAN),
        "controls": given("tracked"),
    },
)
def fit_lens(
    job: Job,
    model: LensModel,
    tokens: Tokens | Texts,
    *,
    kind: str = "ridge",
    points: str | Sequence[str] = ("embed", "post"),
    steps: int = 60,
    rank: int | None = None,
    positions_skipped: int | None = None,
    ridge: float | None = None,
    test: float = 0.2,
    test_tokens: int = 4096,
    reduction: str = FUTURE,
    tracked: Sequence[str | int] = (),
    controls: int = 16,
    seed: int = 0,
    resume: Fitted | str | os.PathLike[str] | None = None,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Fit a map at each point that takes states to where the model's own head can read them.

    The model stays as it is. A lens that was fitted is given to ``ll.logit_lens`` and to whatever
    takes a lens; it belongs to this model alone.

    Parameters
    ----------
    kind
        ``"bias"``: the mean difference between the final state and the state is added.
        ``"ridge"``: an affine map with the least squared error to the final state.
        ``"tuned"``: from there on, ``steps`` of Adam on the divergence of the lens's answer from
        the final one.
        ``"jacobian"``: the state is multiplied with the mean derivative of the final states by it,
        so that the lens says what the state disposes the model to say, now or later. It is
        computed, not learned, and takes long: see the notes.
    points
        Kinds of points (``embed``, ``mid``, ``post``) or labels such as ``"7_post"``. The last
        state needs no map.
    steps
        Steps at each point, of 256 tokens each.
    rank
        Of a tuned lens: of what its matrix adds. None for any; 0 trains a bias alone.
    positions_skipped
        Tokens at the beginning of each text that do not count: their states are often outliers.
        None: 4, and 16 for a Jacobian lens.
    ridge
        Penalty on the size of a ridge map, as a share of the mean variance of an entry of the
        state. None: of 1e-8 to 1, the one with the least error on every fifth training text.
    test
        Share of the texts (or groups) to set apart.
    test_tokens
        At most so many of their tokens, drawn at random, are judged; of a Jacobian lens all are.
    reduction
        Of a Jacobian lens: ``"future"`` sums the derivatives of the final states at this position
        and all later ones, ``"self"`` takes that at this position alone.
    tracked
        Of a Jacobian lens: tokens, as strings or ids, for which alone it is fitted: a pass back
        over each text for each of them instead of for each entry of a state.
        ``ll.token_dispositions`` reads what is returned.
    controls
        So many tokens drawn at random, with directions about as long, are fitted beside them.
    seed
        Of what is drawn.
    resume
        A lens that was begun with the same texts and options: the points that it has (of a
        Jacobian lens the prompts) are taken from there.
    memory_limit

    Notes
    -----
    Returned is the lens (:class:`layerlens.Fitted`); ``layerlens.analyses.lenses.scores`` reads
    its scores as arrays. A live run shows ``kl``, ``ce`` and ``top1`` over (``lens``, ``point``)
    as they are found, with ``_low`` and ``_high`` for the 95 % interval over texts. Where a map is
    not better than none on the test texts, none is kept, and ``identity`` of that point is 1.
    A ridge map pulls towards the mean final state, and is found from sums over tokens in float64;
    it minimises the error of the state, not the divergence.

    A Jacobian lens is the mean over texts of ``1/|V|`` times the sum of ``d f_u / d h_t`` over
    positions ``t <= u``, both of ``V``: with ``f`` the final states and ``V`` all positions but the
    first ones and the last. Every text counts alike. One pass back gives one row of the matrices
    of all points, so that a text takes ``d_model`` of them whatever the number of points;
    ``ll.estimate`` says how long. A run that was stopped has what it found by then, and goes on
    with ``resume=``. Its scores ``"train"`` hold ``prompts``, how many texts it is of, and
    ``halves_cosine`` and ``halves_error`` of each point: how alike the matrices of two halves of
    the texts are, as a mean over all ways to halve them. For the next token it may do worse than
    the logit lens, which the scores ``"test"`` show: it answers another question.

    With ``tracked`` the rows ``u_v J`` of tokens are found alone (``"<point>.rows"``, in the order
    of the array ``tokens``), with ``u_v`` the token's row of the head times the gain of the final
    norm. They give the logits of the Jacobian lens, less biases, up to one positive factor of each
    state: which of these tokens is ahead is exact, and probabilities are not there. The scores
    ``"test"`` hold ``rows_cosine``, of a token's row with its row on the texts set apart, and
    ``rows_cosine_other``, with other tokens' rows there.

    Raises
    ------
    InputError
        An option does not fit, or a side has no token.
    ModelError
        The model lacks what this kind of lens needs: gradients, reading from left to right, or a
        norm before its head.
    MemoryLimitError
        The limit is too small for one point.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = [f"cat dog {a} owl fox cat dog {a} owl" for a in ("bee", "ant", "emu", "hen")]
    >>> lens = ll.fit_lens(model, texts, kind="bias", test=0.25)
    >>> lens.kind, list(lens)
    ('bias_lens', ['embed.bias', '0_post.bias'])
    >>> lens = ll.fit_lens(model, texts, kind="jacobian", points="post", positions_skipped=2)
    >>> lens["0_post.jacobian"].shape, lens.scores["train"]["prompts"]
    (torch.Size([64, 64]), 3.0)
    >>> ll.logit_lens(model, texts[0], lens=lens).data.point.values.tolist()
    ['0_post', '1_post', 'final']
    """
    asked = Asked(
        model, kind, points, steps, rank, positions_skipped, ridge, test, test_tokens, reduction,
        tracked, controls, seed, resume, memory_limit,
    )  # fmt: skip
    way = Fit if kind != JACOBIAN else TokenFit if tracked else JacobianFit
    way(job, tokens, asked).run()
