"""Search, for one prompt, a shorter or better path through the model's own layers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layerlens.analyses.contract.contract import Job, Variable, Work, analysis
from layerlens.analyses.contract.tolerances import logit_tolerance
from layerlens.analyses.depth.chain_cell import open_path
from layerlens.analyses.depth.sequence_search import (
    Path,
    PathSearch,
    Settings,
    Simulation,
    pareto,
    random_paths,
)
from layerlens.errors import InputError
from layerlens.run.answer_place import answer_place
from layerlens.run.base import wanted_logits
from layerlens.run.replay import capture_calls, replay
from layerlens.run.sequences import PathStates

if TYPE_CHECKING:
    from layerlens.model.lensmodel import LensModel
    from layerlens.model.text import Tokens

DEFAULT_LIMIT = 200_000_000

ORACLE = (
    "The search knows the answer and picks the path that gives it: what it finds is an upper "
    "bound on what choosing layers could do for this prompt, not a way of answering."
)

_RUN = ("simulation",)
VARIABLES = {
    "skipped": Variable(("layer",), "float32", "1", "share of the correct paths without the layer"),
    "repeated": Variable(
        ("layer",), "float32", "1", "share of the correct paths that run the layer more than once"
    ),
    "best_length": Variable(_RUN, "int32", "blocks", "shortest correct path so far"),
    "path_length": Variable(_RUN, "int32", "blocks", "length of the path tried"),
    "correct": Variable(_RUN, "int32", "1", "whether the answer came out on top"),
    "probability": Variable(_RUN, "float32", "1", "probability of the answer"),
    "new_blocks": Variable(_RUN, "int32", "blocks", "blocks that had to be run for it"),
    "path": Variable(("simulation", "step"), "int32", "layer", "the path tried"),
    "random_best_length": Variable(
        _RUN, "int32", "blocks", "shortest correct path so far, by random choice"
    ),
    "random_length": Variable(_RUN, "int32", "blocks", "length of the random path"),
    "random_correct": Variable(_RUN, "int32", "1", "whether the random path gave the answer"),
    "random_probability": Variable(_RUN, "float32", "1", "probability of the answer, random path"),
    "best_probability": Variable(
        ("length",), "float32", "1", "highest probability of the answer by a path of this length"
    ),
}


def count_work(
    model: LensModel,
    tokens: Tokens,
    *,
    answer: str | int | None,
    simulations: int,
    seed: int,
    baseline: bool,
    exploration: float,
    length_penalty: float,
    random_child: float,
    memory_limit: int,
) -> Work:
    """Count passes and rows through the head, as if no path began like another; runs nothing."""
    paths = simulations * (2 if baseline else 1)
    state = tokens.ids.numel() * model.d_model * model.dtype.itemsize
    most = paths * 2 * model.n_layers * state
    return Work(1 + paths, 1 + paths, min(memory_limit, most) + 8 * state)


@analysis(
    name="chain_of_layers",
    question="Which shorter or longer path through its own layers gives this answer?",
    source="Li, Li and Zhou (2025), Skip a Layer or Loop it? Test-Time Depth Adaptation of "
    "Pretrained LLMs, arXiv 2507.07996",
    cost="1 pass, and for each simulation the blocks that no earlier path has run alike",
    view="curves",
    lead="Paths through the model's own layers, skipped or repeated, that still give the "
    "answer: the curves say how often each layer is left out or run again, and how short "
    "a path can be.",
    variables=VARIABLES,
    work=count_work,
    needs=("head",),
    opens=open_path,
)
def chain_of_layers(
    job: Job,
    model: LensModel,
    tokens: Tokens,
    *,
    answer: str | int | None = None,
    simulations: int = 200,
    seed: int = 0,
    baseline: bool = True,
    exploration: float = 1.8,
    length_penalty: float = 5.0,
    random_child: float = 0.1,
    memory_limit: int = DEFAULT_LIMIT,
) -> None:
    """Find paths through a model's layers that end in the answer, by Monte Carlo tree search.

    A path is a sequence of layers, the root the model's own. An action leaves out 1 to 4
    neighbouring steps, or runs them 1 to 4 more times; paths longer than twice the model's are
    not made, and none is run twice. The reward is 1 where the answer is the most probable next
    token (in a masked model: what stands at the mask). A child is chosen by ``Q/v + c sqrt(ln V /
    v) - penalty * length / layers``.

    Parameters
    ----------
    answer
        The token that is wanted, as a string or id; None: the model's own.
    simulations
        How many paths the search may try, the model's own included.
    seed
        The same seed gives the same search.
    baseline
        Try as many random paths, made by as many actions as the search has come to.
    exploration, length_penalty, random_child
        ``c``, the penalty, and the probability of choosing a child at random. The number of
        children of a node grows with the root of its visits (progressive widening): this and
        ``c`` are not stated in the paper, where all else is.
    memory_limit
        Bytes of kept states; what two paths have in common at their beginning is run once.

    Notes
    -----
    Attributes: ``best_path`` (of the shortest correct paths the one with the most probable
    answer; the model's own where none is correct), ``pareto`` (no other path is correct and
    shorter), ``root_probability``, ``likeliest_path`` (the answer is most probable; correct or
    not). Integers that are missing are -1.

    Raises
    ------
    InputError
        Several texts, a model that answers once for all tokens, or an option that does not fit.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")
    >>> found = ll.chain_of_layers(model, "cat dog owl cat")
    >>> found.data.attrs["best_path"]
    '[0, 1]'
    """
    if not tokens.single:
        raise InputError("chain_of_layers searches for one prompt: give one text.")
    if model.anatomy.head is not None and model.anatomy.head.pool is not None:
        raise InputError(
            f"chain_of_layers asks what a path answers at one token, but {model.name} answers once "
            "for its whole text: give a model with an answer at each token."
        )
    if simulations < 1:
        raise InputError(f"simulations is {simulations}; expected at least 1.")
    settings = Settings(exploration, length_penalty, random_child)
    chain = _Chain(job, model, tokens, None if answer is None else model.token_id(answer))
    chain.run(simulations, seed, settings, memory_limit, baseline)


class _Chain:
    """The work of one call."""

    def __init__(self, job: Job, model: LensModel, tokens: Tokens, answer: int | None) -> None:
        self.job, self.model = job, model
        first: list[Tensor] = []

        def see(layer: int, state: Tensor) -> None:
            job.tick()
            if not layer:
                first.append(state)

        self.at = answer_place(model, tokens)
        self.calls, logits = capture_calls(model, tokens, see, logits=wanted_logits(model))
        assert logits is not None  # the model has a head: the contract asked
        self.first, self.own = first[0], logits[0, self.at - tokens.ids.shape[1]].float()
        self.answer = int(self.own.argmax()) if answer is None else answer
        self.root: Path = tuple(range(model.n_layers))
        self.tried: dict[Path, tuple[bool, float]] = {}
        self.simulation = 0

    def run(
        self, simulations: int, seed: int, settings: Settings, limit: int, baseline: bool
    ) -> None:
        self.states = PathStates(self.calls, self.first, limit, self.job.tick)
        self._declare(simulations, settings, baseline)
        total = simulations * (1 + baseline)
        deepest = 1
        for found in PathSearch(self.root, self._reward, seed=seed, settings=settings).run(
            simulations
        ):
            deepest = max(deepest, found.depth)
            self._emit(found)
            self.job.progress(found.number + 1, total, f"{len(found.path)} blocks")
        self._fill("", len(self.tried), simulations)
        self._check()
        if baseline:
            self._baseline(simulations, deepest, seed, settings)

    def _declare(self, simulations: int, settings: Settings, baseline: bool) -> None:
        longest = int(settings.longest * len(self.root))
        sizes = {"layer": len(self.root), "simulation": simulations, "step": longest}
        sizes["length"] = longest
        coords: dict[str, tuple[tuple[str, ...], Any]] = {
            name: ((name,), np.arange(size, dtype=np.int32)) for name, size in sizes.items()
        }
        coords["length"] = (("length",), np.arange(1, longest + 1, dtype=np.int32))
        self.job.declare(sizes, coords)
        if not baseline:
            self._fill("random_", 0, simulations)
        self.job.remark(ORACLE)
        self.job.note(
            method="Monte Carlo tree search over paths, states of common beginnings kept",
            answer=self.model.token_string(self.answer),
            answer_id=self.answer,
        )

    def _evaluate(self, path: Path) -> tuple[bool, float]:
        """Whether the answer comes out on top, and its probability."""
        final = self.states.after(path)[0, self.at]
        return self._judge(self.model.unembed(final))

    def _judge(self, logits: Tensor) -> tuple[bool, float]:
        probability = logits.softmax(-1)[self.answer]
        return bool((logits <= logits[self.answer]).all()), float(probability)

    def _reward(self, path: Path) -> float:
        self.job.tick()  # a path whose every state is kept runs no block
        self.tried[path] = self._evaluate(path)
        return float(self.tried[path][0])

    def _emit(self, found: Simulation) -> None:
        """Hand over one simulation, and all that is known by then."""
        correct, probability = self.tried[found.path]
        steps = np.full(int(2 * len(self.root)), -1, dtype=np.int32)
        steps[: len(found.path)] = found.path
        best = self._best()
        right = self.tried[best][0]
        run = self.states.blocks_run
        numbers = {
            "best_length": len(best) if right else -1,
            "path_length": len(found.path),
            "correct": correct,
            "probability": probability,
            "new_blocks": run - self.simulation,
            "path": steps,
        }
        self.simulation = run
        where = {"simulation": found.number}
        self.job.emit(where, {name: np.array(value) for name, value in numbers.items()})
        self.job.emit({}, self._shares())
        self._note(best)

    def _best(self) -> Path:
        """Of the shortest correct paths the likeliest; the root where none is correct."""
        right = [(len(path), -p, path) for path, (correct, p) in self.tried.items() if correct]
        return min(right)[2] if right else self.root

    def _note(self, best: Path) -> None:
        correct, probability = self.tried[best]
        likeliest = max(self.tried, key=lambda path: self.tried[path][1])
        root_correct, root_probability = self.tried[self.root]
        known = [(path, right) for path, (right, _) in self.tried.items()]
        front = [(best if right else path, right) for path, right in pareto(known)]
        self.job.note(
            best_path=json.dumps(best),
            best_length=len(best),
            best_correct=int(correct),
            best_path_probability=probability,
            likeliest_path=json.dumps(likeliest),
            likeliest_probability=self.tried[likeliest][1],
            root_correct=int(root_correct),
            root_probability=root_probability,
            pareto=json.dumps(
                [{"path": path, "correct": right, "length": len(path)} for path, right in front]
            ),
            paths_tried=len(self.tried),
            passes=1 + self.states.blocks_run / len(self.root),
        )

    def _shares(self) -> dict[str, np.ndarray]:
        """How often the correct paths skip and repeat each layer; the best of each length."""
        layers = len(self.root)
        right = [path for path, (correct, _) in self.tried.items() if correct]
        counts = np.array([np.bincount(path, minlength=layers) for path in right])
        none = np.full(layers, np.nan, dtype=np.float32)
        best = np.full(2 * layers, np.nan, dtype=np.float32)
        for path, (_, probability) in self.tried.items():
            best[len(path) - 1] = np.fmax(best[len(path) - 1], probability)
        return {
            "skipped": (counts == 0).mean(0, dtype=np.float32) if right else none,
            "repeated": (counts > 1).mean(0, dtype=np.float32) if right else none,
            "best_probability": best,
        }

    def _baseline(self, simulations: int, deepest: int, seed: int, settings: Settings) -> None:
        """As many random paths, judged the same way."""
        paths = random_paths(self.root, simulations, deepest, seed=seed, longest=settings.longest)
        best = -1
        for number, path in enumerate(paths):
            self.job.tick()
            correct, probability = self.tried.get(path) or self._evaluate(path)
            if correct and (best < 0 or len(path) < best):
                best = len(path)
            numbers = {
                "random_best_length": best,
                "random_length": len(path),
                "random_correct": correct,
                "random_probability": probability,
            }
            arrays = {name: np.array(value) for name, value in numbers.items()}
            self.job.emit({"simulation": number}, arrays)
            self.job.progress(simulations + number + 1, 2 * simulations, "random paths")
        self._fill("random_", len(paths), simulations)
        self.job.note(
            random_best_length=best,
            random_actions=f"1 to {deepest}",
            passes=1 + self.states.blocks_run / len(self.root),
        )

    def _fill(self, prefix: str, done: int, simulations: int) -> None:
        """Mark simulations that there is nothing to do in, because every path was tried."""
        if done == simulations:
            return
        if done:
            self.job.remark(f"There were only {done} different paths to try.")
        random = prefix == "random_"
        for name, variable in VARIABLES.items():
            if variable.dims[0] == "simulation" and name.startswith("random_") == random:
                shape = [simulations - done] + [2 * len(self.root)] * (len(variable.dims) - 1)
                values = np.full(shape, variable.fill, dtype=variable.dtype)
                self.job.emit({"simulation": slice(done, simulations)}, {name: values})

    def _check(self) -> None:
        """The root is the model; the best path, run again with nothing kept, is what it was."""
        dtype = self.model.dtype
        limit = logit_tolerance(dtype)
        _, own = self._judge(self.own)
        off = abs(own - self.tried[self.root][1])
        what = "probability of the answer along all layers, against the model's own output"
        self.job.check("root is the model", off, limit, what)
        best = self._best()
        again = replay(self.model, self.calls, self.first, best)[0, self.at]
        off = abs(self._judge(self.model.unembed(again))[1] - self.tried[best][1])
        what = "probability of the answer along the best path, run again from the first block on"
        self.job.check("best path again", off, limit, what)
        longer = max(0, len(best) - len(self.root)) if self.tried[self.root][0] else 0
        what = "blocks by which the best path is longer than the model's own, where that is correct"
        self.job.check("never worse than the root", longer, 0, what)
