"""The graph of ``interaction_graph``: coordinates of states, what they pass on, and modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.stats import spearmanr

from layerlens.analyses.circuits.basis import Basis, Floats, interaction, misfit
from layerlens.analyses.circuits.basis_edges import passed, really_passed
from layerlens.analyses.circuits.basis_run import EXACT, sensitivity
from layerlens.analyses.circuits.basis_states import BasisStates
from layerlens.analyses.circuits.graph import COORDINATE, PART, influence_arrays, link_arrays
from layerlens.analyses.circuits.influence import Links, node_influence
from layerlens.analyses.neurons.modules import Wholes, communities
from layerlens.analyses.sweeps.clean_pass import tolerance
from layerlens.errors import InputError

if TYPE_CHECKING:
    from layerlens.analyses.contract.job import Job

END = "logits"
"""The node above all others."""


class BasisGraph:
    """Follows coordinates from the logits down, and finds their modules.

    Parameters
    ----------
    own, apart
        Texts that the bases are of, and texts in which coordinates are really taken away.
    names
        Of the points.
    top
        How many coordinates of each.
    """

    def __init__(
        self,
        job: Job,
        own: BasisStates,
        apart: BasisStates,
        names: Sequence[str],
        top: int,
        draws: int,
        seed: int,
    ) -> None:
        self.job, self.own, self.apart, self.names = job, own, apart, list(names)
        self.top, self.draws, self.seed = top, draws, seed
        self.points, self.misfit = own.points, 0.0
        # From the logits down, as they are found: links to them first, then from point to point.
        self.estimated: list[Floats] = []
        self.really: list[Floats] = []

    @property
    def nodes(self) -> list[str]:
        """Names of all nodes, from the logits down."""
        return [END, *(f"{name} {i + 1}" for name in self.names[::-1] for i in range(self.top))]

    @property
    def links(self) -> int:
        """How many links there will be."""
        return self.top + (self.points - 1) * self.top**2

    def follow(self) -> None:
        """Find the coordinates of each point, and what each passes on to those above."""
        after: Basis | None = None
        for done, point in enumerate(reversed(range(self.points)), 1):
            mean, gram, _ = self.own.covariance(point)
            found = sensitivity(self.own, point, after, self.draws, (self.seed,), self.job.tick)
            basis = interaction(mean, gram, found)
            self._require(point, basis)
            self.misfit = max(self.misfit, misfit(basis, gram, found))
            if after is None:
                self.estimated.append(basis.strength[None, : self.top] / basis.strength.sum())
            else:
                self.estimated.append(
                    passed(self.own, point, (basis, after), self.top, self.draws, self.seed,
                           self.job.tick)
                )  # fmt: skip
            self.really.append(really_passed(self.apart, point, (basis, after), self.top))
            self.job.emit({"point": point}, self._arrays(basis))
            self._emit(np.zeros(1 + done * self.top, dtype=np.int64))
            self.job.progress(done, self.points, "states")
            after = basis

    def _require(self, point: int, basis: Basis) -> None:
        if len(basis) < self.top:
            raise InputError(
                f"The states {self.names[point]} of these texts have {len(basis)} coordinates, "
                f"fewer than top ({self.top}): give more texts, or a smaller top."
            )

    def _arrays(self, basis: Basis) -> dict[str, np.ndarray]:
        """The coordinates, with which something else may be computed."""
        return {
            "read": basis.read.T[: self.top],
            "write": basis.write[: self.top],
            "mean": basis.mean,
            "share": basis.strength[: self.top] / basis.strength.sum(),
        }

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Source and target of every link by now."""
        steps = np.arange(self.top)
        source, target = [1 + steps], [np.zeros(self.top, dtype=np.int64)]
        for step in range(1, len(self.estimated)):
            above, below = 1 + (step - 1) * self.top + steps, 1 + step * self.top + steps
            target.append(np.repeat(above, self.top))
            source.append(np.tile(below, self.top))
        return np.concatenate(source), np.concatenate(target)

    def _emit(self, modules: Wholes) -> None:
        """Hand on the graph as far as it was followed, each node in the column of its module."""
        count, width = len(modules), self.own.model.n_layers
        source, target = self._ends()
        links = Links(source, target, _flat(self.estimated), count)
        answers = np.zeros(count)
        answers[0] = 1
        layers = [end - 1 for end in self.own.ends[::-1]][: len(self.estimated)]
        number = np.arange(self.top) + 1
        nodes = {
            "kind": np.array([PART] + [COORDINATE] * (count - 1)),
            "node_layer": np.array([width, *np.repeat(layers, self.top)]),
            "node_position": modules,
            "feature": np.array([0, *np.tile(number, len(layers))]),
            **influence_arrays(node_influence(links, answers)),
        }
        self.job.emit({"node": slice(0, count)}, nodes)
        found = {**link_arrays(links, answers), "link_effect": _flat(self.really)}
        self.job.emit({"link": slice(0, len(source))}, found)

    def group(self, shuffles: int) -> None:
        """Find modules of coordinates, and of graphs in which each deals its links out anew."""
        generator = np.random.default_rng((self.seed, 3))
        between = self.estimated[1:]
        labels, modularity = communities(weighted(between, self.top), self.seed)
        chance = []
        for draw in range(shuffles):
            self.job.tick()
            dealt = [generator.permuted(one, axis=0) for one in between]
            chance.append(communities(weighted(dealt, self.top), self.seed + draw)[1])
        found = {
            "modularity": np.array(modularity),
            "modularity_shuffled": np.array(np.mean(chance)),
            "modularity_shuffled_high": np.array(np.max(chance)),
        }
        self.job.emit({}, found)
        labels = from_below(labels)
        self._emit(np.array([labels[0], *labels], dtype=np.int64))
        self.job.note(modules_found=int(labels.max() + 1))
        above = modularity > max(chance)
        than = "more" if above else "no more"
        self.job.remark(
            f"{labels.max() + 1} modules (columns), with a modularity of {modularity:.2f}: {than} "
            f"than any of {shuffles} graphs whose links upwards were dealt out anew (up to "
            f"{max(chance):.2f})."
        )

    def check(self) -> None:
        """Say what was verified, and how good the estimates are."""
        limit = tolerance(self.own.model)
        what = "covariance of the coordinates from their strengths, and sensitivity by them from 1"
        self.job.check("independent coordinates", self.misfit, EXACT, what)
        what = "states after blocks run again against those of the pass, of the largest"
        self.job.check("blocks alone equal the pass", self.own.replayed, limit, what)
        estimated, really = _flat(self.estimated), _flat(self.really)
        order = np.random.default_rng((self.seed, 4)).permutation(len(really))
        values = {"": really, "_shuffled": really[order]}
        for name, one in values.items():
            found = float(spearmanr(estimated, one).statistic)
            self.job.emit({}, {f"agreement{name}": np.array(found)})

    def close(self) -> None:
        """Leave off the nodes and links that were not followed."""
        self.job.shorten("node", 1 + len(self.estimated) * self.top)
        self.job.shorten("link", sum(one.size for one in self.estimated))


def from_below(labels: Wholes) -> Wholes:
    """Modules of nodes that stand from the top down, numbered by their mean place from below.

    Examples
    --------
    >>> from_below(np.array([0, 0, 1, 1])).tolist()
    [1, 1, 0, 0]
    """
    places = np.arange(len(labels))
    mean = [places[labels == module].mean() for module in range(labels.max() + 1)]
    return np.asarray(np.argsort(np.argsort(-np.array(mean)))[labels])


def weighted(between: Sequence[Floats], top: int) -> coo_array:
    """The graph of coordinates, from the top point down, with links of some weights.

    Parameters
    ----------
    between
        ``[top, top]`` of each two points that follow each other, upper coordinate first.
    """
    count = (len(between) + 1) * top
    upper, lower = np.divmod(np.arange(top * top), top)
    steps = np.repeat(np.arange(len(between)) * top, top * top)
    rows = steps + np.tile(upper, len(between))
    columns = steps + top + np.tile(lower, len(between))
    return coo_array((_flat(between), (rows, columns)), shape=(count, count))


def _flat(found: Sequence[Floats]) -> Floats:
    return np.concatenate([one.ravel() for one in found])
