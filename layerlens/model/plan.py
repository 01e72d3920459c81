"""What a model will take, before any of its weights are read."""

from __future__ import annotations

import copy
import json
import math
import os
import struct
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from layerlens.errors import InputError, ModelError
from layerlens.model import default
from layerlens.model.classes import class_of
from layerlens.model.conventions import cache_of, cached_bytes
from layerlens.model.gguf import first_line, quiet
from layerlens.model.integers import whole
from layerlens.model.load import dtype_of, explained
from layerlens.model.toys import toy_folder

PROBE_ROWS = 64
TIMED = 3

#: Names of types in the header of a safetensors file, and bytes an entry.
WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
WIDTHS |= {"F8_E4M3": 1, "F8_E5M2": 1, "BOOL": 1}


@dataclass(frozen=True)
class Plan:
    """What a model and one pass of it would take; nothing of it was loaded.

    Attributes
    ----------
    model
        Where it is.
    parameters
        Tied ones once.
    stored
        Bytes of its files by type of numbers, as their headers say; empty where it has no
        safetensors files.
    bytes
        Of the weights in memory, in the type that they would be loaded in.
    dtype
        That type.
    n_layers, d_model, d_vocab
        As its configuration says; None where it says nothing.
    tokens
        Of the pass.
    pass_bytes
        The most that one pass holds at once above the weights, with the attention patterns of one
        layer: counted by a pass without numbers.
    cache_bytes
        What writing on from these tokens keeps of them (keys and values, states of a recurrence);
        0 for a model that keeps nothing.
    seconds
        Of the pass on this machine's processor; good to a factor of about two.
    how
        How ``seconds`` was found.
    """

    model: str
    parameters: int
    stored: dict[str, int]
    bytes: int
    dtype: str
    n_layers: int | None
    d_model: int | None
    d_vocab: int | None
    tokens: int
    pass_bytes: int
    cache_bytes: int
    seconds: float
    how: str

    def __str__(self) -> str:
        stored = ", ".join(f"{size / 1e9:.3g} GB {kind}" for kind, size in self.stored.items())
        return (
            f"{self.model}: {self.parameters / 1e6:,.4g} M parameters, {self.bytes / 1e9:.3g} GB "
            f"in {self.dtype}{f' (files: {stored})' if stored else ''}; a pass of {self.tokens} "
            f"tokens about {self.seconds:.2g} s and {self.pass_bytes / 1e6:,.3g} MB above the "
            f"weights, {self.cache_bytes / 1e6:,.3g} MB of it to write on from ({self.how})"
        )


def plan(
    source: str | os.PathLike[str] | PreTrainedConfig | None,
    *,
    tokens: int = 512,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
) -> Plan:
    """Count what a model would take from its configuration and the headers of its files.

    Parameters
    ----------
    source
        A hub id or a folder, as `ll.load` takes them, or a configuration of transformers; None for
        the default model.
    tokens
        Of one pass.
    dtype, trust_remote_code
        As of `ll.load`.

    Raises
    ------
    ModelError
        There is no such model, or it cannot be built from its configuration.
    InputError
        An option does not fit.
    """
    if whole(tokens, "tokens") < 1:
        raise InputError(f"tokens is {tokens}; expected 1 or more.")
    where, named = whereabouts(source)
    pretended = pretending()
    config, hf, kind = built(where, dtype, trust_remote_code, pretended)
    own = {id(p): p for p in hf.parameters()}.values()
    count = sum(p.numel() for p in own)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    speed = product_speed(kind)
    most, cached = _of_a_pass(hf, tokens, pretended)
    return Plan(
        model=named,
        parameters=count,
        stored=_stored(where) if isinstance(where, str) else {},
        bytes=sum(p.numel() * p.element_size() for p in own),
        dtype=str(kind).removeprefix("torch."),
        n_layers=getattr(text, "num_hidden_layers", None),
        d_model=getattr(text, "hidden_size", None),
        d_vocab=getattr(text, "vocab_size", None),
        tokens=tokens,
        pass_bytes=most,
        cache_bytes=cached,
        seconds=2.0 * count * tokens / speed,
        how=f"operation counts at {speed / 1e9:.2g} GFLOP/s, timed on a product",
    )


def whereabouts(source: Any) -> tuple[str | PreTrainedConfig, str]:
    """Where a model's configuration is, or that itself, and what it is called."""
    if isinstance(source, PreTrainedConfig):
        return source, source.name_or_path or source.model_type
    where = os.fspath(default.find() if source is None else source)
    named = default.NAME if source is None else where
    return (os.fspath(toy_folder(where)) if where.startswith("toy:") else where), named


def pretending() -> FakeTensorMode:
    """Tensors with shapes, but no numbers."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def built(
    where: str | PreTrainedConfig, dtype: Any, trust: bool, pretended: FakeTensorMode
) -> tuple[Any, Any, torch.dtype]:
    """Configuration, the model without numbers, and the type of its weights."""
    from transformers import AutoConfig

    label = where if isinstance(where, str) else where.model_type
    try:
        with quiet():
            if isinstance(where, str):
                local = Path(where).expanduser().is_dir()
                config = AutoConfig.from_pretrained(
                    where, trust_remote_code=trust, local_files_only=local
                )
            else:
                config = copy.deepcopy(where)
            own = getattr(config, "dtype", None)
            kind = dtype_of(dtype) or (own if isinstance(own, torch.dtype) else torch.float32)
            cls = class_of(config)
            with pretended:
                if hasattr(cls, "_model_mapping"):
                    hf = cls.from_config(config, dtype=kind, trust_remote_code=trust)
                else:
                    hf = cls(config).to(kind)
    except InputError:
        raise
    except DataDependentOutputException as error:
        raise ModelError(
            f"{label} computes with numbers while it is made, so that its configuration alone "
            "does not tell what it takes: load it."
        ) from error
    except Exception as error:  # transformers lets through whatever its parts raise
        raise explained(error, label) from error
    return config, hf.eval(), kind


def _stored(where: str) -> dict[str, int]:
    """Bytes of the files by type of numbers, from their headers."""
    folder = Path(where).expanduser()
    found: Counter[str] = Counter()
    if folder.is_dir():
        for file in sorted(folder.glob("*.safetensors")):
            _add(found, _header(file).values())
        return dict(found)
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError

    try:
        files = get_safetensors_metadata(where).files_metadata.values()
    except NotASafetensorsRepoError:
        return {}
    for each in files:
        _add(found, [{"dtype": t.dtype, "shape": t.shape} for t in each.tensors.values()])
    return dict(found)


def _header(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file: eight bytes of length, then JSON."""
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8:
            raise ModelError(f"{file} is no safetensors file: get a complete copy.")
        (size,) = struct.unpack("<Q", start)
        header: dict[str, Any] = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return header


def _add(found: Counter[str], tensors: Iterable[Any]) -> None:
    for tensor in tensors:
        kind = tensor["dtype"]
        found[kind] += math.prod(tensor["shape"]) * WIDTHS.get(kind, 1)


class _Held(TorchDispatchMode):
    """Counts what a pass without numbers holds at once."""

    def __init__(self, hf: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        weights = (*hf.parameters(), *hf.buffers())
        self._weights = {weight.untyped_storage()._cdata for weight in weights}
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._weights:  # a view of a weight is no more memory
                    self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._alive.values()))
        return made


def _of_a_pass(hf: Any, tokens: int, pretended: FakeTensorMode) -> tuple[int, int]:
    """Bytes that one pass holds at once above the weights, and those that a cache of it keeps."""
    main = getattr(hf, "main_input_name", "input_ids")
    if main != "input_ids":
        raise ModelError(f"{type(hf).__name__} reads {main}, whose pass is not counted yet.")
    with torch.no_grad(), pretended:
        ids = torch.zeros((1, tokens), dtype=torch.long)
        held = _Held(hf)
        try:
            with held:
                hf(input_ids=ids, use_cache=False)
            kept = hf(input_ids=ids, use_cache=True)
        except RuntimeError as error:  # what torch raises where numbers decide the way, or a dtype
            raise ModelError(
                f"A pass of {type(hf).__name__} cannot be counted without numbers "
                f"({first_line(error)[:-1]}): give another dtype, or load it."
            ) from error
    return held.most, cached_bytes(cache_of(kept))


def product_speed(kind: torch.dtype, rows: int = PROBE_ROWS) -> float:
    """Operations a second of this machine's processor, in a product of so many rows.

    The matrix, 16 million numbers, fits into no cache: with one row it is reading that counts.
    """
    width = 4096
    x, weight = torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind)
    took = []
    for _ in range(TIMED):
        started = time.perf_counter()
        float((x @ weight.T)[0, 0])
        took.append(time.perf_counter() - started)
    return 2.0 * x.numel() * width / min(took)
