"""Cross-layer transcoders in circuit-tracer's files: written and read, and what they compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import layerlens as ll
from layerlens.analyses.features.dictionaries.dictionary import Dictionary
from layerlens.errors import InputError, ResultError
from layerlens.model.lensmodel import LensModel
from layerlens.result.fitted import Fitted

from ..by_hooks import wrapped
from ..small_calls import small_transcoders

TOKENS = [5, 9, 1, 3, 7, 5]


@pytest.fixture(scope="module")
def model() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture
def given(model: LensModel) -> Fitted:
    return small_transcoders(model, cross=True)


def test_what_is_written_is_read(model: LensModel, given: Fitted, tmp_path: Path) -> None:
    folder = ll.export_transcoders(given, tmp_path / "clt", model)
    again = ll.load_transcoders(folder, model)
    for name in given:
        assert torch.equal(again[name], given[name]), name
    assert eval(again.call, {"ll": ll, "model": model})["W_dec"].equal(given["W_dec"])
    graphs = [ll.feature_circuit(model, TOKENS, one) for one in (given, again)]
    assert graphs[0].data.equals(graphs[1].data)


def test_files_are_laid_out_as_circuit_tracer_reads_them(
    model: LensModel, given: Fitted, tmp_path: Path
) -> None:
    """Its own sums (features of a layer, decoded into each later one), in plain torch."""
    folder = ll.export_transcoders(given, tmp_path / "clt", model)
    x = torch.randn(7, 2, 64, generator=torch.Generator().manual_seed(1))
    normed = x / x.square().mean(-1, keepdim=True).sqrt()  # ln2.hook_normalized
    y = torch.zeros(7, 2, 64)
    for layer in range(2):
        encoder = load_file(folder / f"W_enc_{layer}.safetensors")
        rows = load_file(folder / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"]
        assert rows.shape == (12, 2 - layer, 64)
        f = (normed[:, layer] @ encoder[f"W_enc_{layer}"].T + encoder[f"b_enc_{layer}"]).relu()
        y[:, layer:] += torch.einsum("nf,flo->nlo", f, rows)
        y[:, layer] += encoder[f"b_dec_{layer}"]
    first, second = Dictionary.by_layer(given).values()
    own, features = first.reconstruct(x[:, 0])
    other = second.reconstruct(x[:, 1])[0] + features @ given["W_dec_later"][0]
    torch.testing.assert_close(y, torch.stack([own, other], 1), atol=1e-4, rtol=1e-4)
    assert 'feature_input_hook: "ln2.hook_normalized"' in (folder / "config.yaml").read_text()


def test_thresholds_and_other_states(model: LensModel, given: Fitted, tmp_path: Path) -> None:
    folder = ll.export_transcoders(given, tmp_path / "clt", model)
    for layer in range(2):
        path = folder / f"W_enc_{layer}.safetensors"
        more = {f"threshold_{layer}": torch.full((12,), 0.5)}
        save_file({**load_file(path), **more}, path)
    found = ll.load_transcoders(folder, model, reads="hook_resid_mid")
    one = Dictionary.by_layer(found)[1]
    assert one.form.architecture == "jumprelu" and one.form.normalise == "none"
    x = torch.randn(5, 64)
    pre = x @ given["W_enc"][1] + given["b_enc"][1]
    torch.testing.assert_close(one.encode(x), pre * (pre > 0.5))


def test_what_the_files_cannot_say_is_refused(
    model: LensModel, given: Fitted, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="path beside"):
        ll.export_transcoders(small_transcoders(model, skip=True, cross=True), tmp_path, model)
    with pytest.raises(InputError, match="cross_layer=True"):
        ll.export_transcoders(small_transcoders(model), tmp_path, model)
    centring = wrapped("gpt_neox")
    with pytest.raises(InputError, match="takes the mean off"):
        ll.export_transcoders(small_transcoders(centring, cross=True), tmp_path, centring)
    folder = ll.export_transcoders(given, tmp_path / "clt", model)
    with pytest.raises(InputError, match="hook_z"):
        ll.load_transcoders(folder, model, reads="hook_z")
    (folder / "config.yaml").unlink()
    with pytest.raises(InputError, match="give reads="):
        ll.load_transcoders(folder, model)
    (folder / "W_dec_1.safetensors").write_bytes(b"no")
    with pytest.raises(ResultError, match="damaged"):
        ll.load_transcoders(folder, model, reads="hook_resid_mid")
    (folder / "W_enc_1.safetensors").unlink()
    with pytest.raises(InputError, match="a pair of files"):
        ll.load_transcoders(folder, model, reads="hook_resid_mid")
