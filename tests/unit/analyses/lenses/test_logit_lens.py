"""The logit lens against plain transformers, identities and known answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.analyses.lenses import memory as lens_memory
from layerlens.analyses.lenses.given import DEFAULT_POINTS
from layerlens.analyses.lenses.logit_lens import logit_lens
from layerlens.errors import Cancelled, InputError, LayerLensError, MemoryLimitError
from layerlens.model.lensmodel import LensModel
from layerlens.model.text import Tokens

from ..conftest import VOCABULARY, build

IDS = [5, 17, 200, 3, 90, 41, 300]
TRACKED = [7, 250]


def by_hand(model: LensModel, ids: list[int]) -> dict[str, Tensor]:
    """Logits [position, V] of every block's output and the final row, with transformers alone."""
    hf = model.hf
    with torch.inference_mode():
        out = hf(torch.tensor([ids]), output_hidden_states=True)
        states = out.hidden_states
        norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
        rows = {"embed": states[0]}
        # The last hidden state of transformers is already normed: it is left out.
        rows |= {f"{i}_post": state for i, state in enumerate(states[1:-1])}
        logits = {label: hf.lm_head(norm(state))[0] for label, state in rows.items()}
        cap = getattr(hf.config, "final_logit_softcapping", None)
        if cap:
            logits = {label: cap * torch.tanh(z / cap) for label, z in logits.items()}
        return {**logits, "final": out.logits[0]}


def test_every_number_equals_plain_transformers(model: LensModel) -> None:
    data = logit_lens(model, IDS, top_k=9, tracked=TRACKED).data
    expected = by_hand(model, IDS)
    final = expected["final"].double().log_softmax(-1)
    following = torch.tensor([*IDS[1:], int(final[-1].argmax())])
    for label, logits in expected.items():
        row = data.sel(point=label)
        logp = logits.double().log_softmax(-1)
        p = logp.exp()
        top = logp.topk(9)
        close(row.probability, top.values.exp())
        assert (row.token_id.values == top.indices.numpy()).all(), label
        close(row.entropy, -(p * logp).sum(-1))
        close(row.kl_to_final, (final.exp() * (final - logp)).sum(-1))
        close(row.cross_entropy[:-1], -logp[:-1].gather(1, following[:-1, None])[:, 0])
        target = logp.gather(1, following[:, None])
        assert (row["rank"].values == ((logp > target).sum(-1) + 1).numpy()).all(), label
        close(row.tracked_probability, p[:, TRACKED])
        ranks = [(logp > logp[:, [token]]).sum(-1) + 1 for token in TRACKED]
        assert (row.tracked_rank.values == torch.stack(ranks, 1).numpy()).all()
    assert np.isnan(data.cross_entropy.values[:, -1]).all(), "the last position has no next token"
    assert data.target_id.values.tolist() == following.tolist()


def close(found: Any, expected: Tensor) -> None:
    np.testing.assert_allclose(np.asarray(found), expected.numpy(), atol=1e-5, rtol=1e-4)


def test_the_axes_are_labelled(model: LensModel) -> None:
    data = logit_lens(model, IDS).data
    assert data.point.values.tolist() == [
        *("embed", "0_mid", "0_post", "1_mid", "1_post", "2_mid", "2_post", "final"),
    ]
    assert data.layer.values.tolist() == [-1, 0, 0, 1, 1, 2, 2, 3]
    assert data.input_id.values.tolist() == IDS
    assert data.token.values[0] == "[5]"
    assert data.entropy.attrs["units"] == "nats"


def test_all_checks_pass_and_say_their_numbers(model: LensModel) -> None:
    checks = logit_lens(model, IDS, tracked=TRACKED).checks
    assert {check.name for check in checks} >= {"final row is the model's", "KL at final is zero"}
    assert [check for check in checks if not check.ok] == []


def test_a_wrong_head_input_is_caught_by_the_check(
    gpt2: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerlens.analyses.lenses import one_pass as lens_pass

    real = lens_pass.forward

    def shifted(*args: Any, **kwargs: Any) -> Tensor | None:
        logits = real(*args, **kwargs)
        return None if logits is None else logits + 0.5

    monkeypatch.setattr(lens_pass, "forward", shifted)
    checks = {check.name: check for check in logit_lens(gpt2, IDS).checks}
    assert not checks["final row is the model's"].ok
    assert checks["final row is the model's"].error == pytest.approx(0.5, abs=1e-3)


def test_first_and_settle_by_hand(model: LensModel) -> None:
    data = logit_lens(model, IDS).data
    answers = data.token_id.values[:, :, 0]
    for position in range(len(IDS)):
        hits = [i for i in range(8) if answers[i, position] == answers[-1, position]]
        stays = [i for i in range(8) if all(j in hits for j in range(i, 8))]
        assert data.first_point.values[position] == hits[0]
        assert data.settle_point.values[position] == stays[0]
        assert data.first_layer.values[position] == data.layer.values[hits[0]]
        assert data.settle_layer.values[position] == data.layer.values[stays[0]]


def test_blocks_that_write_nothing_leave_all_points_equal(gpt2: LensModel) -> None:
    with torch.no_grad():
        for block in gpt2.hf.transformer.h:
            for module in (block.attn.c_proj, block.mlp.c_proj):
                module.weight.zero_()
                module.bias.zero_()
    data = logit_lens(gpt2, IDS).data
    assert (data.token_id.values == data.token_id.values[:1]).all()
    assert (data.entropy.values == data.entropy.values[:1]).all()
    assert (data.kl_to_final.values == 0).all()
    assert (data.first_layer.values == -1).all()
    assert (data.settle_layer.values == -1).all()


def test_a_head_of_zeros_is_uniform(gpt2: LensModel) -> None:
    with torch.no_grad():
        gpt2.hf.lm_head.weight.zero_()  # tied: the embedding is zero too, positions remain
    data = logit_lens(gpt2, IDS, tracked=[4]).data
    np.testing.assert_allclose(data.entropy.values, np.log(VOCABULARY), rtol=1e-6)
    np.testing.assert_allclose(data.probability.values, 1 / VOCABULARY, rtol=1e-5)
    assert (data["rank"].values == 1).all()
    assert (data.tracked_rank.values == 1).all()


def test_scaling_a_state_changes_nothing(gpt2: LensModel) -> None:
    """The final norm is taken over each row itself, so only its direction counts."""
    state = torch.randn(4, gpt2.d_model) * 5
    with gpt2.running():
        plain, scaled = gpt2.head_input(state), gpt2.head_input(1000 * state)
    assert torch.allclose(plain, scaled, atol=1e-4)


def test_components_are_the_lens_of_the_sublayer_alone(model: LensModel) -> None:
    data = logit_lens(model, IDS, points=("attn_out", "mlp_out", "post")).data
    assert data.point.values.tolist()[:4] == ["0_attn_out", "0_mlp_out", "0_post", "1_attn_out"]
    trace = ll.record(model, IDS, ["mlp_out.1"])
    with model.running():
        logp = model.unembed(trace["mlp_out.1"][0]).double().log_softmax(-1)
    close(data.sel(point="1_mlp_out").entropy, -(logp.exp() * logp).sum(-1))
    only = logit_lens(model, IDS, points="mlp_out").data
    assert (only.settle_point.values == 3).all(), "sublayers do not count as points of settling"


def test_points_by_label_and_positions_are_slices_of_the_whole(model: LensModel) -> None:
    whole = logit_lens(model, IDS, tracked=TRACKED).data
    part = logit_lens(
        model, IDS, points=["1_post", "embed"], positions=[2, -1], tracked=TRACKED
    ).data
    assert part.point.values.tolist() == ["embed", "1_post", "final"]
    assert part.position.values.tolist() == [2, 6]
    same = whole.sel(point=part.point.values, position=[2, 6])
    for name in ("token_id", "rank", "target_id", "tracked_rank", "input_id"):
        assert (part[name].values == same[name].values).all(), name
    for name in ("probability", "entropy", "kl_to_final", "cross_entropy"):
        np.testing.assert_allclose(part[name], same[name], atol=1e-5, err_msg=name)


def padded(rows: list[list[int]], side: str) -> Tokens:
    """A batch padded on one side; padding holds an id that would be seen."""
    length = max(map(len, rows))
    table, mask = torch.full((len(rows), length), 9), torch.zeros(len(rows), length).bool()
    strings = []
    for i, row in enumerate(rows):
        gap = length - len(row)
        here = slice(gap, length) if side == "left" else slice(0, len(row))
        table[i, here], mask[i, here] = torch.tensor(row), True
        names = tuple(f"[{token}]" for token in row)
        strings.append(("",) * gap + names if side == "left" else names + ("",) * gap)
    joins = tuple((False,) * length for _ in rows)
    return Tokens(table, mask, (None,) * len(rows), tuple(strings), joins, single=False)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_one_by_one(model: LensModel, side: str) -> None:
    rows = [IDS, [8, 9, 10], [44]]
    batch = logit_lens(model, padded(rows, side), tracked=TRACKED)
    assert batch.data.sizes["batch"] == 3
    assert [check for check in batch.checks if not check.ok] == []
    for i, row in enumerate(rows):
        alone = logit_lens(model, row, tracked=TRACKED).data
        mine = batch.data.isel(batch=i, position=slice(0, len(row)))
        rest = batch.data.isel(batch=i, position=slice(len(row), None))
        for name, array in alone.data_vars.items():
            np.testing.assert_allclose(
                mine[name], array, atol=1e-5, rtol=1e-4, err_msg=f"{name} of text {i}"
            )
            if array.dtype.kind == "f":
                assert np.isnan(rest[name]).all(), name
            else:
                assert (rest[name] == array.attrs["missing"]).all(), name
        assert mine.token.values.tolist() == alone.token.values.tolist()


class Recorder(Silent):
    """Keeps every part; stops before the one of this number."""

    def __init__(self, stop_at: int = 10**9) -> None:
        self.parts: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self.sizes: dict[str, int] = {}
        self.steps: list[tuple[int, int, str]] = []
        self.stop_at = stop_at

    def on_declare(self, sizes: Any, coords: Any, variables: Any) -> None:
        self.sizes = dict(sizes)

    def on_emit(self, where: Any, arrays: Any) -> None:
        self.parts.append((dict(where), {k: v.copy() for k, v in arrays.items()}))

    def on_progress(self, done: int, total: int, what: str) -> None:
        self.steps.append((done, total, what))

    def cancelled(self) -> bool:
        return len(self.parts) >= self.stop_at


def test_emitted_parts_make_the_whole(model: LensModel) -> None:
    heard = Recorder()
    result = logit_lens.run(model, IDS, {"tracked": TRACKED}, heard)
    again = {
        name: np.full(array.shape, -9, dtype=array.dtype)
        for name, array in result.data.data_vars.items()
    }
    for where, arrays in heard.parts:
        for name, part in arrays.items():
            dims = result.data[name].dims
            again[name][tuple(where.get(dim, slice(None)) for dim in dims)] = part
    for name, array in result.data.data_vars.items():
        np.testing.assert_array_equal(again[name], array.values, err_msg=name)
    assert heard.sizes == {"point": 8, "k": 5, "position": 7, "tracked": 2}
    done, total, _ = zip(*heard.steps, strict=True)
    assert list(done) == sorted(done)
    assert done[-1] == total[-1]


def test_the_first_row_comes_before_the_second_block_runs(gpt2: LensModel) -> None:
    heard, seen = Recorder(), []
    block = gpt2.hf.transformer.h[1]
    hook = block.register_forward_pre_hook(lambda *_: seen.append(len(heard.parts)))
    logit_lens.run(gpt2, IDS, {}, heard)
    hook.remove()
    rows = [arrays for _, arrays in heard.parts[: seen[0]] if "entropy" in arrays]
    assert rows, "the embedding's row was not there when block 1 began"


def hooks(model: LensModel) -> int:
    """How many hooks there are; transformers leaves some of its own."""
    modules = list(model.hf.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_a_stop_keeps_the_finished_rows(model: LensModel, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.run import head_rows as kernel

    monkeypatch.setattr(kernel, "PRODUCT_ROWS", len(IDS))  # every point is a product of its own
    whole = logit_lens(model, IDS).data
    before = hooks(model)
    with pytest.raises(Cancelled) as caught:
        logit_lens.run(model, IDS, {}, Recorder(stop_at=4))  # targets, then three points
    data = caught.value.partial.data  # type: ignore[union-attr]
    np.testing.assert_allclose(data.entropy.values[:3], whole.entropy.values[:3], atol=1e-5)
    assert np.isnan(data.entropy.values[3:]).all()
    assert (data.token_id.values[3:] == -1).all()
    assert data.attrs["complete"] == 0
    assert '"entropy": ["0_post"' not in data.attrs["missing"]
    assert '"entropy": ["1_mid"' in data.attrs["missing"]
    assert hooks(model) == before


def test_an_interrupt_keeps_the_finished_rows(gpt2: LensModel) -> None:
    class Interrupting(Recorder):
        def on_emit(self, where: Any, arrays: Any) -> None:
            super().on_emit(where, arrays)
            if len(self.parts) == 2:
                raise KeyboardInterrupt

    with pytest.raises(Cancelled) as caught:
        logit_lens.run(gpt2, IDS, {}, Interrupting())
    data = caught.value.partial.data  # type: ignore[union-attr]
    assert np.isfinite(data.entropy.values[0]).all()


def test_work_is_one_pass_and_one_row_a_cell(
    gpt2: LensModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    gpt2.hf.transformer.h[0].register_forward_pre_hook(lambda *_: passes.append(1))
    attrs = logit_lens(gpt2, IDS).data.attrs
    assert attrs["passes"] == len(passes) == 1
    # The last block's output is what the head is fed, so final costs no row of its own.
    assert attrs["head_rows"] == 7 * len(IDS)
    passes.clear()
    monkeypatch.setattr(lens_memory, "STORE_SHARE", 0.0)
    small = logit_lens(gpt2, IDS)
    assert small.data.attrs["passes"] == len(passes) == 2
    monkeypatch.undo()
    whole = logit_lens(gpt2, IDS).data
    np.testing.assert_allclose(small.data.kl_to_final, whole.kl_to_final, atol=1e-6)


def test_the_second_pass_serves_a_capped_head_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gemma2")
    whole = logit_lens(model, IDS)
    monkeypatch.setattr(lens_memory, "STORE_SHARE", 0.0)
    small = logit_lens(model, IDS)
    assert small.data.attrs["passes"] == 2
    np.testing.assert_allclose(small.data.kl_to_final, whole.data.kl_to_final, atol=1e-6)
    assert [check for check in small.checks if not check.ok] == []


def test_a_limit_that_is_too_small_says_the_numbers(model: LensModel) -> None:
    with pytest.raises(MemoryLimitError, match=r"rows of 301 logits need .* MB"):
        logit_lens(model, IDS, memory_limit=1000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_agree_with_the_model_itself(dtype: torch.dtype) -> None:
    model = build("llama")
    model.hf.to(dtype)
    result = logit_lens(model, IDS)
    assert [check for check in result.checks if not check.ok] == []
    assert result.data.attrs["dtype"] == str(dtype).removeprefix("torch.")


def test_nan_in_a_block_names_the_point_and_the_position(gpt2: LensModel) -> None:
    def spoil(module: Any, args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 3] = float("nan")
        return output

    gpt2.hf.transformer.h[1].mlp.register_forward_hook(spoil)
    with pytest.raises(LayerLensError, match=r"from 1_post on, first at position 3"):
        logit_lens(gpt2, IDS)


def test_train_mode_is_restored_and_does_not_matter(gpt2: LensModel) -> None:
    expected = logit_lens(gpt2, IDS).data
    gpt2.hf.train()
    found = logit_lens(gpt2, IDS).data
    assert gpt2.hf.training
    np.testing.assert_array_equal(found.entropy, expected.entropy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 3}, "'topk' is not known: did you mean 'top_k'"),
        ({"points": ["posts"]}, "'posts' is not known: did you mean 'post'"),
        ({"points": "7_post"}, "did you mean"),
        ({"top_k": 0}, "expected 1 to 301"),
        ({"top_k": 302}, "expected 1 to 301"),
        ({"tracked": [301]}, "Token id 301 does not exist"),
        ({"positions": 7}, "Position 7 does not exist"),
        ({"positions": []}, "No position was chosen"),
    ],
)
def test_wrong_options_are_named(model: LensModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        logit_lens(model, IDS, **options)


def test_a_single_token_has_only_the_models_own_answer(model: LensModel) -> None:
    data = logit_lens(model, [5]).data
    assert data["rank"].values[-1].tolist() == [1]
    assert data.target_id.values.tolist() == data.token_id.values[-1, :, 0].tolist()
    assert np.isnan(data.cross_entropy.values).all()


def test_default_points_are_every_state() -> None:
    assert DEFAULT_POINTS == ("embed", "mid", "post")
