"""Fitted lenses: exact where the answer is known, judged as plain torch judges them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract import registry
from layerlens.analyses.lenses.fitting import plan
from layerlens.analyses.lenses.fitting.kl_steps import order_of
from layerlens.analyses.lenses.readers import reader_of
from layerlens.analyses.lenses.scores import lens_scores
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted
from tests.unit.analyses.lenses.fitting.conftest import Texts

SKIPPED = 4


def sides(texts: Texts, test: float = 0.2, seed: int = 0) -> tuple[Texts, Texts]:
    """The texts of either side, drawn as the contract draws them."""
    from layerlens.analyses.contract.split import split_texts

    split = split_texts([None] * len(texts), seed, test)
    return [texts[i] for i in split.train], [texts[i] for i in split.test]


def states(model: LensModel, texts: Texts) -> list[torch.Tensor]:
    """``[tokens, width]`` before the first block and after each, by plain hooks."""
    found: list[torch.Tensor] = []

    def entering(module: object, args: tuple[torch.Tensor, ...], kwargs: object) -> None:
        found.append(args[0][:, SKIPPED:].flatten(0, 1).clone())

    def leaving(module: object, args: object, output: object) -> None:
        state = output[0] if isinstance(output, tuple) else output
        found.append(state[:, SKIPPED:].flatten(0, 1).clone())  # type: ignore[index]

    blocks = model.hf.transformer.h
    handles = [blocks[0].register_forward_pre_hook(entering, with_kwargs=True)]
    handles += [block.register_forward_hook(leaving) for block in blocks]
    with torch.no_grad():
        model.hf(torch.tensor(texts))
    for handle in handles:
        handle.remove()
    return found


def kl(model: LensModel, final: torch.Tensor, state: torch.Tensor) -> float:
    """Mean KL divergence of the answer from the final one, from whole logits in double."""
    with torch.no_grad():
        p, q = (
            model.hf.lm_head(model.hf.transformer.ln_f(h)).double().log_softmax(-1)
            for h in (final, state)
        )
    return float((p.exp() * (p - q)).sum(-1).mean())


def score(lens: Fitted, name: str, side: str = "test") -> float:
    return lens.scores[side][name]


def test_a_block_that_adds_a_constant_is_undone_by_the_mean_shift(
    constant: LensModel, texts: Texts
) -> None:
    lens = ll.fit_lens(constant, texts, kind="bias")
    assert abs(score(lens, "kl/1_post")) < 1e-6
    assert score(lens, "kl_logit/1_post") > 0.005
    assert score(lens, "kl/0_post") > 0.01
    assert score(lens, "top1/1_post") == 1
    torch.testing.assert_close(lens["1_post.bias"], constant.hf.transformer.h[2].mlp.c_proj.bias)


def test_a_block_that_is_affine_is_undone_by_the_ridge_map(affine: LensModel, texts: Texts) -> None:
    lens = ll.fit_lens(affine, texts, points="post")
    assert abs(score(lens, "kl/1_post")) < 1e-4
    assert score(lens, "kl_bias/1_post") > 0.05
    mlp = affine.hf.transformer.h[2].mlp
    torch.testing.assert_close(
        lens["1_post.weight"].T, mlp.c_fc.weight @ mlp.c_proj.weight, atol=1e-3, rtol=1e-3
    )
    assert score(lens, "ridge/1_post") == 1e-8
    assert lens.checks.ok
    assert (lens.kind, lens.complete) == ("ridge_lens", True)


def test_the_map_is_that_of_the_formula_and_is_judged_as_by_hand(
    affine: LensModel, texts: Texts
) -> None:
    train, test = sides(texts)
    lens = ll.fit_lens(affine, texts, ridge=0.1)
    x, y = (states(affine, train)[place].double() for place in (1, -1))
    d = x.shape[1]
    centred = x - x.mean(0)
    share = 0.1 * centred.square().sum() / d
    expected = torch.linalg.inv(centred.T @ centred + share * torch.eye(d)) @ centred.T
    product = expected @ (y - y.mean(0))
    torch.testing.assert_close(
        lens["0_post.weight"].double(), product.T - torch.eye(d), atol=1e-5, rtol=1e-4
    )
    here, final = (states(affine, test)[place] for place in (1, -1))
    read = here @ (torch.eye(d) + lens["0_post.weight"]).T + lens["0_post.bias"]
    np.testing.assert_allclose(score(lens, "kl/0_post"), kl(affine, final, read), rtol=1e-4)
    np.testing.assert_allclose(score(lens, "kl_logit/0_post"), kl(affine, final, here), rtol=1e-4)


def test_the_logit_lens_beside_it_is_that_of_ll_logit_lens(affine: LensModel, texts: Texts) -> None:
    _, test = sides(texts)
    scores = lens_scores(ll.fit_lens(affine, texts, kind="bias"))
    lens = ll.logit_lens(affine, test, points=("embed", "post")).data.isel(
        position=slice(SKIPPED, None)
    )
    for label in ("embed", "0_post", "1_post"):
        here, there = scores.sel(point=label), lens.sel(point=label)
        np.testing.assert_allclose(here.kl_logit, there.kl_to_final.mean(), rtol=1e-4)
        np.testing.assert_allclose(here.ce_logit, there.cross_entropy.mean(), rtol=1e-4)
    final = lens.sel(point="final")
    guess = np.log(affine.d_vocab) - final.entropy.mean()
    np.testing.assert_allclose(scores.kl_uniform.sel(point="embed"), guess, rtol=1e-4)
    assert (scores.kl_low <= scores.kl).all()
    assert (scores.kl <= scores.kl_high).all()


@pytest.mark.parametrize("rank", [None, 3, 0])
def test_steps_lower_the_divergence_on_what_they_see(
    affine: LensModel, texts: Texts, rank: int | None
) -> None:
    lens = ll.fit_lens(affine, texts, kind="tuned", points="0_post", rank=rank, steps=20)
    assert score(lens, "kl/0_post", "train") < score(lens, "kl_start/0_post", "train")
    assert lens.checks.ok
    assert "steps do not raise" in [check.name for check in lens.checks]
    weight = lens.arrays.get("0_post.weight")
    assert (weight is None) == (rank == 0)
    if rank:
        assert int(torch.linalg.matrix_rank(weight, atol=1e-5)) == rank  # type: ignore[arg-type]
    start = {None: "kl_ridge", 0: "kl_bias"}.get(rank)
    if start:
        assert score(lens, "kl/0_post") < score(lens, f"{start}/0_post")


def test_where_no_map_is_better_the_state_is_left_as_it_is(
    nothing: LensModel, texts: Texts
) -> None:
    lens = ll.fit_lens(nothing, texts, points="post")
    assert score(lens, "identity/1_post") == 1
    assert score(lens, "identity/0_post") == 0
    assert list(lens) == ["0_post.weight", "0_post.bias", "1_post.bias"]
    assert not lens["1_post.bias"].any()
    assert score(lens, "kl/1_post") == score(lens, "kl_logit/1_post")


@pytest.mark.parametrize("kind", ["ridge", "tuned"])
def test_memory_changes_how_it_is_done_and_not_what_comes_out(
    affine: LensModel, texts: Texts, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"kind": kind, "steps": 4} if kind == "tuned" else {"kind": kind}
    whole = ll.fit_lens(affine, texts, **options)
    monkeypatch.setattr(
        plan, "plan_fit", lambda *args, **options: plan.FitPlan(1, 3, 1_000_000, 50, 0)
    )
    monkeypatch.setattr("layerlens.analyses.lenses.fitting.asked.plan_fit", plan.plan_fit)
    parts = ll.fit_lens(affine, texts, **options)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)


def test_it_is_stopped_and_goes_on(
    affine: LensModel, texts: Texts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerlens.analyses.lenses.fitting.one_point import OnePoint

    whole = ll.fit_lens(affine, texts)
    fit = OnePoint.fit

    def stopping(self: OnePoint, point, material) -> None:  # type: ignore[no-untyped-def]
        if point.label == "1_post":
            raise KeyboardInterrupt
        fit(self, point, material)

    monkeypatch.setattr(OnePoint, "fit", stopping)
    with pytest.raises(Cancelled) as caught:
        ll.fit_lens(affine, texts)
    begun = caught.value.partial.fitted  # type: ignore[union-attr]
    assert not begun.complete
    assert reader_of(affine, begun).labels == ("embed", "0_post")
    path = begun.save(tmp_path / "begun.safetensors")
    fitted: list[str] = []

    def noting(self: OnePoint, point, material) -> None:  # type: ignore[no-untyped-def]
        fitted.append(point.label)
        fit(self, point, material)

    monkeypatch.setattr(OnePoint, "fit", noting)
    full = ll.fit_lens(affine, texts, resume=path)
    assert fitted == ["1_post"]
    assert list(full) == list(whole)
    assert all(torch.equal(full[name], whole[name]) for name in whole)
    assert full.scores["test"] == pytest.approx(whole.scores["test"])
    for wrong, words in (
        ({"seed": 1}, "was begun with seed=0"),
        ({"kind": "bias"}, "A bias_lens is needed"),
    ):
        with pytest.raises(InputError, match=words):
            ll.fit_lens(affine, texts, resume=begun, **wrong)
    with pytest.raises(InputError, match="begun with other texts"):
        ll.fit_lens(affine, texts[:-1], resume=begun)


def test_texts_of_a_corpus_are_the_same_texts(affine: LensModel, texts: Texts) -> None:
    as_list, as_corpus = (ll.fit_lens(affine, given) for given in (texts, ll.texts(texts)))
    assert all(torch.equal(as_list[name], as_corpus[name]) for name in as_list)
    assert as_list.data == as_corpus.data
    groups = [number // 5 for number in range(20)]
    grouped = registry.get("fit_lens").run(affine, ll.texts(texts, group=groups), {"test": 0.5})
    assert grouped.data.attrs["split_by"] == "group"
    with pytest.raises(InputError, match="leave pack out"):
        ll.fit_lens(affine, ll.texts(texts, pack=True))


WRONG = {
    "kind": ({"kind": "tunde"}, "Kind of lens 'tunde' is not known: did you mean 'tuned'"),
    "the last state": ({"points": "2_post"}, "The last state needs no map"),
    "steps": ({"kind": "tuned", "steps": 0}, "steps is 0; expected a number from 1"),
    "steps of a ridge": ({"steps": 3}, "steps of fit_lens has an effect only with kind='tuned'"),
    "rank": ({"kind": "tuned", "rank": 99}, "rank is 99; expected 0 to 16"),
    "ridge": ({"ridge": 0}, "ridge is 0; expected a number above 0"),
    "test": ({"test": 0.001}, "leaves none for test"),
    "positions": ({"positions_skipped": 30}, "No token is left for training"),
    "resume": ({"resume": 3}, "resume"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_said(affine: LensModel, texts: Texts, name: str) -> None:
    options, words = WRONG[name]
    with pytest.raises(InputError, match=words):
        ll.fit_lens(affine, texts, **options)


def test_a_limit_too_small_is_said(affine: LensModel, texts: Texts) -> None:
    with pytest.raises(ll.MemoryLimitError, match="To fit one point needs"):
        ll.fit_lens(affine, texts, memory_limit=1000)


def test_steps_see_each_token_before_any_twice() -> None:
    assert sorted(order_of(512, 2, 0).flatten().tolist()) == list(range(512))
    assert order_of(5, 3, 0).shape == (3, 5)
    assert sorted(order_of(5, 3, 0)[1].tolist()) == [0, 1, 2, 3, 4]


def test_the_estimate_counts_readings(affine: LensModel, texts: Texts) -> None:
    work = registry.get("fit_lens").work(affine, texts, kind="tuned")
    assert (work.passes, work.tokens) == (1, 480)
    small = registry.get("fit_lens").work(affine, texts, kind="bias")
    assert small.head_rows < work.head_rows
