"""What the choices of one layer's router amount to: load, balance, and what they follow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

SHUFFLES = 20
"""Shuffles that the mutual information is compared with."""

IDLE = 0.1
"""An expert with less than this part of an even share is idle."""

TOP = 8
"""Tokens that are named for each expert."""

Numbers = Mapping[str, np.ndarray]


def usage(experts: np.ndarray, weights: np.ndarray, n_experts: int) -> Numbers:
    """How the assignments, and the weights they are given, spread over the experts.

    Parameters
    ----------
    experts, weights
        ``[token, choice]``.

    Returns
    -------
    dict
        ``expert_load`` and ``expert_weight`` ``[expert]``, each summing to 1; ``balance``,
        ``largest_load``, ``idle``.
    """
    flat = experts.ravel()
    load = np.bincount(flat, minlength=n_experts) / flat.size
    given = np.bincount(flat, weights=np.abs(weights).ravel(), minlength=n_experts)
    return {
        "expert_load": load,
        "expert_weight": given / given.sum() if given.sum() else np.full(n_experts, np.nan),
        "balance": np.array(balance(load)),
        "largest_load": np.array(load.max() * n_experts),
        "idle": np.array((load < IDLE / n_experts).mean()),
    }


def balance(load: np.ndarray) -> float:
    """Entropy of shares over that of even ones, from 0 to 1."""
    some = load[load > 0]
    return float(-(some * np.log(some)).sum() / np.log(len(load)))


def even_usage(tokens: int, choices: int, n_experts: int, seed: int) -> Numbers:
    """The same of a router that chooses at random, from as many tokens: means of draws."""
    draw = np.random.default_rng(seed)
    drawn = []
    for _ in range(SHUFFLES):
        ranks = draw.random((tokens, n_experts)).argpartition(choices - 1, axis=-1)[:, :choices]
        drawn.append(usage(ranks, np.ones_like(ranks), n_experts))
    names = ("balance", "largest_load", "idle")
    return {f"{name}_chance": np.mean([one[name] for one in drawn], axis=0) for name in names}


def information(labels: np.ndarray, experts: np.ndarray) -> float:
    """Mutual information of two labels of each token, nats; NaN for no tokens."""
    if not len(labels):
        return float("nan")
    return _mutual(*_numbered(labels), *_numbered(experts))


def shuffled_information(labels: np.ndarray, experts: np.ndarray, seed: int) -> float:
    """The same with the labels dealt out anew: what so few tokens give by chance."""
    if not len(labels):
        return float("nan")
    draw = np.random.default_rng(seed)
    a, many = _numbered(labels)
    b = _numbered(experts)
    return float(np.mean([_mutual(draw.permutation(a), many, *b) for _ in range(SHUFFLES)]))


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Labels as numbers from 0, and how many there are."""
    known, inverse = np.unique(labels, return_inverse=True)
    return inverse, len(known)


def _mutual(a: np.ndarray, n_a: int, b: np.ndarray, n_b: int) -> float:
    counts = np.bincount(a * n_b + b, minlength=n_a * n_b).reshape(n_a, n_b)
    table = counts / len(a)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
    some = counts > 0
    return float((table[some] * np.log(table[some] / expected[some])).sum())


def tokens_of_experts(
    ids: np.ndarray, experts: np.ndarray, n_experts: int, least: int
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that go to each expert more than others do.

    Parameters
    ----------
    ids
        ``[token]``.
    experts
        ``[token, choice]``.
    least
        How often a token has to occur to be named.

    Returns
    -------
    token_id, lift
        ``[expert, TOP]``, strongest first: how many times as often as any token it goes there;
        -1 and NaN where there are fewer.
    """
    known, place, counts = np.unique(ids, return_inverse=True, return_counts=True)
    table = np.zeros((len(known), n_experts))
    for choice in experts.T:
        np.add.at(table, (place, choice), 1)
    load = table.sum(0) / len(ids)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = table / counts[:, None] / load
    lift[counts < least] = np.nan
    found = np.full((n_experts, TOP), -1)
    values = np.full((n_experts, TOP), np.nan)
    for expert in range(n_experts):
        named = np.flatnonzero(lift[:, expert] > 0)
        best = named[np.lexsort((-table[named, expert], -lift[named, expert]))][:TOP]
        found[expert, : len(best)] = known[best]
        values[expert, : len(best)] = lift[best, expert]
    return found, values
