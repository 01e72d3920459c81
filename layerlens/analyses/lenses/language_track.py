"""In which language, or with which set of tokens, a model would answer at each depth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.parts import with_interval
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.lenses.early_exit import exits_of
from layerlens.analyses.lenses.language_cell import open_language
from layerlens.analyses.lenses.readers import LOGIT, Lens, reader_of, told_reader
from layerlens.analyses.lenses.set_groups import Groups
from layerlens.analyses.lenses.set_masses import Fed, Found, SetPass, rows_for, together
from layerlens.analyses.lenses.state_energy import Energy
from layerlens.analyses.lenses.token_sets import Said, sets_given
from layerlens.analyses.sweeps.intervals import mean_interval
from layerlens.run.head_rows import Head

if TYPE_CHECKING:
    from layerlens.analyses.lenses.points import Point
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 400_000_000
ROUNDING = 1e-5
"""Probability: sums above one by less are rounding."""
TOLD = 10
"""Tokens that were taken from sets and are named in a remark."""

VARIABLES = {
    **with_interval(
        "mass",
        Variable(("point", "set"), "float64", "1", "probability of the set", unclipped=True),
    ),
    **with_interval(
        "mass_other_texts",
        Variable(
            ("point", "other_set"),
            "float64",
            "1",
            "probability of the next text's set",
            unclipped=True,
        ),
    ),
    **with_interval(
        "entropy", Variable(("point",), "float64", "nats", "entropy of the prediction")
    ),
    **with_interval(
        "energy",
        Variable(("point",), "float64", "1", "share of the state that the head reads"),
    ),
    "energy_at_random": Variable((), "float64", "1", "energy of a random direction"),
    "size": Variable(("set",), "float64", "1", "tokens in the set of a text"),
    "chance": Variable(("set",), "float64", "1", "probability of the set if all tokens were alike"),
}


def rows_of(tokens: Tokens, groups: Groups) -> list[Fed]:
    """All rows that are fed, text by text."""
    real = [ids[mask].tolist() for ids, mask in zip(tokens.ids, tokens.mask, strict=True)]
    return [fed for text, ids in enumerate(real) for fed in rows_for(text, ids, groups.each[text])]


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    sets: Any,
    mode: str,
    lens: Lens,
    memory_limit: int,
) -> Work:
    """Count passes, rows through the head and bytes of one call; runs nothing."""
    groups = Groups(model, sets_given(sets, len(tokens.ids)), mode)
    rows = rows_of(tokens, groups)
    points = len(exits_of(model, reader_of(model, lens))) + 1
    fed = sum(len(row.ids) for row in rows)
    head_rows = points * sum(len(row.ids) - row.start for row in rows)
    pairs = max(sum(len(said) for row in part for said in row.said) for part in together(rows))
    kept = 8 * points * groups.count * len(tokens.ids)
    square = 2.0 * model.d_vocab * model.d_model**2
    return Work(1, head_rows, kept + 40 * pairs + memory_limit // 2, fed, operations=square)


@analysis(
    name="language_track",
    question="In which language, or with which set of tokens, would the model answer at each "
    "depth?",
    source="Wendler et al., Do Llamas Work in English? On the Latent Language of Multilingual "
    "Transformers (2024), arXiv 2402.10588; words of several tokens: Zhong et al., Beyond "
    "English-Centric LLMs (2024), arXiv 2408.10811",
    cost="1 pass, plus one product of the end of each text with the head at each layer; "
    "mode='word' passes of every word that follows",
    view="curves",
    lead="How much probability each set has at the end of the texts, by depth: a language is on "
    "the way only where its curve stands above the random sets and the words of other texts.",
    variables=VARIABLES,
    work=count_work,
    pooled=True,
    positional=("sets",),
    needs=("head", "causal"),
    opens=open_language,
)
def language_track(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    sets: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    mode: str = "first_token",
    lens: Lens = LOGIT,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Follow the probability of sets of words at the end of texts through the layers.

    Every state between blocks is read by the model's own norm and head, or a lens that was
    fitted, and the probabilities of each set's tokens are added up; means over the texts.

    Parameters
    ----------
    sets
        Name to words or token ids, for all texts, or a list of these with one for each text
        (``ll.translation_prompts`` makes them); None: the listed nouns of seven languages.
    mode
        What of a word is looked for: ``"first_token"`` (the token that the tokenizer begins it
        with, by itself, behind a space and behind a quote), ``"prefix"`` (every token that it
        begins with, with or without a space: the paper's sets, which hold single letters), or
        ``"word"`` (all of its tokens, one after the other: their probabilities multiplied, the
        word before them fed).
    lens
        How states are read: ``"logit"``, what ``ll.fit_lens`` returns, or the path of its file.
    memory_limit

    Notes
    -----
    What belongs to several sets of a text tells nothing of either: it is taken from all of them
    and has a curve of its own, ``shared``. A text in which a set has nothing left does not count
    for its curve. ``random`` are 100 sets (fewer if they are large; of words one) of random tokens
    as large as the text's largest set: their mean, and what 95 % of them lie between; all other
    intervals are over texts. ``mass_other_texts`` is the probability of the next text's sets,
    where texts have their own: a language that is on the way without its word raises both. The
    energy is that of the paper: the root of the state's mean squared cosine with the rows of the
    head, over that of the rows with each other.

    A set that a model hardly gives probability at its end either (compare the last point) tells
    nothing of the layers before. The default model has read little but English: it translates
    common French nouns into English, hardly the other way round, and begins Chinese or Russian
    words with single bytes, which many words share.

    Raises
    ------
    InputError
        A set is none, a word cannot be said with the vocabulary, or an option does not fit.
    ActivationError
        The model's activations hold NaN or infinity.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> sets = {"seen": ["dog", "owl"], "unseen": ["ant", "bee"]}
    >>> found = ll.language_track(model, "cat dog owl cat", sets)
    >>> found.data.mass.sel(point="final", set=["seen", "unseen"]).values.round(2).tolist()
    [1.0, 0.0]
    """
    groups = Groups(model, sets_given(sets, len(tokens.ids)), mode)
    reader = told_reader(job, model, lens)
    points = exits_of(model, reader)
    head = Head.of(model, memory_limit // 2)
    energy = Energy.of(model, job.tick)
    track = _Track(job, groups, points, model.n_layers, energy)
    job.note(mode=mode, lens=reader.name)
    _tell(job, model, groups)
    runner = SetPass(job, model, reader, points, head, energy, groups.count)
    parts = list(together(rows_of(tokens, groups)))
    for number, part in enumerate(parts, 1):
        finished = parts[number][0].text if number < len(parts) else len(groups.texts)
        track.against(runner.run(part, lambda found: track.add(part, found, finished)))  # noqa: B023
        job.progress(number, len(parts), "passes")
    job.note(passes=len(parts))
    track.check(logit_tolerance(model.dtype) * runner.largest_logit)


class _Track:
    """Adds up what passes give, and hands over the means of the texts that are finished."""

    def __init__(
        self, job: Job, groups: Groups, points: Sequence[Point], layers: int, energy: Energy | None
    ) -> None:
        self.job, self.groups = job, groups
        texts, count = len(groups.texts), len(points) + 1
        self.mass = np.zeros((texts, groups.count, count))
        self.empty = groups.sizes() == 0
        self.ends = {name: np.full((texts, count), np.nan) for name in ("entropy", "energy")}
        self.final = np.zeros(0)
        self.error = 0.0
        there = [name for name in VARIABLES if energy is not None or not name.startswith("energy")]
        sizes, coords = _axes(groups, points, layers)
        job.declare(sizes, coords, only=there)
        job.emit({}, {"size": groups.size(), "chance": groups.chance()})
        if energy is None:
            del self.ends["energy"]
        else:
            job.emit({}, {"energy_at_random": np.array(energy.at_random)})

    def add(self, rows: Sequence[Fed], found: Found, finished: int) -> None:
        """Take in one point of a pass; all rows of the texts before `finished` are in by then."""
        text, point = [row.text for row in rows], found.point
        np.add.at(self.mass[:, :, point], text, found.mass)
        for name, values in self.ends.items():
            values[text, point] = getattr(found, name)
        self.final = found.mass
        if finished:
            self.job.emit({"point": point}, self._means(point, finished))

    def _means(self, point: int, finished: int) -> dict[str, np.ndarray]:
        """The means of the first texts at a point, with their intervals."""
        groups = self.groups
        mass = self.mass[:finished, :, point]
        known = np.where(self.empty[:finished], np.nan, mass)
        found = {name: mean_interval(each[:finished, point]) for name, each in self.ends.items()}
        drawn = mass[:, groups.random].mean(0)
        spread = np.percentile(drawn, [2.5, 97.5]) if len(drawn) > 1 else np.full(2, np.nan)
        control = np.array([drawn.mean(), *spread])
        mean, low, high = np.c_[np.stack(mean_interval(known[:, groups.fixed])), control]
        found["mass"] = mean, low, high
        if groups.own:
            found["mass_other_texts"] = mean_interval(known[:, groups.following])
        return {
            name + end: values
            for name, each in found.items()
            for end, values in zip(("", "_low", "_high"), each, strict=True)
        }

    def against(self, own: np.ndarray) -> None:
        """Compare the last point of a pass with what the model's own logits say."""
        off = np.abs(own - self.final)
        self.error = np.nanmax([self.error, *off[np.isfinite(off)]])

    def check(self, limit: float) -> None:
        """Say how the numbers stood against the model and against an identity."""
        what = "largest difference of a set's probability at the last point from the model's own"
        self.job.check("the last point is the model's", self.error, limit, what)
        disjoint = self.mass[:, : len(self.groups.names) + 1].sum(1)
        what = "what the sets of a text, which have nothing in common, have above 1 together"
        self.job.check("masses are at most one", max(0.0, disjoint.max() - 1), ROUNDING, what)


def _axes(
    groups: Groups, points: Sequence[Point], layers: int
) -> tuple[dict[str, int], dict[str, tuple[tuple[str, ...], Any]]]:
    """Lengths of the axes, and what lies along them."""
    labels = [*(point.label for point in points), "final"]
    layer = np.array([*(point.layer for point in points), layers - 1], dtype=np.int32)
    axes = {"set": groups.lines, "point": labels}
    if groups.own:
        axes["other_set"] = groups.names
    coords: dict[str, tuple[tuple[str, ...], Any]] = {
        name: ((name,), np.array(entries)) for name, entries in axes.items()
    }
    return {name: len(each) for name, each in axes.items()}, coords | {"layer": (("point",), layer)}


def _tell(job: Job, model: LensModel, groups: Groups) -> None:
    """Say which tokens the first text's sets are, and what was taken from them."""

    def words(each: Sequence[Said]) -> list[str]:
        return ["".join(model.vocabulary.split(said)[0]) for said in each]

    first = groups.texts[0].sets.items()
    told = {name: words(each) for name, each in first}
    job.note(tokens_of_sets=json.dumps(told, ensure_ascii=False))
    for kind, why in (("shared", "are in several sets"), ("within", "begin with another one")):
        taken = dict.fromkeys(said for sets in groups.texts for said in getattr(sets, kind))
        if taken:
            listed = ", ".join(map(repr, words([*taken][:TOLD])))
            more = f" and {len(taken) - TOLD} more" if len(taken) > TOLD else ""
            job.remark(f"Taken from the sets, because they {why}: {listed}{more}")
    empty = {
        name: sum(not sets.sets[name] for sets in groups.texts) for name in groups.texts[0].sets
    }
    for name, count in empty.items():
        if count:
            job.remark(
                f"In {count} of {len(groups.texts)} texts nothing of the set {name} is its own: "
                "they do not count for its curve"
            )
