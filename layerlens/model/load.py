"""``load()``: from whatever the user has to a model that can be looked into.

The model is found here, its weights are checked to be all there and finite, and the rest (its
anatomy and the proof) is :meth:`LensModel.wrap`'s. A weight that a checkpoint lacks is an error:
transformers would fill it with random numbers and only log it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.errors import InputError, ModelError
from layerlens.model import default
from layerlens.model.classes import class_of
from layerlens.model.gguf import first_line, load_gguf, quiet
from layerlens.model.readers import processor_in, tokenizer_and_processor
from layerlens.model.recipe import load_code
from layerlens.model.tested import warn_of_newer
from layerlens.model.weights import require_finite, require_weights

if TYPE_CHECKING:
    import torch

    from layerlens.model.lensmodel import LensModel

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def load(
    source: Any = None,
    tokenizer: Any = None,
    *,
    name: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
    prove: bool = True,
    remote: bool | str = False,
) -> LensModel:
    """Load a model, find its parts and prove that they are the right ones.

    Parameters
    ----------
    source
        Nothing for the default model; a hub id; a local folder; a ``.gguf`` file;
        ``"toy:induction"``, ``"toy:two_heads"``, ``"toy:modular"``, ``"toy:addition"`` or
        ``"toy:digits"``
        (``"toy:modular@300"``: after 300 steps of its training); or a Hugging Face model in
        memory, which is used as it is, wherever it is: never moved, never copied. It may be
        offloaded or sharded by accelerate, quantised, or have adapters in its layers (LoRA and
        its kin). Compiled code is not used: while layerlens runs it, the model is the plain
        modules that were compiled.
    tokenizer
        A tokenizer, or the id or folder of one; of a model of pictures or sounds its processor.
        By default the one that belongs to ``source``; with a model in memory None means that only
        token ids (or arrays of what it takes) can be given.
    name
        What the model is called in results; by default made from ``source``.
    dtype
        Type of the weights, ``torch.bfloat16`` or ``"bfloat16"``; by default the checkpoint's own
        (float32 for GGUF).
    device
        Where to put the model, ``"cuda"`` for example; ``"auto"`` spreads it over what there is
        (needs ``accelerate``). By default the CPU.
    trust_remote_code
        Run Python code that comes with the checkpoint. Off unless you say so.
    prove
        Check by numbers that the parts found are the right ones.
    remote
        Leave the model where it is, and ask it by requests (nnsight, NDIF): True for the server
        that nnsight is set to, or its address; ``"local"`` rehearses the requests in this process.
        ``ll.record``, ``ll.run``, ``ll.logit_lens`` and ``ll.patch_sweep`` can be asked of it, for
        what enters and leaves modules; all else is refused. Only texts, only a hub id or, with
        ``"local"``, a folder.

    Returns
    -------
    LensModel

    Raises
    ------
    ModelError
        The model is not there, or its weights are missing or damaged.
    ProofError
        The numbers contradict the anatomy that was found.
    InputError
        ``dtype`` or ``device`` is not one, or came with a model in memory.

    Examples
    --------
    >>> import layerlens as ll
    >>> model = ll.load("toy:induction")  # or "gpt2", a folder, a .gguf file, a model in memory
    >>> model.n_layers, model.n_heads, bool(model.proof)
    (2, 4, True)
    """
    from layerlens.model.lensmodel import LensModel

    warn_of_newer()
    given: dict[str, Any] = {"name": name, "dtype": dtype, "device": device}
    given |= {"trust_remote_code": trust_remote_code, "remote": remote}
    code = load_code(source, tokenizer, given, proven=prove)
    if remote:
        return _remote(source, tokenizer, given, code, prove)
    if source is None or isinstance(source, str | os.PathLike):
        kind = dtype_of(dtype)
        target = _device(device)
        hf, found, label = _read(source, tokenizer is None, kind, target, trust_remote_code)
        tokenizer, name = (found if tokenizer is None else tokenizer), name or label
        if target is not None and target != "auto":
            hf = hf.to(target)
    else:
        hf = _in_memory(source, dtype, device)
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = _named_tokenizer(tokenizer, trust_remote_code)
    words, processor = tokenizer_and_processor(tokenizer)
    require_finite(hf)
    model = LensModel.wrap(hf, words, processor=processor, name=name, prove=prove)
    model.load_code = code
    if source is None or isinstance(source, str | os.PathLike):
        model.recipe = {
            "source": _anywhere(source),
            "name": name,
            "dtype": kind,
            "device": device if target in (None, "auto") else model.device.type,
            "trust_remote_code": trust_remote_code,
        }
    return model


def _remote(
    source: Any, tokenizer: Any, given: dict[str, Any], code: str, prove: bool
) -> LensModel:
    """A model that runs elsewhere."""
    from layerlens.model.remote import load_remote

    if given["dtype"] is not None or given["device"] is not None:
        raise InputError(
            "A model that runs elsewhere has the dtype and the device that it has there: leave "
            "dtype and device out."
        )
    trust = given["trust_remote_code"]
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer = _named_tokenizer(tokenizer, trust)
    model = load_remote(
        source, tokenizer, given["remote"], name=given["name"], trust=trust, prove=prove
    )
    model.load_code = code
    return model


def read_model(source: str | os.PathLike[str] | None, trust: bool) -> Any:
    """The Hugging Face model of a source, in memory, its weights all there and finite."""
    hf, _, _ = _read(source, False, None, None, trust)
    require_finite(hf)
    return hf


def _anywhere(source: str | os.PathLike[str] | None) -> str | None:
    """The same source for a process in another folder."""
    if source is None:
        return None
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else os.fspath(source)


def _in_memory(hf: Any, dtype: Any, device: Any) -> Any:
    from torch import nn

    if not isinstance(hf, nn.Module):
        raise InputError(
            f"load() got a {type(hf).__name__}; give a hub id, a folder, a .gguf file or a "
            "Hugging Face model."
        )
    if dtype is not None or device is not None:
        raise InputError(
            "A model in memory is used as it is, so dtype and device cannot be given with one; "
            "change the model itself first, for example with model.to(...)."
        )
    return hf


def _read(
    source: str | os.PathLike[str] | None,
    with_tokenizer: bool,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    trust: bool,
) -> tuple[Any, Any, str]:
    """Model, tokenizer (None if not wanted or not there) and a name for it."""
    options: dict[str, Any] = {"dtype": dtype or "auto", "trust_remote_code": trust}
    if device == "auto":
        options["device_map"] = "auto"
    if source is None:
        return *_read_folder(default.find(), options, with_tokenizer), default.NAME
    text = os.fspath(source)
    if text.startswith("toy:"):
        from layerlens.model.toy_checkpoints import put_in, split_step
        from layerlens.model.toys import toy_folder

        toy, step = split_step(text)
        hf, tokenizer = _read_folder(toy_folder(toy), options, with_tokenizer)
        if step is not None:
            put_in(hf, toy, step)
        return hf, tokenizer, text
    path = Path(text).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if (path / "config.json").is_file() or len(files) != 1:
            return *_read_folder(path, options, with_tokenizer), path.resolve().name
        path = files[0]
    if path.is_file():
        return *_read_file(path, dtype), path.stem
    if isinstance(source, Path) or path.suffix == ".gguf" or not HUB_ID.fullmatch(text):
        raise ModelError(f"There is no folder or file {text}; check the path.")
    return *_read_hub(text, options, with_tokenizer), text


def _read_file(path: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    if path.suffix != ".gguf":
        raise ModelError(f"{path} is not a .gguf file; for other weights give their folder.")
    hf, tokenizer, info = load_gguf(path, dtype)
    require_weights(hf, info, str(path))
    return hf, tokenizer


def _read_folder(folder: Path, options: dict[str, Any], with_tokenizer: bool) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no model: it has no config.json.")
    hf = _pretrained(folder, {**options, "local_files_only": True}, str(folder))
    if not with_tokenizer:
        return hf, None
    if (processor := processor_in(folder)) is not None:
        return hf, processor
    return hf, tokenizer_at(str(folder), options["trust_remote_code"])


def _read_hub(hub_id: str, options: dict[str, Any], with_tokenizer: bool) -> tuple[Any, Any]:
    hf = _pretrained(hub_id, options, hub_id)
    return hf, tokenizer_at(hub_id, options["trust_remote_code"]) if with_tokenizer else None


def _pretrained(where: Path | str, options: dict[str, Any], label: str) -> Any:
    from transformers import AutoConfig

    reading = {
        name: options[name] for name in ("trust_remote_code", "local_files_only") if name in options
    }
    try:
        with quiet():
            cls = class_of(AutoConfig.from_pretrained(where, **reading))
            read: Any = cls.from_pretrained(where, output_loading_info=True, **options)
    except Exception as error:
        # transformers lets through whatever its parts raise: OSError, ValueError, RuntimeError,
        # the safetensors reader's own error, the hub client's. All mean: there is no model.
        raise explained(error, label) from error
    hf, info = read
    require_weights(hf, info, label)
    return hf


def explained(error: Exception, label: str) -> ModelError:
    """What transformers raised over a model, in one sentence that says what to do."""
    said = str(error)
    if "trust_remote_code" in said:
        return ModelError(
            f"{label} brings Python code of its own; look at that code, and pass "
            "trust_remote_code=True if you want it to be run."
        )
    if "Unrecognized configuration class" in said:
        return ModelError(
            f"{label} is of a kind that transformers does not load by itself: load it with its "
            "class, and give that."
        )
    names = {kind.__name__ for each in _causes(error) for kind in type(each).__mro__}
    if "GatedRepoError" in names or "gated repo" in said:
        return ModelError(
            f"{label} is on the hub, but only for those who accepted its terms; accept them "
            "there, log in with `hf auth login`, and load it again."
        )
    if "RepositoryNotFoundError" in names or "is not a valid model identifier" in said:
        return ModelError(
            f"The hub has no model {label!r}, or you are not logged in to see it; check the name."
        )
    if names & {"LocalEntryNotFoundError", "OfflineModeIsEnabled", "ConnectionError"}:
        return ModelError(
            f"{label!r} is neither a local folder nor in the hub's cache, and the hub could not be "
            "reached; check the connection, or give a folder, a .gguf file or nothing (the "
            "default model)."
        )
    return ModelError(f"{label} could not be loaded: {first_line(error)}")


def _causes(error: BaseException | None) -> Iterable[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _named_tokenizer(
    where: str | os.PathLike[str], trust: bool, *, local_files_only: bool = False
) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            where, trust_remote_code=trust, local_files_only=local_files_only
        )
    except Exception as error:  # like models, tokenizers fail with whatever their parser raises
        raise ModelError(
            f"The tokenizer of {os.fspath(where)} could not be loaded ({first_line(error)[:-1]}); "
            "give one as the second argument of load()."
        ) from error


def tokenizer_at(where: str, trust: bool) -> Any:
    """The tokenizer of a folder or a hub id; None, with a warning, where it has none."""
    from transformers import AutoTokenizer

    folder = Path(where).expanduser()
    if folder.is_dir():
        if any((folder / file).is_file() for file in TOKENIZER_FILES):
            return _named_tokenizer(folder, trust, local_files_only=True)
    else:
        with suppress(OSError, ValueError, KeyError):  # what it raises where there is none
            return AutoTokenizer.from_pretrained(where, trust_remote_code=trust)
    _note_no_tokenizer(where)
    return None


def _note_no_tokenizer(label: str) -> None:
    warnings.warn(
        f"{label} has no tokenizer, so only token ids can be given as text; "
        "give one as the second argument of load().",
        UserWarning,
        stacklevel=6,
    )


def dtype_of(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """The floating type that was asked for; None for the checkpoint's own."""
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype {dtype!r} is not a floating type; give 'float32' or 'bfloat16'.")
    return found


def _device(device: torch.device | str | None) -> torch.device | str | None:
    import torch

    if device is None or device == "auto":
        return device
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, TypeError) as error:
        # A build of torch without CUDA says so by an AssertionError.
        raise InputError(
            f"device {device!r} is not usable here ({first_line(error)[:-1]}); "
            "leave it out for the CPU."
        ) from error
    return target
