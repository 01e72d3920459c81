"""A model that runs elsewhere answers as it does here, and what it cannot is said.

No server is reached. `Faraway` does what one does with a request: it unpacks it where nothing of
layerlens can be imported, runs it on a model of its own, and packs what was saved.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import layerlens as ll
from layerlens.model.lensmodel import LensModel
from layerlens.model.remote import RemoteModel
from layerlens.model.tiny import tiny_model
from layerlens.model.toys import toy_folder

nnsight = pytest.importorskip("nnsight", reason="nnsight is not installed (make test-remote)")

TEXT, OTHER = "cat dog owl cat", "cat fox owl cat"
SITES = ["embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z"]
SITES += ["normalized", "head_input"]


@contextmanager
def without_layerlens() -> Iterator[None]:
    """Nothing of layerlens can be imported, as on a server."""
    own = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "layerlens"}
    sys.modules.update(dict.fromkeys(own))  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.modules.update(own)


class Server:
    """A model of its own, and the requests that it was sent."""

    def __init__(self, hf: Any, tokenizer: Any) -> None:
        from nnsight.modeling.transformers import TransformersModel

        self.nn = TransformersModel(hf, tokenizer=tokenizer, task="text-generation")
        self.requests = 0
        self.bytes = 0

    def answer(self, blob: bytes, compressed: bool) -> dict[str, Any]:
        """What a request saved, packed and unpacked again."""
        from nnsight.schema.request import RequestModel

        self.requests += 1
        objects = self.nn._remoteable_persistent_objects()
        with without_layerlens():
            job = RequestModel.deserialize(blob, objects, compressed)
            shipped = dict(job.info.frame.f_locals)
            job.execute(job.info.code)
        saved = {n: v for n, v in job.info.frame.f_locals.items() if shipped.get(n) is not v}
        packed = io.BytesIO()
        torch.save(saved, packed)
        self.bytes += packed.tell()
        packed.seek(0)
        unpacked: dict[str, Any] = torch.load(packed, map_location="cpu", weights_only=False)
        return unpacked


def reached(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every request end at this server."""
    from nnsight.intervention.backends.remote import RemoteBackend
    from nnsight.modeling.mixins.remotable import Remotable

    def request(self: Any, envelope: Any, tracer: Any) -> dict[str, Any]:
        return server.answer(self._serialize(tracer), self.compress)

    monkeypatch.setattr(RemoteBackend, "request", request)
    # A key names a model of the hub, which is asked for it.
    monkeypatch.setattr(Remotable, "to_model_key", lambda _: "faraway")


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.fixture(scope="module")
def here() -> LensModel:
    return ll.load("toy:induction")


@pytest.fixture(scope="module")
def server(patch: pytest.MonkeyPatch) -> Server:
    own = ll.load("toy:induction")
    made = Server(own.hf, own.tokenizer)
    reached(made, patch)
    return made


@pytest.fixture(scope="module")
def there(server: Server) -> RemoteModel:
    model = ll.load(toy_folder("toy:induction"), name="toy:induction", remote="http://faraway")
    assert isinstance(model, RemoteModel)
    assert server.requests == 3  # its proof
    return model


def test_its_weights_are_not_here(there: RemoteModel) -> None:
    assert not there.nn.dispatched
    assert all(parameter.is_meta for parameter in there.nn._module.parameters())
    assert there.proof
    assert [line.name for line in there.proof.lines] == ["sums", "stream", "head", "no-op"]
    assert "only what enters and leaves its modules was seen" in str(there.proof)
    assert "remote='http://faraway'" in there.load_code


def test_what_is_recorded_is_the_same(there: RemoteModel, here: LensModel, server: Server) -> None:
    before = server.requests
    found = ll.record(there, [TEXT, OTHER], SITES, positions=[1, -1])
    expected = ll.record(here, [TEXT, OTHER], SITES, positions=[1, -1])
    assert server.requests == before + 1
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6)
    assert found.top(1)[0][:2] == expected.top(1)[0][:2] == (17, "dog")


@pytest.mark.parametrize(
    "edit",
    [
        ll.edit("resid_pre.1", "zero", position=3),
        ll.edit("resid_mid.0", "scale", 3.0, position=2),
        ll.edit("resid_post.0", "add", torch.ones(64), position=1),
        ll.edit("attn_out.1", "mean", [OTHER]),
        ll.edit("z.1.2", "zero"),
        ll.edit("mlp_out.0", "resample", OTHER),
        ll.edit("normalized", "scale", 0.5),
    ],
    ids=lambda edit: edit.kind,
)
def test_an_edit_does_the_same(edit: ll.Edit, there: RemoteModel, here: LensModel) -> None:
    sites = ["resid_pre", "resid_mid", "resid_post"]
    found, expected = (ll.run(model, TEXT, edit, sites=sites) for model in (there, here))
    plain = ll.run(here, TEXT)
    assert float((expected.logits - plain.logits).abs().max()) > 1e-3
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-5)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


def same(found: ll.Result, expected: ll.Result) -> None:
    assert found
    assert list(found.data.data_vars) == list(expected.data.data_vars)
    for name, array in expected.data.data_vars.items():
        np.testing.assert_allclose(found.data[name], array, atol=2e-5, err_msg=str(name))
    for name, coordinate in expected.data.coords.items():
        np.testing.assert_array_equal(found.data[name], coordinate)


@pytest.mark.parametrize(
    "options", [{"tracked": ["dog"], "positions": [1, -1]}, {"points": "post"}]
)
def test_the_lens_is_the_same_in_one_request(
    options: dict[str, Any], there: RemoteModel, here: LensModel, server: Server
) -> None:
    before, sent = server.requests, server.bytes
    found = ll.logit_lens(there, [TEXT, OTHER], **options)
    assert server.requests == before + 1
    assert server.bytes - sent < 60_000  # no state and no whole row of logits, but for the check
    same(found, ll.logit_lens(here, [TEXT, OTHER], **options))
    edits = ll.edit("attn_out.1", "zero")
    same(ll.logit_lens(there, TEXT, edits=edits), ll.logit_lens(here, TEXT, edits=edits))


@pytest.mark.parametrize(
    "options",
    [
        {"answer": "dog", "wrong": "fox"},
        {"site": "attn_out", "metric": "logit", "direction": "noise"},
        {"site": "z", "by": "head"},
    ],
)
def test_a_patching_grid_is_the_same(
    options: dict[str, Any], there: RemoteModel, here: LensModel, server: Server
) -> None:
    before = server.requests
    found = ll.patch_sweep(there, TEXT, OTHER, **options)
    assert server.requests - before <= 16
    same(found, ll.patch_sweep(here, TEXT, OTHER, **options))


def test_all_cells_are_one_request(there: RemoteModel, server: Server) -> None:
    few, many = (
        _requests(server, lambda layers=layers: ll.patch_sweep(
            there, TEXT, OTHER, answer="dog", wrong="fox", layers=layers, verify=0
        ))
        for layers in (0, None)
    )  # fmt: skip
    assert few == many


def _requests(server: Server, ask: Callable[[], object]) -> int:
    before = server.requests
    ask()
    return server.requests - before


def test_what_it_cannot_is_said(there: RemoteModel) -> None:
    only = "runs elsewhere, and only ll.record, ll.run, ll.logit_lens and ll.patch_sweep"
    for ask in (
        lambda: ll.relevance(there, TEXT),
        lambda: ll.spectrum(there),
        lambda: there.generate(TEXT),
        lambda: ll.layer_metrics(there, TEXT),
    ):
        with pytest.raises(ll.ModelError, match=only):
            ask()
    with pytest.raises(ll.SiteError, match="only what enters and leaves modules is seen"):
        ll.record(there, TEXT, "pattern")
    with pytest.raises(ll.InputError, match="use lens='logit'"):
        ll.logit_lens(there, TEXT, lens="sublayer")
    with pytest.raises(ll.InputError, match="use metric='logit_diff' or 'logit'"):
        ll.patch_sweep(there, TEXT, OTHER, metric="kl")
    with pytest.raises(ll.InputError, match="use method='auto'"):
        ll.patch_sweep(there, TEXT, OTHER, method="packed")
    with pytest.raises(ll.InputError, match="leave dtype and device out"):
        ll.load("toy:induction", remote=True, dtype="float16")
    with pytest.raises(ll.InputError, match="not with a model in memory"):
        ll.load(tiny_model("llama"), remote=True)


def test_an_unanswered_request_is_one_sentence(
    there: RemoteModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError

    def refused(*_: Any) -> None:
        raise RemoteError("Failed to send request: no such deployment")

    monkeypatch.setattr(RemoteBackend, "request", refused)
    with pytest.raises(ll.ModelError, match=r"did not answer .*no such deployment\): see"):
        ll.record(there, TEXT, "resid_post")


def test_a_wrong_anatomy_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from layerlens.model import remote

    def shifted(anatomy: Any) -> Any:
        found = seen(anatomy)
        found.blocks[1].taps["mlp_out"] = found.blocks[0].taps["mlp_out"]
        return found

    seen = remote.seen
    monkeypatch.setattr(remote, "seen", shifted)
    with pytest.raises(ll.ProofError, match="its anatomy is not proven: sums"):
        ll.load(toy_folder("toy:induction"), remote="http://faraway")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "gemma2"])
def test_other_families(family: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hf = tiny_model(family)
    hf.save_pretrained(tmp_path)
    tokenizer = ll.load("toy:induction").tokenizer  # nnsight wants one; ids are given
    reached(Server(hf, tokenizer), monkeypatch)
    there = ll.load(tmp_path, tokenizer, name=family, remote="http://faraway")
    here = ll.load(hf, tokenizer, name=family)
    ids = [[5, 9, 1, 3, 7, 5]]
    found, expected = (ll.record(model, ids, "resid_post") for model in (there, here))
    torch.testing.assert_close(found["resid_post"], expected["resid_post"], rtol=1e-5, atol=1e-5)
    same(ll.logit_lens(there, ids[0]), ll.logit_lens(here, ids[0]))


def test_the_rehearsal_of_nnsight(here: LensModel) -> None:
    there = ll.load("toy:induction", remote="local")
    same(ll.logit_lens(there, TEXT), ll.logit_lens(here, TEXT))
