"""The search for paths: on tables of rewards, and along the blocks of real models."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.depth.chain_of_layers import ORACLE, chain_of_layers
from layerlens.analyses.depth.sequence_search import (
    Action,
    Path,
    PathSearch,
    Settings,
    actions,
    pareto,
    random_paths,
)
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

IDS = [11, 42, 7, 63, 5]
ROOT = (0, 1, 2)


# ---- the search alone --------------------------------------------------------------------------


def reachable(root: Path, longest: int) -> set[Path]:
    """Every path that some sequence of actions makes, by plain enumeration."""
    found, open_ = {root}, [root]
    while open_:
        path = open_.pop()
        for size in range(1, 5):
            for at in range(len(path) - size + 1):
                part = path[at : at + size]
                made = [path[:at] + path[at + size :]]
                made += [
                    path[:at] + part * (1 + times) + path[at + size :] for times in (1, 2, 3, 4)
                ]
                for new in made:
                    if 0 < len(new) <= longest and new not in found:
                        found.add(new)
                        open_.append(new)
    return found


def test_an_action_leaves_out_or_repeats() -> None:
    path = (0, 1, 2, 3, 4)
    assert Action(1, 2, 0).on(path) == (0, 3, 4)
    assert Action(1, 2, 1).on(path) == (0, 1, 2, 1, 2, 3, 4)
    assert Action(4, 1, 3).on(path) == (0, 1, 2, 3, 4, 4, 4, 4)


def test_actions_stay_within_the_lengths() -> None:
    for length in (1, 2, 3, 5):
        path = tuple(range(length))
        lengths = [len(action.on(path)) for action in actions(length, 2 * length)]
        assert min(lengths, default=1) >= 1 and max(lengths, default=1) <= 2 * length
    assert len(actions(3, 6)) == 3 + 2 + 3 * 3 + 2 * 1 + 1 * 1


def test_the_root_comes_first_and_no_path_twice() -> None:
    found = [one.path for one in PathSearch(ROOT, lambda path: 0.5).run(80)]
    assert found[0] == ROOT
    assert len(set(found)) == len(found) == 80


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_optimum_of_a_table_of_rewards(seed: int) -> None:
    every = sorted(reachable(ROOT, 5))
    settings = Settings(longest=5 / 3)
    wanted = {path for path in every if sum(path) % 5 == 3 and path != ROOT}
    best = min(map(len, wanted))
    search = PathSearch(ROOT, lambda path: float(path in wanted), seed=seed, settings=settings)
    found = list(search.run(10**6))
    assert {one.path for one in found} == set(every), "the search ended before all was tried"
    assert min(len(one.path) for one in found if one.reward) == best


def test_the_optimum_is_found_long_before_everything_is_tried() -> None:
    every = reachable(ROOT, 6)
    wanted = min(every, key=lambda path: (len(path), path != (2, 1), path))  # one single block
    for seed in range(5):
        found = [
            one.path for one in PathSearch(ROOT, lambda p: float(p == wanted), seed=seed).run(40)
        ]
        assert wanted in found and len(every) > 400


def test_it_is_the_same_for_the_same_seed() -> None:
    def run(seed: int) -> list[Path]:
        reward = lambda path: float(len(path) % 3 == 0)  # noqa: E731
        return [one.path for one in PathSearch(tuple(range(8)), reward, seed=seed).run(60)]

    assert run(1) == run(1) != run(2)


def test_with_every_path_rewarded_it_grows_shorter() -> None:
    root = tuple(range(12))
    for seed in range(5):
        found = [len(one.path) for one in PathSearch(root, lambda path: 1.0, seed=seed).run(100)]
        assert min(found[:20]) < 12 and min(found) < min(found[:5])


def test_with_no_reward_visits_spread() -> None:
    search = PathSearch(tuple(range(12)), lambda path: 0.0)
    found = list(search.run(100))
    assert max(one.depth for one in found) >= 3
    first = [child.visits for child in search._root.children]
    assert len(first) >= 8 and sum(first) == 99


def test_a_model_of_one_layer_can_be_searched() -> None:
    found = [one.path for one in PathSearch((0,), lambda path: 1.0).run(50)]
    assert found == [(0,), (0, 0)]
    assert sorted(random_paths((0,), 10, 3, seed=0, longest=2.0)) == [(0,), (0, 0)]


def test_random_paths_are_different_and_repeatable() -> None:
    root = tuple(range(10))
    one = random_paths(root, 50, 3, seed=4, longest=2.0)
    assert one[0] == root and len(set(one)) == 50
    assert one == random_paths(root, 50, 3, seed=4, longest=2.0)
    assert all(0 < len(path) <= 20 for path in one)


def test_the_front_holds_what_nothing_beats() -> None:
    tried = [
        ((0, 1, 2), True),
        ((0, 1), True),
        ((1,), False),
        ((0, 1, 1, 2), True),
        ((2, 2), False),
    ]
    assert pareto(tried) == [((0, 1), True), ((1,), False)]
    assert pareto([((0, 1), False)]) == [((0, 1), False)]
    assert pareto([((0,), True), ((1, 1), False)]) == [((0,), True)]


# ---- along a model -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return LensModel.wrap(tiny_model(request.param, seed=2), None, prove=False)


def rearranged(model: LensModel, path: list[int]) -> torch.Tensor:
    """Probabilities at the end, from a copy of the model with its blocks exchanged."""
    hf: Any = copy.deepcopy(model.hf)
    if hasattr(hf, "transformer"):
        hf.transformer.h = nn.ModuleList([hf.transformer.h[i] for i in path])
    else:
        hf.model.layers = nn.ModuleList([hf.model.layers[i] for i in path])
    hf.config.num_hidden_layers = len(path)
    with torch.inference_mode():
        return hf(torch.tensor([IDS]), use_cache=False).logits[0, -1].softmax(-1)


def test_every_simulation_equals_a_rearranged_model(model: LensModel) -> None:
    result = chain_of_layers(model, IDS, simulations=25)
    data = result.data
    answer = data.attrs["answer_id"]
    for number in range(25):
        path = [step for step in data.path.values[number].tolist() if step >= 0]
        assert len(path) == data.path_length.values[number]
        p = rearranged(model, path)
        assert data.probability.values[number] == pytest.approx(float(p[answer]), abs=1e-6)
        assert data.correct.values[number] == (int(p.argmax()) == answer)
    assert result.checks.ok and data.attrs["complete"] == 1
    assert ORACLE in data.attrs["notes"]


def test_the_answer_and_the_summary_follow_from_the_simulations(model: LensModel) -> None:
    data = chain_of_layers(model, IDS, simulations=60).data
    attrs = data.attrs
    right = data.correct.values == 1
    assert attrs["root_correct"] == 1, "the model's own answer is its own answer"
    assert attrs["best_length"] == data.path_length.values[right].min()
    assert data.best_length.values[-1] == attrs["best_length"]
    assert (np.diff(data.best_length.values) <= 0).all()
    paths = [[s for s in row if s >= 0] for row in data.path.values[right].tolist()]
    for layer in range(3):
        skipped = np.mean([layer not in path for path in paths])
        repeated = np.mean([path.count(layer) > 1 for path in paths])
        assert data.skipped.values[layer] == pytest.approx(skipped)
        assert data.repeated.values[layer] == pytest.approx(repeated)
    for length in range(1, 7):
        tried = data.probability.values[data.path_length.values == length]
        best = data.best_probability.sel(length=length)
        assert float(best) == pytest.approx(tried.max()) if len(tried) else np.isnan(best)
    likeliest = json.loads(attrs["likeliest_path"])
    assert attrs["likeliest_probability"] == pytest.approx(data.probability.values.max())
    assert float(rearranged(model, likeliest)[attrs["answer_id"]]) == pytest.approx(
        attrs["likeliest_probability"], abs=1e-6
    )
    front = json.loads(attrs["pareto"])
    assert front[0]["correct"] and front[0]["path"] == json.loads(attrs["best_path"])


def test_an_answer_that_never_comes_leaves_the_models_own_path(model: LensModel) -> None:
    probabilities = rearranged(model, [0, 1, 2])
    unlikely = int(probabilities.argmin())
    data = chain_of_layers(model, IDS, answer=unlikely, simulations=1).data
    assert json.loads(data.attrs["best_path"]) == [0, 1, 2]
    assert data.attrs["best_correct"] == data.attrs["root_correct"] == 0
    assert (data.best_length.values == -1).all() and np.isnan(data.skipped.values).all()
    assert data.attrs["root_probability"] == pytest.approx(float(probabilities[unlikely]), abs=1e-7)


def test_seeds_and_baseline(model: LensModel) -> None:
    one, two = (chain_of_layers(model, IDS, simulations=20, seed=3).data for _ in range(2))
    np.testing.assert_array_equal(one.path.values, two.path.values)
    np.testing.assert_array_equal(one.random_length.values, two.random_length.values)
    assert one.random_length.values[0] == 3 and (one.random_length.values > 0).all()
    other = chain_of_layers(model, IDS, simulations=20, seed=4).data
    assert (other.path.values != one.path.values).any()
    alone = chain_of_layers(model, IDS, simulations=20, seed=3, baseline=False).data
    np.testing.assert_array_equal(alone.path.values, one.path.values)
    assert (alone.random_length.values == -1).all() and alone.attrs["complete"] == 1


def test_kept_states_change_the_work_and_nothing_else(model: LensModel) -> None:
    kept = chain_of_layers(model, IDS, simulations=30).data
    none = chain_of_layers(model, IDS, simulations=30, memory_limit=0).data
    np.testing.assert_array_equal(kept.path.values, none.path.values)
    np.testing.assert_array_equal(kept.probability.values, none.probability.values)
    np.testing.assert_array_equal(none.new_blocks.values, none.path_length.values)
    assert kept.new_blocks.values.sum() < 0.8 * none.new_blocks.values.sum()
    assert kept.attrs["passes"] < none.attrs["passes"]


def test_when_every_path_was_tried_it_says_so() -> None:
    model = LensModel.wrap(tiny_model("llama", num_hidden_layers=2), None, prove=False)
    data = chain_of_layers(model, IDS, simulations=500).data
    tried = int((data.path_length.values > 0).sum())
    assert tried == len(reachable((0, 1), 4)) == data.attrs["paths_tried"]
    assert f"only {tried} different paths" in data.attrs["notes"]
    assert data.attrs["complete"] == 1


def test_a_stop_keeps_what_there_is(model: LensModel) -> None:
    class Stop(Silent):
        done = 0

        def on_progress(self, done: int, total: int, what: str) -> None:
            self.done = done

        def cancelled(self) -> bool:
            return self.done >= 7

    whole = chain_of_layers(model, IDS, simulations=20).data
    with pytest.raises(Cancelled) as caught:
        chain_of_layers.run(model, IDS, {"simulations": 20}, Stop())
    data = caught.value.partial.data  # type: ignore[union-attr]
    np.testing.assert_array_equal(data.path.values[:7], whole.path.values[:7])
    assert (data.path_length.values[7:] == -1).all() and data.attrs["complete"] == 0
    assert data.attrs["paths_tried"] == 7 and json.loads(data.attrs["best_path"])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ([IDS, IDS], {}, "give one text"),
        (IDS, {"simulations": 0}, "simulations is 0; expected at least 1"),
        (IDS, {"answer": 1000}, "Token id 1000 does not exist"),
        (IDS, {"simulation": 3}, "did you mean 'simulations'"),
    ],
)
def test_what_does_not_fit_is_said(
    model: LensModel, text: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        chain_of_layers(model, text, **options)
