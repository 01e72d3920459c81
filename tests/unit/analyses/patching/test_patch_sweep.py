"""The patching grid against one plain forward pass and one plain hook a cell."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import layerlens as ll
from layerlens.analyses.contract.listeners import Silent
from layerlens.errors import Cancelled, InputError, ModelError, SiteError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.result.select import one_text

CLEAN, CORRUPT = [5, 9, 17, 4, 11, 8], [5, 9, 30, 4, 11, 2]
ANSWER, WRONG = 7, 21
TOKENS = {"answer": ANSWER, "wrong": WRONG}
FIRST = 2  # the first position that differs


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox", "gemma2"])
def model(request: pytest.FixtureRequest) -> LensModel:
    return LensModel.wrap(tiny_model(request.param), None, name=request.param, prove=False)


# Where the parts are, written down by hand for these four families.
PLACES: dict[str, dict[str, Any]] = {
    "llama": {
        "blocks": lambda hf: hf.model.layers,
        "attn_out": lambda b: b.self_attn,
        "mlp_out": lambda b: b.mlp,
        "z": lambda b: b.self_attn.o_proj,
        "mlp_post": lambda b: b.mlp.down_proj,
    },
    "gpt2": {
        "blocks": lambda hf: hf.transformer.h,
        "attn_out": lambda b: b.attn,
        "mlp_out": lambda b: b.mlp,
        "z": lambda b: b.attn.c_proj,
        "mlp_post": lambda b: b.mlp.c_proj,
    },
    "gpt_neox": {
        "blocks": lambda hf: hf.gpt_neox.layers,
        "attn_out": lambda b: b.attention,
        "mlp_out": lambda b: b.mlp,
        "z": lambda b: b.attention.dense,
        "mlp_post": lambda b: b.mlp.dense_4h_to_h,
    },
    "gemma2": {
        "blocks": lambda hf: hf.model.layers,
        "attn_out": lambda b: b.post_attention_layernorm,
        "mlp_out": lambda b: b.post_feedforward_layernorm,
        "z": lambda b: b.self_attn.o_proj,
        "mlp_post": lambda b: b.mlp.down_proj,
    },
}
INPUTS = ("resid_pre", "z", "mlp_post")


class Plain:
    """Patching with nothing but PyTorch hooks."""

    def __init__(self, model: LensModel, site: str) -> None:
        self.hf = model.hf
        places = PLACES[model.name]
        blocks = places["blocks"](self.hf)
        self.modules = [places[site](b) if site in places else b for b in blocks]
        self.input = site in INPUTS

    def _hook(self, layer: int, use: Callable[[Tensor], Tensor | None]) -> Any:
        def before(module: Any, args: Any, kwargs: Any) -> Any:
            if args:
                new = use(args[0])
                return None if new is None else ((new, *args[1:]), kwargs)
            new = use(kwargs["hidden_states"])
            return None if new is None else (args, {**kwargs, "hidden_states": new})

        def after(module: Any, args: Any, output: Any) -> Any:
            new = use(output[0] if isinstance(output, tuple) else output)
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        if self.input:
            return self.modules[layer].register_forward_pre_hook(before, with_kwargs=True)
        return self.modules[layer].register_forward_hook(after)

    def metric(self, ids: list[int]) -> float:
        with torch.no_grad():
            logits = self.hf(torch.tensor([ids])).logits[0, -1].double()
        return float(logits[ANSWER] - logits[WRONG])

    def read(self, ids: list[int]) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = [self._hook(i, lambda v: seen.append(v.clone())) for i in range(len(self.modules))]
        self.metric(ids)
        for hook in hooks:
            hook.remove()
        return seen

    def patched(self, ids: list[int], layer: int, value: Tensor, index: Any) -> float:
        def put(old: Tensor) -> Tensor:
            new = old.clone()
            new[(0, *index)] = value[(0, *index)]
            return new

        hook = self._hook(layer, put)
        try:
            return self.metric(ids)
        finally:
            hook.remove()


def sweep(model: LensModel, **options: Any) -> Any:
    return ll.patch_sweep(model, CLEAN, CORRUPT, **{**TOKENS, **options})


def all_ok(result: Any) -> bool:
    assert len(result.checks) >= 3
    return all(check.ok for check in result.checks)


@pytest.mark.parametrize(
    "site", ["resid_pre", "resid_post", "attn_out", "mlp_out", "mlp_post", "z"]
)
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_every_cell_is_one_plain_hooked_forward(
    model: LensModel, site: str, direction: str
) -> None:
    plain = Plain(model, site)
    base, other = (CORRUPT, CLEAN) if direction == "denoise" else (CLEAN, CORRUPT)
    values = plain.read(other)
    expected = [
        [plain.patched(base, layer, values[layer], (t,)) for t in range(len(base))]
        for layer in range(model.n_layers)
    ]
    result = sweep(model, site=site, by="position", direction=direction)
    np.testing.assert_allclose(result.data.metric, expected, atol=1e-4)
    assert result.data.metric.dims == ("layer", "position")
    clean, corrupt = plain.metric(CLEAN), plain.metric(CORRUPT)
    moved = np.array(expected) - corrupt if direction == "denoise" else clean - np.array(expected)
    np.testing.assert_allclose(result.data.recovered, moved / (clean - corrupt), atol=1e-3)
    assert result.data.attrs["clean_metric"] == pytest.approx(clean, abs=1e-5)
    assert result.data.attrs["corrupt_metric"] == pytest.approx(corrupt, abs=1e-5)
    assert all_ok(result)


@pytest.mark.parametrize("by", ["head", "head_position"])
def test_heads(model: LensModel, by: str) -> None:
    plain, heads = Plain(model, "z"), model.n_heads
    values = plain.read(CLEAN)
    width = values[0].shape[-1] // heads
    where = [slice(None)] if by == "head" else list(range(len(CLEAN)))
    expected = np.array(
        [
            [
                [
                    plain.patched(
                        CORRUPT, layer, values[layer], (t, slice(h * width, (h + 1) * width))
                    )
                    for t in where
                ]
                for h in range(heads)
            ]
            for layer in range(model.n_layers)
        ]
    )
    result = sweep(model, site="z", by=by)
    found = result.data.metric
    np.testing.assert_allclose(found, expected[..., 0] if by == "head" else expected, atol=1e-4)
    assert found.dims == (("layer", "head") if by == "head" else ("layer", "head", "position"))
    assert all_ok(result)


def test_neurons(model: LensModel) -> None:
    plain = Plain(model, "mlp_post")
    values = plain.read(CLEAN)
    expected = [
        plain.patched(CORRUPT, 1, values[1], (slice(None), slice(n, n + 1))) for n in (3, 5)
    ]
    result = sweep(model, site="mlp_post", by="neuron", layers=1, neurons=[5, 3])
    np.testing.assert_allclose(result.data.metric[0], expected, atol=1e-4)
    assert result.data.neuron.values.tolist() == [3, 5]
    assert all_ok(result)


def test_sites_inside_the_attention(model: LensModel) -> None:
    result = sweep(model, site="v")
    assert result.data.metric.shape == (model.n_layers, model.n_kv_heads)
    assert "key-value heads" in result.data.attrs["notes"]
    assert all_ok(result)
    pattern = sweep(model, site="pattern", by="position")
    rows = sweep(model, site="q", by="position")
    assert pattern.data.metric.shape == rows.data.metric.shape
    assert all_ok(pattern) and all_ok(rows)
    packed = sweep(model, site="k", by="head_position").data.metric
    naive = sweep(model, site="k", by="head_position", method="naive").data.metric
    np.testing.assert_allclose(packed, naive, atol=1e-4)


# Invariants


def test_patching_everything_brings_the_answer_back(model: LensModel) -> None:
    """(2) and (3): the last position of the last block, and the embedding of what differs."""
    post = sweep(model, site="resid_post").data.recovered
    assert float(post[-1, -1]) == pytest.approx(1, abs=1e-3)
    assert np.abs(post[-1, :-1]).max() == pytest.approx(0, abs=1e-3)
    pre = sweep(model, site="resid_pre", positions=[2, 5]).data
    embed = sweep(model, site="embed").data
    assert embed.layer.values.tolist() == [-1]
    assert embed.attrs["method"] == "naive"
    np.testing.assert_allclose(embed.recovered[0, [2, 5]], pre.recovered[0], atol=1e-3)
    one = ll.patch_sweep(model, CLEAN, [*CORRUPT[:-1], CLEAN[-1]], site="embed", answer=3, wrong=4)
    assert float(one.data.recovered[0, 2]) == pytest.approx(1, abs=1e-3)


def test_patching_the_same_text_changes_nothing(model: LensModel) -> None:
    """(1) and (7)."""
    result = ll.patch_sweep(model, CLEAN, CLEAN)
    assert result.data.recovered.isnull().all()
    assert "hardly differ" in result.data.attrs["notes"]
    np.testing.assert_allclose(result.data.metric, result.data.attrs["clean_metric"], atol=1e-4)
    assert all(check.ok for check in result.checks)


def test_all_heads_together_are_the_attention_output(model: LensModel) -> None:
    """(4)."""
    z = sweep(model, site="z", by="position").data.metric
    attention = sweep(model, site="attn_out").data.metric
    np.testing.assert_allclose(z, attention, atol=1e-4)


def test_positions_before_the_first_difference_are_not_run(model: LensModel) -> None:
    """(6)."""
    result = sweep(model, verify=0)
    np.testing.assert_array_equal(result.data.recovered[:, :FIRST], 0)
    two_tests, layers = 2, model.n_layers
    in_first_layer = 2  # the positions whose own token differs
    later = (layers - 1) * (len(CLEAN) - FIRST)
    assert result.data.attrs["cells"] == in_first_layer + later + two_tests


# Everything around it


def test_a_window_patches_layers_together(model: LensModel) -> None:
    wide = sweep(model, site="mlp_out", window=2, layers=1).data.metric
    values = Plain(model, "mlp_out").read(CLEAN)
    plain = Plain(model, "mlp_out")
    expected = []
    for t in range(len(CLEAN)):

        def put(old: Tensor, t: int = t) -> Tensor:
            new = old.clone()
            new[0, t] = values[0][0, t]
            return new

        hook = plain._hook(0, put)
        expected.append(plain.patched(CORRUPT, 1, values[1], (t,)))
        hook.remove()
    np.testing.assert_allclose(wide[0], expected, atol=1e-4)


def test_an_alignment_of_unequal_texts(model: LensModel) -> None:
    corrupt = [5, 9, 30, 31, 4, 11, 2]
    align = [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5), (5, 6)]
    plain = Plain(model, "resid_pre")
    values = plain.read(CLEAN)
    result = ll.patch_sweep(
        model, CLEAN, corrupt, align=align, answer=ANSWER, wrong=WRONG, verify=3
    )
    assert result.data.metric[:, 2].isnull().all()

    moved = torch.zeros(1, len(corrupt), values[1].shape[-1])
    for clean_position, position in align:
        moved[0, position] = values[1][0, clean_position]
    expected = [plain.patched(corrupt, 1, moved, (t,)) for t in (0, 1, 3, 4, 5, 6)]
    found = result.data.metric.values[1, [0, 1, 3, 4, 5, 6]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert all(check.ok for check in result.checks)


def test_pairs_have_a_mean_and_an_interval(model: LensModel) -> None:
    clean = [CLEAN, [5, 9, 17, 4, 11, 3], [6, 9, 17, 4, 11, 9]]
    corrupt = [CORRUPT, [5, 9, 40, 4, 11, 3], [6, 9, 33, 4, 1, 9]]
    options = {"answer": [7, 8, 9], "wrong": WRONG}
    data = ll.patch_sweep(model, clean, corrupt, **options).data
    assert data.metric.dims == ("batch", "layer", "position")
    alone = [
        ll.patch_sweep(model, clean[i], corrupt[i], answer=options["answer"][i], wrong=WRONG).data
        for i in range(3)
    ]
    np.testing.assert_allclose(data.metric, [one.metric for one in alone], atol=1e-4)
    gain = np.mean([one.metric - one.attrs["corrupt_metric"] for one in alone], axis=0)
    total = np.mean([one.attrs["clean_metric"] - one.attrs["corrupt_metric"] for one in alone])
    np.testing.assert_allclose(data.recovered_mean, gain / total, atol=1e-3)
    np.testing.assert_allclose(data.metric_mean, data.metric.mean("batch"), atol=1e-4)
    assert bool((data.metric_low <= data.metric_mean + 1e-5).all())
    assert bool((data.metric_mean <= data.metric_high + 1e-5).all())
    assert json.loads(data.attrs["answer"]) == [7, 8, 9]
    assert data.attrs["complete"] == 1


def test_texts_of_different_length_leave_gaps(gpt2: LensModel) -> None:
    data = ll.patch_sweep(gpt2, [[5, 6, 7], [5, 6]], [[5, 9, 7], [5, 8]], answer=3, wrong=4).data
    assert data.metric[1, :, 2].isnull().all()
    assert data.attrs["complete"] == 1
    assert data.token.values.tolist() == [["[5]", "[9]", "[7]"], ["[5]", "[8]", ""]]


def test_a_metric_of_ones_own(gpt2: LensModel) -> None:
    def top(logits: Tensor) -> Tensor:
        return logits.amax(-1)

    result = ll.patch_sweep(gpt2, CLEAN, CORRUPT, metric=top)
    assert "metric=top" in result.code
    assert result.data.attrs["metric"] == "top"
    probability = ll.patch_sweep(gpt2, CLEAN, CORRUPT, metric="probability", answer=3)
    assert probability.data.metric.attrs["units"] == "1"
    assert float(probability.data.metric.max()) <= 1


def test_the_direction_is_said_in_words(gpt2: LensModel) -> None:
    attrs = sweep(gpt2, direction="noise").data.attrs
    assert attrs["direction"] == "corrupted activations into the clean run"
    assert sweep(gpt2).data.attrs["direction"] == "clean activations into the corrupted run"


class _Stop(Silent):
    """Stops when some cells of the grid have come."""

    def __init__(self) -> None:
        self.parts = 0

    def on_emit(self, where: Any, arrays: Any) -> None:
        self.parts += 1

    def cancelled(self) -> bool:
        return self.parts >= 12


def test_a_stopped_sweep_keeps_its_cells(gpt2: LensModel) -> None:
    texts = {"clean": CLEAN, "corrupt": CORRUPT}
    with pytest.raises(Cancelled) as caught:
        ll.patch_sweep.run(gpt2, texts, {"method": "naive"}, _Stop())
    data = caught.value.partial.data  # type: ignore[union-attr]
    whole = ll.patch_sweep(gpt2, CLEAN, CORRUPT).data
    done = data.metric.notnull()
    assert 0 < int(done.sum()) < data.metric.size
    np.testing.assert_allclose(data.metric.values[done], whole.metric.values[done], atol=1e-4)
    assert json.loads(data.attrs["missing"])["metric"]
    assert data.attrs["complete"] == 0


class _Order(Silent):
    """Keeps the values of the grid as they come."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_emit(self, where: Any, arrays: Any) -> None:
        if isinstance(where.get("position"), slice):
            self.seen.extend(np.abs(arrays["recovered"]).tolist())


def test_the_strongest_cells_come_first_where_they_come_in_waves(model: LensModel) -> None:
    texts = {"clean": CLEAN, "corrupt": CORRUPT}
    heard = _Order()
    options = {**TOKENS, "method": "naive", "site": "mlp_out"}
    result = ll.patch_sweep.run(model, texts, options, heard)
    assert result.data.attrs["order"] == "strongest first, by attribution patching"
    half = len(heard.seen) // 2
    assert np.mean(heard.seen[:half]) > np.mean(heard.seen[half:])
    natural = sweep(model, site="mlp_out")
    assert natural.data.attrs["order"] == "as in the grid"
    np.testing.assert_allclose(result.data.metric, natural.data.metric, atol=1e-4)

    def flat(logits: Tensor) -> Tensor:
        return (logits > 0).sum(-1).float()

    counted = ll.patch_sweep(model, CLEAN, CORRUPT, metric=flat, method="naive").data.attrs
    assert counted["order"] == "as in the grid"


class _StopAfter(Silent):
    """Stops after the first cells, or when the estimate has come."""

    def __init__(self, after: str) -> None:
        self.after, self.stopped = after, False
        self.cells: list[int] = []

    def on_emit(self, where: Any, arrays: Any) -> None:
        self.stopped = self.stopped or self.after in arrays

    def on_progress(self, done: int, total: int, what: str) -> None:
        self.cells.append(done)
        self.stopped = self.stopped or self.after == "cells"

    def cancelled(self) -> bool:
        return self.stopped


@pytest.mark.parametrize("site", ["resid_pre", "z", "k"])
@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_estimate_is_that_of_attribution_patching(
    model: LensModel, site: str, direction: str
) -> None:
    options = {**TOKENS, "site": site, "direction": direction}
    plain = ll.patch_sweep(model, CLEAN, CORRUPT, **options).data
    first = ll.patch_sweep(model, CLEAN, CORRUPT, estimate_first=True, **options).data
    options["steps"] = int(site == "resid_pre")  # of whole states by the run half way
    quick = ll.attribution_patch(model, CLEAN, CORRUPT, verify=0, **options).data.recovered.values
    assert "estimate" not in plain
    assert first.attrs["order"] == "strongest first, by attribution patching"
    assert "no_estimate" not in first.attrs
    np.testing.assert_allclose(first.recovered, plain.recovered, atol=2e-4)
    estimate, truth = first.estimate.values, first.recovered.values
    known = np.isfinite(estimate)
    np.testing.assert_allclose(estimate[known], quick[known], rtol=1e-4, atol=1e-5)
    assert np.allclose(truth[~known], 0, atol=1e-6)  # the same in both runs, so nobody guesses
    if site == "resid_pre":
        assert not known[:, :FIRST].any() and known[1:, FIRST:].all()
    assert first.attrs["estimate_cells"] == known.sum()
    expected = np.corrcoef(estimate[known], truth[known])[0, 1]
    assert first.attrs["estimate_pearson"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("method", ["packed", "restart", "naive"])
def test_whoever_stops_has_the_strongest_cells_and_estimates_of_the_rest(method: str) -> None:
    model = LensModel.wrap(tiny_model("llama"), None, name="llama", prove=False)
    texts = {"clean": CLEAN, "corrupt": CORRUPT}
    options = {**TOKENS, "method": method, "site": "mlp_out", "estimate_first": True}
    with pytest.raises(Cancelled) as stop:
        ll.patch_sweep.run(model, texts, options, _StopAfter("estimate"))
    found = stop.value.partial.data
    whole = ll.patch_sweep.run(model, texts, options).data
    np.testing.assert_array_equal(found.estimate, whole.estimate)
    guessed = np.isfinite(found.estimate.values)
    assert guessed.any() and np.isnan(found.recovered.values[guessed]).all()
    heard = _StopAfter("cells")
    with pytest.raises(Cancelled) as stop:
        ll.patch_sweep.run(model, texts, options, heard)
    found = stop.value.partial.data
    true = guessed & np.isfinite(found.recovered.values)
    assert 0 < true.sum() < guessed.sum()
    np.testing.assert_allclose(
        found.recovered.values[true], whole.recovered.values[true], atol=1e-4
    )
    size = np.abs(whole.estimate.values)
    if method != "restart":  # which goes block by block
        assert size[true].min() >= size[guessed & ~true].max()
    assert found.attrs["estimate_cells"] == true.sum()


def _signs(logits: Tensor) -> Tensor:
    return (logits > 0).sum(-1).float()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "rank"}, "a rank has no gradient"),
        ({"metric": "kl", "direction": "noise"}, "its gradient there is zero"),
        ({"metric": _signs}, "This metric has no derivative"),
        ({"window": 3}, "a window overwrites"),
        ({"layers": 0, "positions": [0]}, "no cell has to be run"),
    ],
)
def test_where_nothing_can_be_estimated_it_says_why(options: dict[str, Any], words: str) -> None:
    model = LensModel.wrap(tiny_model("llama"), None, name="llama", prove=False)
    data = ll.patch_sweep(model, CLEAN, CORRUPT, estimate_first=True, **options).data
    assert words in data.attrs["no_estimate"]
    assert np.isnan(data.estimate.values).all()
    assert data.attrs["order"] == "as in the grid"
    assert np.isfinite(data.metric.values).all()
    assert data.attrs["estimate_cells"] == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_integers_have_no_gradient_to_estimate_from() -> None:
    linear = {torch.nn.Linear}
    hf = torch.ao.quantization.quantize_dynamic(tiny_model("llama"), linear, dtype=torch.qint8)
    model = LensModel.wrap(hf, None, name="int8", prove=False)
    data = ll.patch_sweep(model, CLEAN, CORRUPT, estimate_first=True, **TOKENS).data
    assert "computes in integers" in data.attrs["no_estimate"]
    assert np.isnan(data.estimate.values).all()
    with pytest.raises(ModelError, match="computes in integers"):
        ll.attribution_patch(model, CLEAN, CORRUPT, **TOKENS)


def test_each_of_several_pairs_is_estimated() -> None:
    model = LensModel.wrap(tiny_model("llama"), None, name="llama", prove=False)
    texts = [[CLEAN, CLEAN[::-1]], [CORRUPT, CORRUPT[::-1]]]
    both = ll.patch_sweep(model, *texts, estimate_first=True, **TOKENS)
    for index in range(2):
        pair = [one[index] for one in texts]
        alone = ll.patch_sweep(model, *pair, estimate_first=True, **TOKENS).data
        np.testing.assert_allclose(both.data.estimate[index], alone.estimate, atol=1e-5)
        one = one_text(both.data, index).attrs
        for name in ("estimate_pearson", "estimate_cells"):
            assert one[name] == pytest.approx(alone.attrs[name], abs=1e-5)


def _refusals() -> Iterator[tuple[dict[str, Any], type[Exception], str]]:
    yield {"site": "result"}, InputError, "cannot be patched"
    yield {"site": "resid_prr"}, SiteError, "resid_pre"
    yield {"by": "head"}, InputError, "no heads"
    yield {"by": "heads"}, InputError, "did you mean 'head'"
    yield {"by": "neuron"}, InputError, "no neurons"
    yield {"site": "mlp_post", "by": "neuron"}, InputError, "name layers= or neurons="
    yield {"layers": 9}, InputError, "no layer 9"
    yield {"site": "z", "heads": [12]}, InputError, "no head 12"
    yield {"heads": 1}, InputError, "has no heads"
    yield {"window": 0}, InputError, "window is 0"
    yield {"direction": "both"}, InputError, "'denoise' or 'noise'"
    yield {"metric": "logits"}, InputError, "did you mean 'logit'"
    yield {"answer": [1, 2]}, InputError, "2 entries for 1 text:"
    yield {"method": "fast"}, InputError, "method is"
    yield {"site": "pattern", "align": [(0, 0)]}, InputError, "leave out align"


@pytest.mark.parametrize(("options", "error", "message"), list(_refusals()))
def test_bad_input_is_refused(
    gpt2: LensModel, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ll.patch_sweep(gpt2, CLEAN, CORRUPT, **options)


def test_unequal_lengths_are_refused(gpt2: LensModel) -> None:
    with pytest.raises(InputError, match="align=") as caught:
        ll.patch_sweep(gpt2, CLEAN, CORRUPT[:-1])
    assert "corrupt: 0:'[5]'" in str(caught.value)


def test_an_estimate_counts_the_cells(gpt2: LensModel) -> None:
    naive = ll.patch_sweep.work(gpt2, CLEAN, CORRUPT, method="naive", verify=0)
    done = ll.patch_sweep(gpt2, CLEAN, CORRUPT, method="naive", verify=0).data.attrs
    assert naive.passes == pytest.approx(done["passes"], abs=6)
    assert ll.patch_sweep.work(gpt2, CLEAN, CORRUPT).passes < naive.passes
