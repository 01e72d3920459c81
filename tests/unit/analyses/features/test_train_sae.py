"""Dictionaries that are learned: what was planted is found, and a stop is a pause."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.features.activations import Places
from layerlens.analyses.features.dictionaries.dictionary import Dictionary, mean_max_cosine
from layerlens.analyses.features.training.learner import Learner, Recipe
from layerlens.analyses.features.training.objective import KINDS
from layerlens.corpus.rows import Row
from layerlens.errors import Cancelled, InputError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.model.toys import get_toy
from layerlens.result.fitted import Fitted

from ..most_bytes import most_bytes

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


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_dictionary_is_found_with_as_many_features_on_as_were_asked_for(
    kind: str,
) -> None:
    """Sums of two in the mean of 32 directions in 24 entries: more directions than entries."""
    random = torch.Generator().manual_seed(1)
    true = torch.nn.functional.normalize(torch.randn(32, 24, generator=random), dim=-1)

    def draw(count: int) -> torch.Tensor:
        on = torch.rand(count, 32, generator=random) < 2 / 32
        return (on * (0.5 + torch.rand(count, 32, generator=random))) @ true

    total = 500 * 128
    learner = Learner(Recipe(kind, 64, 2, 6e-3, 128, total, total // 10, 0, "none"), draw(2048))
    start = mean_max_cosine(true, learner.arrays()["W_dec"])
    while learner.seen < total:
        learner.step(draw(128))
    found = Dictionary(learner.form(), learner.arrays())
    assert start < 0.65 and mean_max_cosine(true, found["W_dec"]) > 0.99
    l0 = float((found.encode(draw(4096)) > 0).sum()) / 4096
    assert l0 == pytest.approx(2, rel=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_is_measured_as_plain_torch_does(
    kind: str, model: LensModel, texts: list[list[int]]
) -> None:
    sae = ll.train_sae(model, texts, **{**SHORT, "kind": kind, "batch": 16})
    assert sae.checks.ok
    apart = _apart(texts)
    states = _states(model, [texts[number] for number in apart])[:200]
    y, f = Dictionary.of(sae).reconstruct(states)
    spread = (states - states.mean(0)).square().sum()
    explained = float(1 - (states - y).square().sum() / spread)
    assert sae.scores["test"]["explained_variance/0"] == pytest.approx(explained, abs=1e-4)
    assert sae.scores["test"]["l0"] == pytest.approx(float((f > 0).sum() / len(f)))
    assert explained > (0.02 if kind == "relu" else 0.3)  # a price per amount shrinks amounts


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


@pytest.mark.parametrize(("at", "kind"), [(700, "topk"), (4000, "jumprelu")])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    at: int, kind: str, model: LensModel, texts: list[list[int]], sae: Fitted, tmp_path: Path
) -> None:
    options = {**SHORT, "kind": kind}
    sae = sae if kind == "topk" else ll.train_sae(model, texts, **options)
    with pytest.raises(Cancelled) as caught:
        ll.train_sae.run(model, texts, options, StopsAt(at))
    partial = caught.value.partial.fitted  # type: ignore[attr-defined]
    assert not partial.complete and "W_dec" in partial
    path = partial.save(tmp_path / "begun.safetensors")
    again = ll.train_sae(model, texts, **options, resume=path)
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
        ({"layers": "some"}, "'all'"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, object], words: str, model: LensModel, texts: list[list[int]]
) -> None:
    with pytest.raises(InputError, match=words):
        ll.train_sae(model, texts, **{"layers": 0, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_held_stays_below_the_limit(
    kind: str, model: LensModel, texts: list[list[int]]
) -> None:
    """By the bytes that torch allocates, without a pass of the model."""
    options = {"layers": 0, "size": 8, "k": 4, "kind": kind, "batch": 256, "test_tokens": 64}
    places = Places.of(model, "resid_post", 0, 1)
    rows = [Row(number, row) for number, row in enumerate(texts[:21])]
    one_pass = most_bytes(lambda: list(places.read(rows, lambda: None)))
    options |= {"activations": 2000, "memory_limit": 11_000_000}
    told = ll.estimate("train_sae", model, texts, **options).bytes
    held = most_bytes(lambda: ll.train_sae(model, texts, **options))
    assert told <= 11_000_000
    assert 0.45 * told < held < told + one_pass


def test_what_transcoders_hold_is_what_is_told(model: LensModel, texts: list[list[int]]) -> None:
    options = {"layers": "all", "size": 16, "k": 4, "batch": 256, "activations": 2000}
    options |= {"test_tokens": 64}
    told = ll.estimate("train_transcoder", model, texts, **options).bytes
    held = most_bytes(lambda: ll.train_transcoder(model, texts, **options))
    assert 0.4 * told < held < told


def test_a_buffer_that_does_not_fit_is_refused(model: LensModel, texts: list[list[int]]) -> None:
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        ll.train_sae(model, texts, layers=0, memory_limit=1000)
