"""Whether the states of a text and of its translation find each other, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.options import nearest
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.lenses.fitting.documents import rows_of, text_of
from layerlens.analyses.probing.alone import check_alone
from layerlens.analyses.probing.asked import points_of
from layerlens.analyses.probing.examples import Examples, recorded
from layerlens.analyses.probing.matched import matched, units_of
from layerlens.analyses.probing.numbers import share_between
from layerlens.analyses.probing.retrieval import partners
from layerlens.analyses.probing.states import Points
from layerlens.analyses.probing.untrained import untrained as untrained_of
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.corpus.rows import Row
    from layerlens.corpus.spread import Workers
    from layerlens.corpus.texts import Texts
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 1_000_000_000
POOLS = ("mean", "last")
SHOWN = ("found_translation", "found_text", "cosine_gap")
OF = "of"
PAIRS, SHUFFLED, UNTRAINED, CHANCE = "pairs", "shuffled pairs", "untrained", "chance"
_ROW, _OVER = (OF, "point"), "pairs or groups"
VARIABLES = {
    **with_interval(
        "found_translation",
        Variable(_ROW, "float64", "1", "share of texts whose translation is the nearest (P@1)"),
        _OVER,
    ),
    **with_interval(
        "found_text",
        Variable(_ROW, "float64", "1", "share of translations whose text is the nearest (P@1)"),
        _OVER,
    ),
    **with_interval(
        "cosine_gap",
        Variable(_ROW, "float64", "1", "mean cosine of pairs minus that of others", signed=True),
        _OVER,
    ),
}


def count_work(
    model: LensModel,
    texts: Tokens | Texts,
    translations: Tokens | Texts,
    *,
    site: str,
    layers: Any,
    untrained: bool,
    memory_limit: int,
    **_: Any,
) -> Work:
    """Count passes, bytes and operations of one call; reads the texts, runs nothing."""
    points, passes = len(points_of(model, site, layers)), 2 if untrained else 1
    rows = [*rows_of(model, texts), *rows_of(model, translations)]
    fed = sum(len(row.ids) for row in rows)
    size = min(4 * len(rows) * model.d_model * points, 2 * memory_limit)
    cosines = (1 + passes) * 2 * 2.0 * (len(rows) / 2) ** 2 * model.d_model * points
    return Work(passes, 0, size, tokens=fed, operations=cosines)


@analysis(
    name="aligned_pairs",
    question="At which layer do a text and its translation lie nearest to each other?",
    source="Conneau et al. (2018), Word Translation Without Parallel Data, arXiv 1710.04087; "
    "Libovický et al. (2020), On the Language Neutrality of Pre-trained Multilingual "
    "Representations, arXiv 2004.05160 (centring)",
    cost="1 pass over both texts of every pair, and 1 of an untrained model",
    view="curves",
    lead="The higher above chance, the more of what a text means lies in the same direction in "
    "both languages at that depth. What an untrained model reaches comes from tokens that both "
    "share and from lengths.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    corpus=True,
    inputs=("texts", "translations"),
)
def aligned_pairs(
    job: Job,
    model: LensModel,
    texts: Tokens | Texts,
    translations: Tokens | Texts,
    *,
    groups: Sequence[Any] | None = None,
    pool: str = "mean",
    centre: bool = True,
    site: str = "resid_post",
    layers: Any = None,
    untrained: bool = True,
    seed: int = 0,
    memory_limit: int = DEFAULT_LIMIT,
    workers: Workers = None,
) -> None:
    """Let each text find its translation among all others by the cosine of their states.

    Parameters
    ----------
    texts, translations
        Two lists, or ``ll.texts``: the first belongs to the first, and so on.
    groups
        Of each pair: what is drawn together for the intervals. None: those of the
        ``ll.texts(..., group=)`` of the texts, and where there are none every pair is one.
    pool
        What stands for a text: the ``"mean"`` of the states of its tokens, or the ``"last"`` one;
        special tokens left aside.
    centre
        Whether the mean of each language is subtracted first: what all its texts have in common is
        often larger than what sets them apart.
    site
        ``resid_post`` (and the embedding), ``resid_mid``, ``attn_out``, ``mlp_out``.
    layers
        Which; None for all, with the embedding.
    untrained
        Whether the same is read from a model of this configuration that was never trained.
    seed
        Of the shuffled pairs and the untrained model.
    memory_limit
        Bytes of the states of each language; more go to a file while the call lasts.
    workers

    Notes
    -----
    Chance is 1 over the number of pairs. Texts that are as near as the translation share the
    credit. Names and words that both languages spell alike find each other in the embedding
    already; ``untrained`` and the first point show how much that is.

    Raises
    ------
    InputError
        The lists do not pair up, there are fewer than two, or an option is none.
    ModelError
        The model cannot be built untrained.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> texts = ["cat dog", "owl fox", "bee ant"]
    >>> found = ll.aligned_pairs(model, texts, texts, untrained=False)
    >>> found.data.found_text.sel(of="pairs").values.tolist()
    [1.0, 1.0, 1.0]
    """
    if pool not in POOLS:
        raise nearest(pool, POOLS, "Pool")
    sides = [rows_of(model, side) for side in (texts, translations)]
    count = len(matched(sides[0], sides[1], "texts", "translations"))
    if count < 2:
        raise InputError("There is one pair, and nothing to find it among: give two or more.")
    unit = units_of(job, groups, count)
    points = points_of(model, site, layers)
    rows = [PAIRS, SHUFFLED, *([UNTRAINED] if untrained else []), CHANCE]
    job.declare(
        {OF: len(rows), "point": len(points)},
        {
            OF: ((OF,), np.array(rows)),
            "point": (("point",), np.array([point.label for point in points])),
            "layer": (("point",), np.array([p.layer for p in points], dtype=np.int32)),
        },
    )
    chance = {
        f"{name}{end}": np.full(len(points), value)
        for name, value in zip(SHOWN, (1 / count, 1 / count, 0.0), strict=True)
        for end in ("", "_low", "_high")
    }
    job.emit({OF: rows.index(CHANCE)}, chance)
    fed = sum(len(row.ids) for side in sides for row in side) * (2 if untrained else 1)
    work = _Aligning(job, model, points, rows, unit, seed, memory_limit, pool, centre, fed,
                     workers)  # fmt: skip
    work.run(PAIRS, model, (texts, translations), sides)
    if untrained:
        work.run(UNTRAINED, untrained_of(model, seed), (texts, translations), sides)
    job.note(passes=2 if untrained else 1)


@dataclass
class _Aligning:
    """The work of one call."""

    job: Job
    model: LensModel
    points: Sequence[Point]
    rows: Sequence[str]
    unit: np.ndarray
    seed: int
    limit: int
    pool: str
    centre: bool
    total: int
    workers: Workers
    done: int = 0

    def run(
        self,
        name: str,
        read: LensModel,
        given: Sequence[Tokens | Texts],
        sides: Sequence[Sequence[Row]],
    ) -> None:
        """Record both languages in one model, and compare them point by point."""
        both = [
            self._record(name, read, texts, side) for texts, side in zip(given, sides, strict=True)
        ]
        order = shuffled_partners(len(self.unit), self.seed)
        for place, (one, other) in enumerate(zip(*(found.states for found in both), strict=True)):
            self.job.tick()
            self._emit(name, place, one, other)
            if name == PAIRS:
                self._emit(SHUFFLED, place, one, other[order])
        if name == PAIRS:
            self._check(sides[0], both[0].states)

    def _record(
        self, name: str, read: LensModel, given: Tokens | Texts, side: Sequence[Row]
    ) -> Examples:
        before = self.done

        def progress(done: int, _: int) -> None:
            self.job.progress(before + done, self.total, name)

        found = recorded(
            read, given, self.points, spans_of(self.model, side, self.pool), self.limit,
            self.job.tick, progress, self.workers,
        )  # fmt: skip
        self.done += sum(len(row.ids) for row in side)
        return found

    def _emit(self, name: str, place: int, one: np.ndarray, other: np.ndarray) -> None:
        found = partners(one, other, centre=self.centre)
        arrays: dict[str, np.ndarray] = {}
        for variable, values in zip(SHOWN, found, strict=True):
            mean, low, high = map(np.array, share_between(values, self.unit))
            arrays |= {variable: mean, f"{variable}_low": low, f"{variable}_high": high}
        self.job.emit({OF: self.rows.index(name), "point": place}, arrays)

    def _check(self, side: Sequence[Row], states: Points) -> None:
        """Hold the states of the first text to a pass of it by itself."""
        where = spans_of(self.model, side, self.pool)
        check_alone(self.job, self.model, side, self.points, where, states)


def spans_of(model: LensModel, side: Sequence[Row], pool: str) -> list[tuple[int, int]]:
    """Of each text, from which position on and before which one its states are averaged.

    Raises
    ------
    InputError
        A text has special tokens only.
    """
    special = model.vocabulary.special
    found = []
    for row in sorted(side, key=lambda row: row.number):
        own = [place for place, index in enumerate(row.ids) if index not in special]
        if not own:
            raise InputError(
                f"Text {text_of(row)} holds special tokens only: give texts with words."
            )
        found.append((own[0] if pool == "mean" else own[-1], own[-1] + 1))
    return found


def shuffled_partners(count: int, seed: int) -> np.ndarray:
    """``[count]``: for each text the number of another one, at random; nobody keeps its own.

    Examples
    --------
    >>> sorted(shuffled_partners(3, seed=0).tolist())
    [0, 1, 2]
    """
    ring = np.random.default_rng(seed).permutation(count)
    order = np.empty(count, dtype=np.int64)
    order[ring] = np.roll(ring, 1)
    return order
