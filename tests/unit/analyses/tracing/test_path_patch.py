"""Path patching against the four runs with plain hooks, identities and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

import layerlens as ll
from layerlens.errors import Cancelled, InputError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model

from .. import by_hooks as by
from ..by_hooks import FAMILIES, IDS, OTHER
from ..lenses.test_logit_lens import Recorder

LAYERS, HEADS = 3, 4
ANSWER, WRONG = 7, 50


def four_runs(
    hf: PreTrainedModel,
    clean: list[int],
    corrupt: list[int],
    sender: tuple[int, int | str],
    receivers: list[tuple[int, int, str]],
    *,
    freeze_mlps: bool = False,
    positions: Any = slice(None),
    share: float = 1.0,
) -> float:
    """Logit difference of the fourth run, by the definition: q, k and v of every head frozen.

    The sender goes a share of the way to its value in the other run.
    """
    layers = range(LAYERS)
    layer, part = sender
    if isinstance(part, str):
        sends, columns = (by.part(hf, layer, part.removesuffix("_out")), "out"), slice(None)
    else:
        sends, columns = (by.part(hf, layer, "z"), "in"), by.head_columns(hf, part)
    qkv = [(module, "out") for layer in layers for module in by.projections(hf, layer)]
    mlps = [(by.part(hf, layer, "mlp"), "out") for layer in layers if freeze_mlps]
    own, other = (by.kept(hf, ids, [sends])[sends][0] for ids in (clean, corrupt))
    source = own + share * (other - own)
    plain = by.kept(hf, clean, [*qkv, *mlps])
    read: dict[Any, torch.Tensor] = {}

    def freeze(place: Any) -> Any:
        def change(value: torch.Tensor) -> torch.Tensor:
            read[place] = value.clone()
            return plain[place]

        return change

    hooks = [(*place, freeze(place)) for place in [*qkv, *mlps]]
    hooks.append((*sends, by.putting(source[positions][:, columns], columns, positions)))
    logits = by.run(hf, clean, hooks)
    if receivers:
        given = [by.vector(hf, *receiver) for receiver in receivers]
        hooks = [
            (module, "out", by.putting(read[(module, "out")][0][:, part], part))
            for module, part in given
        ]
        logits = by.run(hf, clean, hooks)
    return float(logits[ANSWER] - logits[WRONG])


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    """Each family in turn."""
    return str(request.param)


@pytest.mark.parametrize("receiver", ["logits", (2, 1, "q"), (2, 1, "k"), (2, 0, "v")])
def test_every_sender_equals_four_plain_runs(family: str, receiver: Any) -> None:
    model, hf = by.wrapped(family), by.plain(family)
    tokens: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG}
    result = ll.path_patch(model, IDS, OTHER, receiver=receiver, **tokens)
    receivers = [] if receiver == "logits" else [receiver]
    data = result.data
    assert data.layer.values.tolist() == list(range(3 if not receivers else 2))
    for row, layer in enumerate(data.layer.values.tolist()):
        for head in range(HEADS):
            expected = four_runs(hf, IDS, OTHER, (layer, head), receivers)
            assert data.metric.values[row, head] == pytest.approx(expected, abs=2e-4)
    ends = [float(z[ANSWER] - z[WRONG]) for z in (by.run(hf, IDS), by.run(hf, OTHER))]
    np.testing.assert_allclose(data.effect, data.metric - ends[0], atol=2e-4)
    np.testing.assert_allclose(data.recovered, data.effect / (ends[1] - ends[0]), atol=2e-4)
    assert float(abs(data.effect).max()) > 1e-3, "no sender does anything: the test is blind"
    assert [check for check in result.checks if not check.ok] == []


@pytest.mark.parametrize("kind", ["mlp_out", "attn_out"])
@pytest.mark.parametrize(
    ("receiver", "freeze"),
    [("logits", False), ("logits", True), ((2, 1, "k"), False), ((2, 0, "v"), True)],
)
def test_whole_sublayers_send_too(family: str, kind: str, receiver: Any, freeze: bool) -> None:
    model, hf = by.wrapped(family), by.plain(family)
    how: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG, "freeze_mlps": freeze}
    result = ll.path_patch(model, IDS, OTHER, sender=kind, receiver=receiver, **how)
    data = result.data
    assert data.metric.dims == ("layer", "sublayer") and data.sublayer.values.tolist() == [kind]
    receivers = [] if receiver == "logits" else [receiver]
    assert data.layer.values.tolist() == list(range(3 if not receivers else 2))
    for row, layer in enumerate(data.layer.values.tolist()):
        expected = four_runs(hf, IDS, OTHER, (layer, kind), receivers, freeze_mlps=freeze)
        assert data.metric.values[row, 0] == pytest.approx(expected, abs=2e-4)
    assert float(abs(data.effect).max()) > 1e-3, "no sender does anything: the test is blind"
    assert [check for check in result.checks if not check.ok] == []


def test_some_sublayers_at_chosen_positions() -> None:
    model, hf = by.wrapped("llama"), by.plain("llama")
    senders = [(0, "mlp_out"), (1, "attn_out"), (-2, "mlp_out")]
    how: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG, "positions": [2, -1]}
    data = ll.path_patch(model, IDS, OTHER, sender=senders, receiver=(2, 1, "q"), **how).data
    assert data.sublayer.values.tolist() == ["attn_out", "mlp_out"]
    for layer, kind in ((0, "mlp_out"), (1, "attn_out"), (1, "mlp_out")):
        expected = four_runs(hf, IDS, OTHER, (layer, kind), [(2, 1, "q")], positions=[2, 5])
        found = float(data.metric.sel(layer=layer, sublayer=kind))
        assert found == pytest.approx(expected, abs=2e-4)
    assert np.isnan(data.metric.sel(layer=0, sublayer="attn_out"))
    assert data.attrs["complete"] == 1


def test_heads_that_put_k_together_from_several_modules() -> None:
    """DeepSeek's: of k only what the scores are made of is known, and that receives."""
    hf = tiny_model("deepseek_v3", seed=1, num_hidden_layers=2)
    model = LensModel.wrap(hf, None, name="latent", prove=False)
    for kind, site in (("q", "q"), ("k", "rot_k")):
        result = ll.path_patch(model, IDS, OTHER, receiver=(1, 2, kind), answer=ANSWER, wrong=WRONG)
        data = result.data
        assert data.attrs["receiver"] == f"blocks.1.attn.hook_{site}[2]"
        assert [check for check in result.checks if not check.ok] == []
        base = ll.record(model, IDS, ["z.0"])
        z = ll.record(model, OTHER, ["z.0"])["z", 0][0]
        for head in range(model.n_heads):
            held = [
                ll.edit(f"z.0.{other}", "set", base["z", 0][0, :, other])
                for other in range(model.n_heads)
                if other != head
            ]
            held.append(ll.edit(f"z.0.{head}", "set", z[:, head]))
            third = ll.run(model, IDS, edits=held, sites=[f"{site}.1"])
            given = ll.edit(f"{site}.1.2", "set", third[site, 1][0, :, 2])
            logits = ll.run(model, IDS, edits=[given]).logits[0, -1]
            expected = float(logits[ANSWER] - logits[WRONG])
            assert float(data.metric.sel(layer=0, head=head)) == pytest.approx(expected, abs=1e-4)
        assert float(abs(data.effect).max()) > 1e-4


def test_frozen_mlps_chosen_positions_and_several_receivers(family: str) -> None:
    model, hf = by.wrapped(family), by.plain(family)
    receivers: list[tuple[int, int, str]] = [(2, 1, "q"), (1, 0, "k"), (2, 0, "v")]
    how: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG, "freeze_mlps": True}
    for places, end in ((receivers, 2), ([], 3)):
        receiver: Any = places or "logits"
        data = ll.path_patch(
            model, IDS, OTHER, receiver=receiver, positions=[2, -1], **how
        ).data.metric
        for layer in range(end):
            for head in range(HEADS):
                expected = four_runs(
                    hf, IDS, OTHER, (layer, head), places, freeze_mlps=True, positions=[2, 5]
                )
                assert data.values[layer, head] == pytest.approx(expected, abs=2e-4)


def test_denoising_is_noising_with_the_texts_changed_over(family: str) -> None:
    model = by.wrapped(family)
    how: dict[str, Any] = {"answer": ANSWER, "wrong": WRONG, "receiver": (2, 1, "v")}
    one = ll.path_patch(model, IDS, OTHER, direction="denoise", **how).data
    other = ll.path_patch(model, OTHER, IDS, direction="noise", **how).data
    np.testing.assert_allclose(one.metric, other.metric, atol=1e-5)
    np.testing.assert_allclose(one.recovered, other.recovered, atol=1e-5)
    assert one.attrs["clean_metric"] == other.attrs["corrupt_metric"]
    assert one.attrs["direction"].startswith("clean activations into the corrupted run")
    assert other.attrs["direction"].startswith("corrupted activations into the clean run")


def test_direct_paths_to_the_logits_add_up_in_the_stream() -> None:
    """With MLPs frozen, what is left is the head's write itself: logits move by it alone."""
    model, hf = by.wrapped("llama"), by.plain("llama")
    place = (by.part(hf, 1, "z"), "in")
    z = [by.kept(hf, ids, [place])[place][0, -1] for ids in (IDS, OTHER)]
    columns = by.head_columns(hf, 2)
    last = (by.blocks(hf)[-1], "out")
    state = by.kept(hf, IDS, [last])[last][0, -1]
    with torch.no_grad():
        write = (z[1] - z[0])[columns] @ by.part(hf, 1, "z").weight[:, columns].T
        logits = hf.lm_head(hf.model.norm(state + write))
    found = ll.path_patch(
        model, IDS, OTHER, sender=(1, 2), freeze_mlps=True, answer=ANSWER, wrong=WRONG
    )
    assert float(found.data.metric.sel(layer=1, head=2)) == pytest.approx(
        float(logits[ANSWER] - logits[WRONG]), abs=1e-4
    )
    assert np.isnan(found.data.metric.sel(layer=1, head=0))
    assert found.data.attrs["complete"] == 1


@pytest.mark.parametrize("method", ["naive", "restart", "packed"])
def test_every_way_to_run_gives_the_same(method: str) -> None:
    model = by.wrapped("llama")
    auto = ll.path_patch(model, IDS, OTHER, receiver=(2, 0, "k")).data
    found = ll.path_patch(model, IDS, OTHER, receiver=(2, 0, "k"), method=method).data
    assert found.attrs["method"] == method
    np.testing.assert_allclose(found.metric, auto.metric, atol=1e-4)


def test_several_pairs_are_each_on_their_own() -> None:
    model = by.wrapped("gpt2")
    pairs = ([IDS, [1, 2, 3]], [OTHER, [1, 9, 3]])
    both = ll.path_patch(model, *pairs, answer=ANSWER, wrong=[WRONG, 60]).data
    assert both.metric.dims == ("batch", "layer", "head")
    for row, wrong in enumerate((WRONG, 60)):
        alone = ll.path_patch(model, pairs[0][row], pairs[1][row], answer=ANSWER, wrong=wrong).data
        np.testing.assert_allclose(both.metric[row], alone.metric, atol=1e-5)


def test_equal_texts_have_nothing_to_recover() -> None:
    data = ll.path_patch(by.wrapped("gpt2"), IDS, IDS).data
    np.testing.assert_allclose(data.effect, 0, atol=1e-5)
    assert np.isnan(data.recovered).all()
    assert "nothing to recover" in data.attrs["notes"]


def test_a_stop_keeps_finished_senders(monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.analyses.tracing import sender_paths as module

    monkeypatch.setattr(module, "TOGETHER", HEADS)
    texts = {"clean": IDS, "corrupt": OTHER}
    with pytest.raises(Cancelled) as caught:
        ll.path_patch.run(by.wrapped("gpt2"), texts, {"receiver": (2, 0, "v")}, Recorder(1))
    data = caught.value.partial.data  # type: ignore[union-attr]
    assert np.isfinite(data.metric.sel(layer=1)).any(), "the layer before the receiver comes first"
    assert np.isnan(data.metric.sel(layer=0)).all()
    assert data.attrs["complete"] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"receiver": (3, 0, "q")}, "Layer 3 of the receiver does not exist"),
        ({"receiver": (2, 4, "q")}, "layer 2 has 4 heads"),
        ({"receiver": (2, 2, "k")}, "layer 2 has 2 key-value heads"),
        ({"receiver": (2, 0, "z")}, r"A receiver is \(layer, head"),
        ({"receiver": "head"}, "receiver is 'logits' or"),
        ({"receiver": ["logits", (2, 0, "q")]}, "'logits' stands alone"),
        ({"receiver": (0, 0, "q")}, "No sender can reach the receiver"),
        ({"receiver": (1, 0, "q"), "sender": (1, 0)}, "No sender can reach the receiver"),
        ({"sender": (0, 9)}, "Head 9 of the sender does not exist"),
        (
            {"sender": [3]},
            r"A sender is \(layer, head\) or \(layer, 'attn_out' | 'mlp_out'\), not 3",
        ),
        ({"sender": "mlp"}, "did you mean 'mlp_out'"),
        ({"sender": (0, "resid")}, "Sender in layer 0: 'resid' is not known"),
        ({"sender": [(0, 1), (0, "mlp_out")]}, "heads and whole sublayers: ask for them in two"),
        ({"direction": "back"}, "expected 'denoise' or 'noise'"),
        ({"metric": "logitdiff"}, "did you mean 'logit_diff'"),
        ({"positions": 9}, "Position 9 does not exist"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ll.path_patch(by.wrapped("llama"), IDS, OTHER, **options)


def test_texts_of_unequal_length_need_an_alignment() -> None:
    model: LensModel = by.wrapped("gpt2")
    with pytest.raises(InputError, match="do not match"):
        ll.path_patch(model, IDS, IDS[:-1])
    data = ll.path_patch(model, IDS, OTHER[1:], align=[(-1, -1), (2, 1)]).data
    assert np.isfinite(data.metric).all()


def test_work_is_counted_without_running() -> None:
    model = by.wrapped("gpt2")
    whole = ll.path_patch.work(model, IDS, OTHER, verify=0)
    early = ll.path_patch.work(model, IDS, OTHER, receiver=(1, 0, "k"), verify=0)
    assert whole.passes == 2 + 3 * 4 + 1
    assert early.passes == 2 + 2 * (4 + 1)
