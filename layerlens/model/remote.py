"""A model that runs elsewhere (NDIF), reached by nnsight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from layerlens.errors import InputError, ModelError, SiteError
from layerlens.model.anatomy import Anatomy, BlockAnatomy
from layerlens.model.load import read_model, tokenizer_at
from layerlens.model.plan import built, pretending, whereabouts
from layerlens.model.unloaded import Unloaded, outline

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEEN = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_post", "z")
"""Kinds of sites that are inputs or outputs of modules."""

ONLY_MODULES = "only what enters and leaves modules is seen of a model that runs elsewhere"

ASKED = "ll.record, ll.run, ll.logit_lens and ll.patch_sweep"


class RemoteModel(Unloaded):
    """A model that is not in this process: every question is a request.

    Made by ``ll.load(..., remote=True)``. Its parts are found on a small model of the same make
    and proven by what enters and leaves the modules of the real one; what lies inside its
    attention is not seen.

    Attributes
    ----------
    nn
        nnsight's model.
    remote
        Where it is: True for the server that nnsight is set to, its address, or ``"local"`` for
        nnsight's rehearsal, which packs and unpacks each request and runs it in this process.
    """

    nn: Any
    _order: dict[tuple[str, str], int]

    @classmethod
    def of(cls, outlined: Unloaded, nn: Any, remote: bool | str) -> RemoteModel:
        """Make one of what is known without numbers."""
        assert outlined.twin is not None
        made = cls(
            outlined.hf, outlined.tokenizer, seen(outlined.anatomy), outlined.name,
            outlined.feed, outlined.twin,
        )  # fmt: skip
        made.nn, made.remote = nn, remote
        made._order = _order(outlined)
        return made

    @property
    def twin_hf(self) -> PreTrainedModel:
        """The small model, whose tensors are real: inputs are made as for it."""
        assert self.twin is not None
        return self.twin.hf

    @property
    def device(self) -> torch.device:
        """Where answers arrive."""
        return torch.device("cpu")

    def order(self, path: str, side: str) -> int:
        """When the input or output of a module passes, of all of them.

        Raises
        ------
        SiteError
            It was not seen to pass.
        """
        if (path, side) not in self._order:
            raise SiteError(f"The {side} of {path} was not seen to pass in a run of {self.name}.")
        return self._order[path, side]

    def refuse(self) -> NoReturn:
        """Raise a ``ModelError``: only inputs and outputs of modules can be asked for."""
        raise ModelError(
            f"{self.name} runs elsewhere, and only {ASKED} can be asked of it there: load it with "
            "ll.load, without remote=."
        )

    def unembed(self, resid: Tensor) -> Tensor:
        """Logits ``[n, vocabulary]`` of states ``[n, d_model]``, as one request."""
        from layerlens.run.requests import remote_answers

        return remote_answers(self, resid, None)

    def columns(self, resid: Tensor, tokens: Sequence[int]) -> Tensor:
        """Logits ``[n, token]`` of some tokens for states ``[n, d_model]``, as one request."""
        from layerlens.run.requests import remote_answers

        return remote_answers(self, resid, tokens).double()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Hold the lock during a request; what goes wrong with it is one sentence.

        Raises
        ------
        ModelError
            The request failed.
        """
        from layerlens.run.requests import explained

        with self.lock:
            try:
                yield
            except Exception as error:  # nnsight, the network, and torch on the other side
                raise explained(error, self) from error

    def __repr__(self) -> str:
        return super().__repr__().replace("Unloaded(", "RemoteModel(", 1)


class SeenAnatomy(Anatomy):
    """An anatomy without what lies inside modules."""

    def _why_missing(self, block: BlockAnatomy, kind: str) -> str:
        return super()._why_missing(block, kind) if kind in SEEN else ONLY_MODULES


def seen(anatomy: Anatomy) -> SeenAnatomy:
    """An anatomy without what lies inside attention."""
    blocks = tuple(
        replace(
            block, attention=None, mixer=None, cross_mixer=None,
            taps={kind: tap for kind, tap in block.taps.items() if kind in SEEN},
        )
        for block in anatomy.blocks
    )  # fmt: skip
    given = {field.name: getattr(anatomy, field.name) for field in fields(anatomy)}
    return SeenAnatomy(**{**given, "blocks": blocks})


def _order(outlined: Unloaded) -> dict[tuple[str, str], int]:
    """When inputs and outputs of modules pass, seen in a pass of the small model."""
    assert outlined.twin is not None
    twin = outlined.twin
    passed: dict[tuple[str, str], int] = {}

    def passing(path: str, side: str) -> Callable[..., None]:
        def see(*_: Any) -> None:
            passed.setdefault((path, side), len(passed))

        return see

    with ExitStack() as stack:
        for path, module in twin.hf.named_modules():
            stack.callback(module.register_forward_pre_hook(passing(path, "input")).remove)
            stack.callback(module.register_forward_hook(passing(path, "output")).remove)
        with twin.running():
            twin.hf(**twin.feed.arguments(twin.hf, twin.probe()))
    return passed


def load_remote(
    source: Any, tokenizer: Any, remote: bool | str, *, name: str | None, trust: bool, prove: bool
) -> RemoteModel:
    """See ``ll.load``.

    Raises
    ------
    ModelError
        nnsight is not installed, or the model cannot be outlined.
    InputError
        A model in memory is to be reached elsewhere.
    """
    from layerlens.run.proof_remote import prove_remote

    if source is not None and not hasattr(source, "__fspath__") and not isinstance(source, str):
        raise InputError("remote= goes with a hub id or a folder, not with a model in memory.")
    transformers_model = _nnsight()
    where, label = whereabouts(source)
    tokenizer = tokenizer_at(str(where), trust) if tokenizer is None else tokenizer
    if remote == "local":
        hf = read_model(source, trust)
        nn = transformers_model(hf, tokenizer=tokenizer, task="text-generation")
    else:
        # A folder says nothing of a task, by which nnsight names what it asks for.
        task = "text-generation" if Path(str(where)).is_dir() else None
        nn = transformers_model(str(where), tokenizer=tokenizer, task=task, trust_remote_code=trust)
    mode = pretending()
    _, bare, _ = built(where, None, trust, mode)
    outlined = outline(bare, tokenizer, name or label, mode, trust_remote_code=trust)
    model = RemoteModel.of(outlined, nn, remote)
    if prove:
        model.proof = prove_remote(model)
        model.proof.require()
    return model


def _nnsight() -> Any:
    try:
        import nnsight
        from nnsight.modeling.transformers import TransformersModel
    except ImportError as error:
        raise ModelError(
            "A model elsewhere is reached by nnsight, which is not installed: "
            "pip install 'layerlens[remote]'."
        ) from error
    nnsight.register("layerlens")  # what travels is shipped by its source
    return TransformersModel
