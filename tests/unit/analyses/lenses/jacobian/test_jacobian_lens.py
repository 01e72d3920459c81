"""The Jacobian lens: known by construction, by brute force, in several families, and resumed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.contract.split import split_texts
from layerlens.analyses.lenses.jacobian.fit import require_norm
from layerlens.analyses.lenses.jacobian.mean import JacobianMean
from layerlens.analyses.lenses.points import lens_points
from layerlens.analyses.lenses.readers import reader_of
from layerlens.analyses.lenses.scores import lens_scores
from layerlens.errors import Cancelled, InputError, MemoryLimitError, ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result.fitted import Fitted
from tests.unit.analyses.masked import bert

WIDTH, SKIPPED = 16, 2
JACOBIAN = {"kind": "jacobian", "positions_skipped": SKIPPED}
Texts = list[list[int]]


def texts(number: int, length: int = 10, seed: int = 1) -> Texts:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 61, (number, length), generator=generator).tolist()


def linear(*, attention: bool = False) -> LensModel:
    """GPT-2 without norms in its blocks, whose units are linear; attention adds nothing, or the
    mean of all values up to a position."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_head=1, n_embd=WIDTH, vocab_size=61, n_positions=32,
        activation_function="linear", bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for block in hf.transformer.h:
            block.ln_1 = block.ln_2 = nn.Identity()
            block.attn.c_attn.weight[:, : 2 * WIDTH] = 0
            block.attn.c_attn.bias[: 2 * WIDTH] = 0
            if not attention:
                block.attn.c_proj.weight.zero_()
    return LensModel.wrap(hf, None, name="linear", prove=False)


def written(block: nn.Module) -> torch.Tensor:
    """The matrix of a linear MLP, acting on columns."""
    return (block.mlp.c_fc.weight @ block.mlp.c_proj.weight).detach().T


def attended(block: nn.Module) -> torch.Tensor:
    """The matrix from a state to what attention writes of it, acting on columns."""
    return (block.attn.c_attn.weight[:, 2 * WIDTH :] @ block.attn.c_proj.weight).detach().T


@pytest.mark.parametrize("reduction", ["future", "self"])
def test_linear_blocks_give_their_product_whatever_is_read(reduction: str) -> None:
    model = linear()
    _, one, two = (torch.eye(WIDTH) + written(block) for block in model.hf.transformer.h)
    for given in (texts(3), texts(3, 14, seed=5)):
        lens = ll.fit_lens(model, given, reduction=reduction, points="post", test=0.3, **JACOBIAN)
        assert lens.checks.ok
        torch.testing.assert_close(lens["1_post.jacobian"], two, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(lens["0_post.jacobian"], two @ one, rtol=1e-5, atol=1e-5)


def test_blocks_that_write_nothing_give_the_identity_exactly() -> None:
    model = ll.load(tiny_model("llama"))
    with torch.no_grad():
        for block in model.hf.model.layers[1:]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    lens = ll.fit_lens(model, texts(3), points="post", test=0.3, **JACOBIAN)
    for label in ("0_post", "1_post"):
        assert torch.equal(lens[f"{label}.jacobian"], torch.eye(32))
        assert lens.scores["train"][f"halves_error/{label}"] == 0
        assert lens.scores["train"][f"halves_cosine/{label}"] == 1
        assert lens.scores["test"][f"kl/{label}"] == lens.scores["test"][f"kl_logit/{label}"]


def test_attention_of_a_fixed_pattern_counts_later_positions_only_where_they_are_asked() -> None:
    model, length = linear(attention=True), 10
    block = model.hf.transformer.h[2]
    given = texts(300, length)
    counted = range(SKIPPED, length - 1)
    share = {
        "future": sum(1 / (u + 1) for t in counted for u in counted if u >= t) / len(counted),
        "self": sum(1 / (t + 1) for t in counted) / len(counted),
    }
    found = {}
    for reduction, mass in share.items():
        lens = ll.fit_lens(model, given, points="1_post", test=0.1, reduction=reduction, **JACOBIAN)
        seen = torch.eye(WIDTH) + mass * attended(block)
        expected = (torch.eye(WIDTH) + written(block)) @ seen
        found[reduction] = lens["1_post.jacobian"]
        off = float((found[reduction] - expected).norm() / expected.norm())
        assert off < (1e-5 if reduction == "future" else 0.02)
        # What the halves say is what is seen: the mean is off by half of their distance.
        assert off < lens.scores["train"]["halves_error/1_post"] or reduction == "future"
    apart = (found["future"] - found["self"]).norm() / found["future"].norm()
    assert apart > 0.1


def by_brute_force(model: LensModel, ids: list[int], layer: int) -> torch.Tensor:
    """``[target, out, source, in]``: the last states by those after a block, by torch alone."""
    blocks = model.hf.model.layers
    kept: list[torch.Tensor] = []

    def given(state: torch.Tensor) -> torch.Tensor:
        handles = [
            blocks[layer].register_forward_hook(lambda *_: state[None]),
            blocks[-1].register_forward_hook(lambda module, args, output: kept.append(output[0])),
        ]
        model.hf(torch.tensor([ids]))
        for handle in handles:
            handle.remove()
        return kept.pop()

    states: list[torch.Tensor] = []
    handle = blocks[layer].register_forward_hook(lambda m, a, output: states.append(output[0]))
    with torch.no_grad():
        model.hf(torch.tensor([ids]))
    handle.remove()
    return torch.autograd.functional.jacobian(given, states[0])


def test_it_is_the_sum_that_plain_torch_gives_and_reads_as_written() -> None:
    model = ll.load(tiny_model("llama"))
    given = texts(5)
    lens = ll.fit_lens(model, given, points="post", **JACOBIAN)
    test = lens.scores["test"]
    split = split_texts([None] * 5, 0, 0.2)
    counted = range(SKIPPED, 9)
    for layer in range(2):
        mean = torch.zeros(32, 32)
        for number in split.train:
            whole = by_brute_force(model, given[number], layer)
            parts = [whole[u, :, t] for t in counted for u in counted if u >= t]
            mean += torch.stack(parts).sum(0) / len(counted) / len(split.train)
        torch.testing.assert_close(lens[f"{layer}_post.jacobian"], mean, rtol=1e-4, atol=1e-5)
    ids = given[split.test[0]]
    found = ll.logit_lens(model, ids, lens=lens, top_k=99)
    with torch.no_grad():
        output = model.hf(torch.tensor([ids]), output_hidden_states=True)
        moved = output.hidden_states[1][0] @ lens["0_post.jacobian"].T
        logp = model.hf.lm_head(model.hf.model.norm(moved)).log_softmax(-1)
        final = output.logits[0].log_softmax(-1)
    at = found.data.sel(point="0_post")
    best = torch.from_numpy(at.probability.values).log()
    expected = logp.gather(-1, torch.from_numpy(at.token_id.values).long())
    torch.testing.assert_close(best, expected, rtol=1e-4, atol=1e-4)
    kl = (final.exp() * (final - logp)).sum(-1)[SKIPPED:].mean()
    assert abs(test["kl/0_post"] - float(kl)) < 1e-4
    assert float(found.data.heldout_kl.sel(point="0_post")) == pytest.approx(test["kl/0_post"])


@pytest.mark.parametrize(
    "family", ["gpt2", "gpt_neox", "opt", "gemma3_text", "olmo2", "mamba", "rwkv", "cohere"]
)
@pytest.mark.parametrize("reduction", ["future", "self"])
def test_forward_mode_gives_the_same_in_every_family(family: str, reduction: str) -> None:
    model = ll.load(tiny_model(family))
    lens = ll.fit_lens(model, texts(3, 7), test=0.3, reduction=reduction, **JACOBIAN)
    checks = {check.name: check for check in lens.checks}
    assert checks["forward mode"].error < 1e-5
    assert checks["no derivative from later tokens"].error == 0
    assert lens.checks.ok


def test_what_has_no_forward_mode_is_fitted_and_not_called_compared() -> None:
    run = ll.fit_lens.run(ll.load(tiny_model("mixtral")), texts(3, 7), {**JACOBIAN, "test": 0.3})
    assert "forward mode" not in {check.name for check in run.fitted.checks}
    assert "no forward mode" in run.data.attrs["notes"]


@pytest.mark.parametrize(
    ("family", "why"), [("openai-gpt", "no norm stands between"), ("bart", "no norm stands")]
)
def test_a_head_that_sees_the_size_of_a_state_is_refused(family: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        ll.fit_lens(ll.load(tiny_model(family)), texts(3), **JACOBIAN)


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    with pytest.raises(ModelError, match="reads in both directions"):
        ll.fit_lens(bert(), texts(3), **JACOBIAN)
    require_norm(ll.load(tiny_model("llama")))


def test_halves_are_the_mean_over_all_ways_to_halve() -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = 1 + torch.randn(6, 4, 5, generator=generator).double()
    mean = JacobianMean(["a"], 4, 5)
    for matrix in prompts:
        mean.add(0, matrix[None, :2].float())
        mean.add(2, matrix[None, 2:].float())
        mean.ended()
    apart, product, square = [], [], []
    for chosen in combinations(range(6), 3):
        others = [n for n in range(6) if n not in chosen]
        a, b = prompts[list(chosen)].mean(0), prompts[others].mean(0)
        apart.append(float((a - b).square().sum()))
        product.append(float((a * b).sum()))
        square.append(float(a.square().sum()))
    found = mean.halves(mean.means())
    size = float(prompts.mean(0).norm())
    assert found["halves_error"][0] == pytest.approx(np.mean(apart) ** 0.5 / size, rel=1e-5)
    assert found["halves_cosine"][0] == pytest.approx(np.mean(product) / np.mean(square), rel=1e-5)


def test_it_is_stopped_and_goes_on() -> None:
    model, given = ll.load(tiny_model("llama")), texts(6)
    options = {**JACOBIAN, "points": "post", "memory_limit": 300_000_000}
    whole = ll.fit_lens(model, given, **options)

    class AfterTwo(Silent):
        stopped = False

        def on_progress(self, done: int, total: int, what: str) -> None:
            self.stopped = what.startswith("prompt 3")

        def cancelled(self) -> bool:
            return self.stopped

    with pytest.raises(Cancelled) as stopped:
        ll.fit_lens.run(model, given, options, AfterTwo())
    begun = stopped.value.partial.fitted
    assert not begun.complete and begun.scores["train"]["prompts"] == 2
    ended = ll.fit_lens(model, given, resume=begun, **options)
    assert ended.complete and ended.scores["train"]["prompts"] == 5
    for name in whole:
        torch.testing.assert_close(ended[name], whole[name], rtol=1e-5, atol=1e-6)
    for name, value in whole.scores["train"].items():
        assert ended.scores["train"][name] == pytest.approx(value, rel=1e-4)
    again = ll.fit_lens(model, given, resume=whole, **options)
    assert all(torch.allclose(again[name], whole[name], rtol=1e-6) for name in whole)
    for changed, why in (
        ({"points": ("embed", "post")}, "no matrix for embed"),
        ({"reduction": "self"}, "begun with reduction='future'"),
    ):
        with pytest.raises(InputError, match=why):
            ll.fit_lens(model, given, resume=whole, **{**options, **changed})
    with pytest.raises(InputError, match="other texts"):
        ll.fit_lens(model, given[:5], resume=whole, **options)


def test_memory_changes_how_many_go_back_at_once_and_not_what_comes_out() -> None:
    model, given = ll.load(tiny_model("llama")), texts(3)
    much = ll.fit_lens(model, given, test=0.3, **JACOBIAN)
    little = ll.fit_lens(model, given, test=0.3, memory_limit=1_400_000, **JACOBIAN)
    for name in much:
        torch.testing.assert_close(little[name], much[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(MemoryLimitError, match="raise memory_limit"):
        ll.fit_lens(model, given, test=0.3, memory_limit=100_000, **JACOBIAN)


def test_short_texts_are_said_and_long_enough_ones_are_needed() -> None:
    model = ll.load(tiny_model("llama"))
    run = ll.fit_lens.run(model, [*texts(5), [5, 6, 7]], {**JACOBIAN, "seed": 1})
    assert run.fitted.scores["train"]["prompts"] == 4
    assert "1 of 5 texts have no more than 3 tokens" in run.data.attrs["notes"]
    with pytest.raises(InputError, match="No token is left for training"):
        ll.fit_lens(model, texts(3), kind="jacobian")
    for options, why in (
        ({"reduction": "later"}, "Reduction 'later' is not known"),
        ({"test_tokens": 9}, "test_tokens of fit_lens has an effect only"),
        ({"steps": 9}, "steps of fit_lens has an effect only"),
    ):
        with pytest.raises(InputError, match=why):
            ll.fit_lens(model, texts(3), **JACOBIAN, **options)
    with pytest.raises(InputError, match="reduction of fit_lens has an effect only"):
        ll.fit_lens(model, texts(3), reduction="self")


def test_the_estimate_counts_passes_back_and_depth() -> None:
    model, given = ll.load(tiny_model("llama")), texts(10)
    whole = ll.fit_lens.estimate(model, given, points=("embed", "post"), **JACOBIAN)
    upper = ll.fit_lens.estimate(model, given, points="1_post", **JACOBIAN)
    assert whole.passes == pytest.approx(0.2 + 0.8 * (8 + 32))
    assert upper.passes == pytest.approx(0.2 + 0.8 * (8 + 32 / 3))
    assert whole.tokens == 100


def test_a_model_of_other_weights_is_refused() -> None:
    lens: Fitted = ll.fit_lens(ll.load(tiny_model("llama")), texts(3), test=0.3, **JACOBIAN)
    other = ll.load(tiny_model("llama", seed=1))
    with pytest.raises(InputError, match="has other weights"):
        ll.logit_lens(other, texts(1)[0], lens=lens)
    model = ll.load(tiny_model("llama"))
    (point,) = lens_points(model, "0_post")
    state = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    expected = model.hf.model.norm(state @ lens["0_post.jacobian"].T)
    torch.testing.assert_close(reader_of(model, lens).decode(point, state), expected)
    assert set(lens_scores(lens, "train").data_vars) == {"halves_cosine", "halves_error"}
