"""ll.head_roles: the scores of ll.head_scores, chance by hand, the toy with known heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.attention.head_looks import ROLES, keys_of_roles
from layerlens.errors import InputError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

NAMES = list(ROLES)


@pytest.fixture(scope="module")
def gpt2() -> LensModel:
    return LensModel.wrap(tiny_model("gpt2", seed=1), None, name="tiny gpt2", prove=False)


def test_keys_of_each_role() -> None:
    keys = keys_of_roles(torch.tensor([7, 3, 4, 3]))
    where = {role: found.nonzero().tolist() for role, found in keys.items()}
    assert where["previous_token"] == [[1, 0], [2, 1], [3, 2]]
    assert where["next_token"] == [[0, 1], [1, 2], [2, 3]]
    assert where["self"] == [[0, 0], [1, 1], [2, 2], [3, 3]]
    assert where["duplicate_token"] == [[3, 1]]
    assert where["induction"] == [[3, 2]]
    assert where["first_token"] == [[0, 0], [1, 0], [2, 0], [3, 0]]


def test_scores_are_those_of_head_scores(gpt2: LensModel) -> None:
    how = {"length": 9, "sequences": 3, "seed": 5}
    roles, scores = ll.head_roles(gpt2, **how), ll.head_scores(gpt2, **how)
    for name in ("induction", "duplicate_token", "previous_token"):
        found = roles.data.score.sel(role=name)
        np.testing.assert_allclose(found, scores.data[name], atol=1e-6)
        np.testing.assert_allclose(
            roles.data.score_low.sel(role=name), scores.data[f"{name}_low"], atol=1e-6
        )
    assert roles.checks.ok


def test_chance_by_hand(gpt2: LensModel) -> None:
    length = 9
    chance = ll.head_roles(gpt2, length=length).data.chance
    late = np.mean([1 / (t + 1) for t in range(1, 2 * length)])
    repeat = np.mean([1 / (t + 1) for t in range(length, 2 * length)])
    expected = {
        "previous_token": late,
        "self": late,
        "first_token": late,
        "induction": repeat,
        "duplicate_token": repeat,
        "next_token": 0,
    }
    for role, value in expected.items():
        np.testing.assert_allclose(chance.sel(role=role), value, atol=1e-6, err_msg=role)


def test_the_toy_has_heads_of_induction_and_of_the_token_before() -> None:
    model = ll.load("toy:induction")
    result = ll.head_roles(model)
    data = result.data
    named = {NAMES[i] for i in data.best_role.values.ravel() if i >= 0}
    assert {"induction", "previous_token"} <= named
    layer, head = np.argwhere(data.best_role.values == NAMES.index("induction"))[0]
    assert layer == 1
    score = float(data.score[layer, head].sel(role="induction"))
    assert score > 0.5
    assert float(data.best_score[layer, head]) == score
    table = result.to_pandas("score")
    assert {"layer", "head", "role", "score", "chance"} <= set(table.columns)
    assert len(table) == data.score.size
    strict = ll.head_roles(model, threshold=0.99).data.best_role
    assert (strict == -1).all()


def test_an_untrained_model_has_no_roles(gpt2: LensModel) -> None:
    for parameter in (quiet := tiny_model("gpt2", seed=2)).parameters():
        parameter.data.mul_(0.1)
    model = LensModel.wrap(quiet, None, name="untrained", prove=False)
    assert (ll.head_roles(model, length=9).data.best_role == -1).all()


def test_heads_of_a_bidirectional_model_may_look_ahead() -> None:
    bert = LensModel.wrap(
        tiny_model("bert", seed=1, is_decoder=False), None, name="bert", prove=False
    )
    data = ll.head_roles(bert, length=6).data
    assert (data.score.sel(role="next_token") > 0).any()
    np.testing.assert_allclose(data.chance.sel(role="next_token"), 1 / 12, atol=1e-6)


def test_what_is_refused(gpt2: LensModel) -> None:
    with pytest.raises(InputError, match="threshold is 1"):
        ll.head_roles(gpt2, threshold=1)
    mamba = LensModel.wrap(tiny_model("mamba"), None, name="tiny mamba", prove=False)
    with pytest.raises(ModelError, match="head_roles cannot be asked of tiny mamba"):
        ll.head_roles(mamba)
    assert ll.estimate("head_roles", gpt2, length=9).passes == 1
