"""Invariance to altered texts: the alterations, the numbers from hooks, known answers."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import layerlens as ll
from layerlens.analyses.measuring.invariance import _views
from layerlens.analyses.texts.altered_texts import KEYS, altered, altered_ids, altered_text
from layerlens.metrics.invariant import dime, infonce, lidar
from layerlens.model.tiny import tiny_model

TEXTS = [[3, 9, 4, 7, 1, 12], [8, 8, 2, 5], [11, 6, 10, 13, 2, 2, 7], [1, 5, 9, 3, 3]]


@pytest.fixture(scope="module")
def model() -> ll.LensModel:
    return ll.LensModel.wrap(tiny_model("llama", seed=1), None, name="tiny", prove=False)


def test_nothing_is_altered_at_rate_0() -> None:
    random = np.random.default_rng(0)
    text = "A text,  with\ttwo lines\nof words."
    assert altered_text(text, 0, random) == text
    assert altered_ids([1, 2, 3], [9], 0, random) == [1, 2, 3]


def test_what_is_altered() -> None:
    words = [f"word{number}" for number in range(2000)]
    random = np.random.default_rng(0)
    found = altered(words, 0.1, random, lambda word: word.upper())
    upper = [word for word in found if word.isupper()]
    numbers = [int(word[4:]) for word in found]
    swapped = sum(two < one for one, two in pairwise(numbers))
    # A tenth of 2000, a third of them each way.
    assert 2000 - len(found) == pytest.approx(67, abs=30)
    assert len(upper) == pytest.approx(67, abs=30)
    assert swapped == pytest.approx(67, abs=30)
    assert len(set(numbers)) == len(numbers)


def test_a_typing_error_is_one_neighbouring_key() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        typed = altered_text("Xylophone", 1, random)
        assert len(typed) == 9
        changed = [(a, b) for a, b in zip("Xylophone", typed, strict=True) if a != b]
        assert len(changed) <= 1
        for a, b in changed:
            assert a.isupper() == b.isupper()
            row = next(keys for keys in KEYS if a.lower() in keys)
            assert abs(row.index(a.lower()) - row.index(b.lower())) == 1
    assert altered_text("42 !", 1, random)


@pytest.mark.parametrize("rate", [0.1, 1])
def test_something_is_always_left(rate: float) -> None:
    for seed in range(100):
        random = np.random.default_rng(seed)
        assert altered_text("some words here", rate, random)
        assert altered_ids([5, 6, 7], [1, 2], rate, random)[0] == 5
        assert len(altered_ids([5, 6, 7], [1, 2], rate, random)) >= 2


def test_against_plain_hooks(model: ll.LensModel) -> None:
    how = {"augment": "tokens", "rate": 0.3, "seed": 4}
    found = ll.invariance(model, TEXTS, views=3, center=False, **how).data
    made = model.tokens(_views(model.tokens(TEXTS), views=3, **how))
    pooled = []
    blocks = list(model.hf.model.layers)
    for ids, mask in zip(made.ids, made.mask, strict=True):
        states: list[torch.Tensor] = []
        hooks = [
            blocks[0].register_forward_pre_hook(lambda _, args, s=states: s.append(args[0][0]))
        ]
        hooks += [
            block.register_forward_hook(lambda _, a, o, s=states: s.append(o[0]))
            for block in blocks
        ]
        with torch.inference_mode():
            model.hf(ids[mask][None], use_cache=False)
        for hook in hooks:
            hook.remove()
        pooled.append(torch.stack([h.view(-1, model.d_model)[1:].mean(0) for h in states]))
    views = torch.stack(pooled).double().view(4, 3, -1, model.d_model)
    for point in range(model.n_layers + 1):
        here = normalize(views[:, :, point], dim=-1)
        at = found.isel(point=point)
        loss = infonce(here[:, 0], here[:, 1])
        assert float(at.infonce) == pytest.approx(loss, abs=1e-4)
        assert float(at.infonce_bound) == pytest.approx(math.log(4) - loss, abs=1e-4)
        assert float(at.dime) == pytest.approx(dime(here[:, 0], here[:, 1], seed=4), abs=1e-4)
        assert float(at.lidar) == pytest.approx(lidar(here), rel=1e-3)


def test_views_that_are_not_altered(model: ll.LensModel) -> None:
    """Equal views: LiDAR sees no spread within, and shuffling them costs InfoNCE."""
    result = ll.invariance(model, TEXTS, augment="tokens", rate=0.0, views=2)
    assert all(check.ok for check in result.checks)
    assert (result.data.infonce < result.data.infonce_shuffled).all()
    assert (result.data.lidar > 1.5).all() and (result.data.lidar <= 3 + 1e-6).all()
    assert (result.data.infonce >= 0).all()
    assert list(result.data.point.values) == ["embed", "0_post", "1_post", "2_post"]


def test_the_same_seed_gives_the_same(model: ll.LensModel) -> None:
    one = ll.invariance(model, TEXTS, augment="tokens", views=2, seed=1)
    two = ll.invariance(model, TEXTS, augment="tokens", views=2, seed=1, batch_size=1)
    other = ll.invariance(model, TEXTS, augment="tokens", views=2, seed=2, rate=0.5)
    np.testing.assert_allclose(one.data.infonce, two.data.infonce, atol=1e-5)
    assert not np.allclose(one.data.infonce, other.data.infonce)


def test_words_of_a_text() -> None:
    toy = ll.load("toy:induction")
    token = toy.token_string
    texts = [" ".join(token(i).strip() for i in row) for row in ([5, 9, 5, 3], [7, 1, 4, 4])]
    result = ll.invariance(toy, texts, views=2, skip_first=False)
    assert np.isfinite(result.data.infonce).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, 'augment="tokens"'),
        ({"augment": "letters"}, "augment is 'letters'"),
        ({"augment": "tokens", "rate": 2}, "rate is 2"),
        ({"augment": "tokens", "views": 1}, "views is 1"),
        ({"augment": "tokens", "temperature": 0}, "temperature is 0"),
        ({"augment": "tokens", "skip_first": 9}, "No token of view"),
    ],
)
def test_bad_options(model: ll.LensModel, options: dict[str, object], words: str) -> None:
    with pytest.raises(ll.InputError, match=words):
        ll.invariance(model, TEXTS, **options)


def test_one_text_is_not_enough(model: ll.LensModel) -> None:
    with pytest.raises(ll.InputError, match="at least 2"):
        ll.invariance(model, TEXTS[0], augment="tokens")
