"""Dictionaries that are learned: what was planted is found, and a stop is a pause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, mean_max_cosine
from layerlens.analyses.features.training.learner import Learner, Recipe
from layerlens.analyses.features.training.objective import KINDS
from layerlens.errors import Cancelled, InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import get_toy
from layerlens.result.fitted import Fitted

SHORT = {"layers": 0, "size": 2, "k": 4, "activations": 6000, "batch": 128, "test_tokens": 200}


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    return get_toy("induction").draw(60, False, torch.Generator().manual_seed(0)).ids.tolist()


@pytest.fixture(scope="module")
def sae(model: LensModel, texts: list[list[int]]) -> Fitted:
    return ll.train_sae(model, texts, **SHORT)


def test_a_planted_dictionary_is_found() -> None:
    """Sums of few of 24 directions in 12 entries: more directions than entries."""
    random = torch.Generator().manual_seed(1)
    true = torch.nn.functional.normalize(torch.randn(24, 12, generator=random), dim=-1)

    def draw(count: int) -> torch.Tensor:
        on = torch.rand(count, 24, generator=random) < 1.5 / 24
        return (on * (0.5 + torch.rand(count, 24, generator=random))) @ true

    steps, batch = 700, 256
    recipe = Recipe("topk", 48, 2, 1.0, 4e-3, batch, steps * batch, steps * batch // 10, 0, "none")
    learner = Learner(recipe, draw(2048))
    start = mean_max_cosine(true, learner.arrays()["W_dec"])
    for _ in range(steps):
        learner.step(draw(batch))
    found = mean_max_cosine(true, learner.arrays()["W_dec"])
    assert start < 0.85 and found > 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_is_measured_as_plain_torch_does(
    kind: str, model: LensModel, texts: list[list[int]]
) -> None:
    options = {**SHORT, "kind": kind}
    if kind not in ("topk", "batchtopk"):
        options = {name: one for name, one in options.items() if name != "k"}
    sae = ll.train_sae(model, texts, **options)
    assert sae.checks.ok
    apart = _apart(texts)
    states = _states(model, [texts[number] for number in apart])[:200]
    y, f = Dictionary.of(sae).reconstruct(states)
    spread = (states - states.mean(0)).square().sum()
    explained = float(1 - (states - y).square().sum() / spread)
    assert sae.scores["test"]["explained_variance/0"] == pytest.approx(explained, abs=1e-4)
    assert sae.scores["test"]["l0"] == pytest.approx(float((f > 0).sum() / len(f)))
    assert explained > 0.3


def _apart(texts: list[list[int]]) -> tuple[int, ...]:
    from layerlens.analyses.contract.split import split_texts

    return split_texts([None] * len(texts), 0, 0.1).test


def _states(model: LensModel, texts: list[list[int]]) -> torch.Tensor:
    """States after the first block, of every token but the first, by a plain hook."""
    found: list[torch.Tensor] = []
    block = model.hf.model.layers[0]
    handle = block.register_forward_hook(
        lambda *given: found.append(given[2][0] if isinstance(given[2], tuple) else given[2])
    )
    with torch.no_grad():
        model.hf(torch.tensor(texts))
    handle.remove()
    return found[0][:, 1:].flatten(0, 1)


class StopsAt(Silent):
    """Someone who presses stop when so many activations were seen."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def on_progress(self, done: int, total: int, what: str) -> None:
        self.seen = done

    def cancelled(self) -> bool:
        return self.seen >= self.number


@pytest.mark.parametrize("at", [700, 4000])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    at: int, model: LensModel, texts: list[list[int]], sae: Fitted, tmp_path: Path
) -> None:
    with pytest.raises(Cancelled) as caught:
        ll.train_sae.run(model, texts, SHORT, StopsAt(at))
    partial = caught.value.partial.fitted  # type: ignore[attr-defined]
    assert not partial.complete and "W_dec" in partial
    path = partial.save(tmp_path / "begun.safetensors")
    again = ll.train_sae(model, texts, **SHORT, resume=path)
    for name in sae:
        assert torch.equal(again[name], sae[name]), name
    assert again.scores == sae.scores


def test_what_is_resumed_has_to_be_the_same(
    model: LensModel, texts: list[list[int]], sae: Fitted
) -> None:
    with pytest.raises(InputError, match="other texts"):
        ll.train_sae(model, texts[:-1], **SHORT, resume=sae)
    with pytest.raises(InputError, match=r"lr=0\.001"):
        ll.train_sae(model, texts, **SHORT, lr=0.01, resume=sae)


def test_special_tokens_and_the_first_are_left_out(
    model: LensModel, texts: list[list[int]]
) -> None:
    seen: list[torch.Tensor] = []
    step = Learner.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "step", lambda self, x: (seen.append(x.clone()), step(self, x))[1])
        ll.train_sae(model, texts, **{**SHORT, "activations": None})
    learned = torch.cat(seen)
    taught = [row for number, row in enumerate(texts) if number not in _apart(texts)]
    states = _states(model, taught)
    assert len(learned) == len(states)
    torch.testing.assert_close(
        learned.sum(-1).sort().values, states.sum(-1).sort().values, atol=1e-4, rtol=1e-4
    )


def test_several_layers_share_one_dictionary(model: LensModel, texts: list[list[int]]) -> None:
    sae = ll.train_sae(model, texts, **{**SHORT, "layers": "all"})
    assert sae.options["layers"] == [0, 1]
    assert sae.options["dictionary"]["normalise"] == "layer_norm"
    found = ll.sae_metrics(model, texts[:6], sae=sae)
    profile = found.data.profile.sum("layer").values
    assert found.checks.ok and np.isin(profile.round(5), (0, 1)).all() and profile.max() > 0


def test_heads_are_read_side_by_side(model: LensModel, texts: list[list[int]]) -> None:
    sae = ll.train_sae(model, texts, **{**SHORT, "site": "z"})
    z = ll.record(model, texts[:1], "z.0")["z", 0]
    assert sae["W_dec"].shape[1] == z.shape[2] * z.shape[3]
    assert ll.sae_metrics(model, texts[:4], sae=sae).checks.ok


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "topp"}, "topk"),
        ({"site": "pattern"}, "one activation a token"),
        ({"k": 4000}, "the features"),
        ({"kind": "relu", "k": 3}, "has an effect only"),
        ({"layers": "some"}, "'all'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, object], words: str, model: LensModel, texts: list[list[int]]
) -> None:
    with pytest.raises(InputError, match=words):
        ll.train_sae(model, texts, **{"layers": 0, **options})


def test_a_buffer_that_does_not_fit_is_refused(model: LensModel, texts: list[list[int]]) -> None:
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        ll.train_sae(model, texts, layers=0, memory_limit=1000)
