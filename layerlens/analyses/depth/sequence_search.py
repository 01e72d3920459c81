"""Search the sequences of a few numbers for short ones that earn a reward."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Path = tuple[int, ...]

SIZES = (1, 2, 3, 4)
"""How many steps a skip leaves out or a loop repeats, and how many times a loop repeats them."""


@dataclass(frozen=True)
class Action:
    """One change of a path: leave out a stretch (``times`` 0), or run it ``times`` more times."""

    at: int
    size: int
    times: int

    def on(self, path: Path) -> Path:
        """The changed path."""
        end = self.at + self.size
        if not self.times:
            return path[: self.at] + path[end:]
        return path[:end] + path[self.at : end] * self.times + path[end:]


def actions(length: int, longest: int) -> list[Action]:
    """Every change of a path of this length whose outcome is neither empty nor too long."""
    return [
        Action(at, size, times)
        for size in SIZES
        for times in (0, *SIZES)
        for at in range(length - size + 1)
        if 0 < length - size * (not times) + size * times <= longest
    ]


@dataclass(frozen=True)
class Settings:
    """How the search weighs things.

    Parameters
    ----------
    exploration
        ``c`` of the bound ``Q/v + c sqrt(ln V / v) - penalty * length / root length``.
    penalty
        Reward that the length of the root is worth.
    random_child
        Probability of going down to a random child in place of the best.
    widening
        A node that was visited ``v`` times may have ``widening * sqrt(v)`` children. There are
        hundreds of actions at each node, so a search that tried all of them first would never
        see two changes together.
    longest
        Longest path, in lengths of the root.
    """

    exploration: float = 1.8
    penalty: float = 5.0
    random_child: float = 0.1
    widening: float = 1.5
    longest: float = 2.0


@dataclass(eq=False)
class _Node:
    path: Path
    parent: _Node | None
    untried: list[Action]
    children: list[_Node] = field(default_factory=list)
    visits: int = 0
    reward: float = 0.0

    @property
    def depth(self) -> int:
        """Number of actions that lead here."""
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(frozen=True)
class Simulation:
    """One evaluated path: its number, the reward it earned, and how many actions made it."""

    number: int
    path: Path
    reward: float
    depth: int


class PathSearch:
    """Monte Carlo tree search over paths; a path is evaluated once only.

    Parameters
    ----------
    root
        The path to begin with; it is evaluated first.
    reward
        Of a path, from 0 to 1.
    seed
        The search is the same for the same seed and rewards.
    """

    def __init__(
        self,
        root: Path,
        reward: Callable[[Path], float],
        *,
        seed: int = 0,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or Settings()
        self._reward = reward
        self._random = random.Random(seed)
        self._longest = int(self._settings.longest * len(root))
        self._seen = {root}
        self._root = self._node(root, None)

    def run(self, simulations: int) -> Iterator[Simulation]:
        """Evaluate paths, the root first, until there were so many or none is left."""
        node: _Node | None = self._root
        for number in range(simulations):
            if number:
                node = self._next()
            if node is None:
                return
            reward = self._reward(node.path)
            self._back(node, reward)
            yield Simulation(number, node.path, reward, node.depth)

    def _node(self, path: Path, parent: _Node | None) -> _Node:
        return _Node(path, parent, _mixed(actions(len(path), self._longest), self._random))

    def _next(self) -> _Node | None:
        """Go down to a node that may grow, and add a child; None when no path is left."""
        node = self._root
        while True:
            if self._may_grow(node) and (child := self._grow(node)) is not None:
                return child
            if node.children:
                node = self._choose(node)
            elif node.parent is None:
                return None
            else:  # nothing is left below: forget the node and begin again
                node.parent.children.remove(node)
                node = self._root

    def _may_grow(self, node: _Node) -> bool:
        room = math.ceil(self._settings.widening * math.sqrt(node.visits))
        return not node.children or len(node.children) < room

    def _grow(self, node: _Node) -> _Node | None:
        while node.untried:
            path = node.untried.pop().on(node.path)
            if path not in self._seen:
                self._seen.add(path)
                node.children.append(self._node(path, node))
                return node.children[-1]
        return None

    def _choose(self, node: _Node) -> _Node:
        if self._random.random() < self._settings.random_child:
            return self._random.choice(node.children)
        return max(node.children, key=lambda child: self._bound(node, child))

    def _bound(self, node: _Node, child: _Node) -> float:
        settings = self._settings
        explore = settings.exploration * math.sqrt(math.log(node.visits) / child.visits)
        length = len(child.path) / len(self._root.path)
        return child.reward / child.visits + explore - settings.penalty * length

    def _back(self, node: _Node | None, reward: float) -> None:
        while node is not None:
            node.visits += 1
            node.reward += reward
            node = node.parent


def _mixed(some: list[Action], choose: random.Random) -> list[Action]:
    """Shuffle actions so that from the end skips and loops take turns while there are both.

    There are four times as many loops, and a search that took them as they come would hardly
    ever skip.
    """
    skips = [action for action in some if not action.times]
    loops = [action for action in some if action.times]
    choose.shuffle(skips)
    choose.shuffle(loops)
    both = min(len(skips), len(loops))
    turns = [one for pair in zip(skips[:both], loops[:both], strict=True) for one in pair]
    return skips[both:] + loops[both:] + turns


def random_paths(root: Path, number: int, deepest: int, *, seed: int, longest: float) -> list[Path]:
    """Different paths made by 1 to ``deepest`` random actions each; fewer where there are no more.

    The root itself is the first of them, as it is of a search.
    """
    choose = random.Random(seed)
    limit = int(longest * len(root))
    found = dict.fromkeys([root])
    for _ in range(20 * number):
        if len(found) >= number:
            break
        path = root
        for _ in range(choose.randint(1, max(1, deepest))):
            last = _mixed(actions(len(path), limit), choose)[-2:]
            path = choose.choice(last).on(path)
        found[path] = None
    return list(found)


def pareto(paths: list[tuple[Path, bool]]) -> list[tuple[Path, bool]]:
    """Those that no other beats in being correct or in length: at most one correct, one not."""
    front: list[tuple[Path, bool]] = []
    right = min((len(path) for path, correct in paths if correct), default=math.inf)
    for correct in (True, False):
        some = [path for path, is_correct in paths if is_correct == correct]
        shortest = min(some, key=len, default=None)
        if shortest is not None and (correct or len(shortest) < right):
            front.append((shortest, correct))
    return front
