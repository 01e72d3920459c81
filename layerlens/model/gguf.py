"""Reading a GGUF file with transformers' own loader, and mending what that loader leaves out.

The weights come out right (de-quantised to the dtype asked for). Two things do not:

- the config still says that the model is quantised, which it no longer is;
- the tokenizer ignores ``tokenizer.ggml.pre``, so vocabularies that split numbers digit by digit
  (SmolLM, StarCoder, ...) get other token ids than the model was trained with.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerlens.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

# Values of tokenizer.ggml.pre whose pattern is: every digit alone, then GPT-2's own splitting
# (llama.cpp, src/llama-vocab.cpp, regex_exprs of these LLAMA_VOCAB_PRE_TYPEs).
DIGIT_BY_DIGIT = frozenset(
    {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}
)


def load_gguf(path: Path, dtype: torch.dtype | None = None) -> tuple[Any, Any, dict[str, Any]]:
    """Model, tokenizer and loading report of one GGUF file.

    Parameters
    ----------
    path
        The file.
    dtype
        What the weights are de-quantised to; float32 by default.

    Returns
    -------
    tuple
        The Hugging Face causal language model, its tokenizer, and transformers' loading report
        (``missing_keys`` and so on).

    Raises
    ------
    ModelError
        The file is not GGUF, its architecture is unknown to transformers, or ``gguf`` and
        ``accelerate`` are not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not _is_gguf(path):
        raise ModelError(f"{path} is not a GGUF file (it does not begin with the bytes 'GGUF').")
    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet():
            read: Any = AutoModelForCausalLM.from_pretrained(
                path.parent, dtype=dtype or torch.float32, output_loading_info=True, **where
            )
            model, info = read
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    except ImportError as error:
        raise ModelError(
            "Reading a GGUF file needs two more packages: pip install gguf accelerate."
        ) from error
    except Exception as error:
        # The loader raises whatever its parser stumbles over (struct, KeyError, IndexError, ...).
        raise ModelError(f"transformers could not read {path}: {first_line(error)}") from error
    if (quantizer := getattr(model, "hf_quantizer", None)) is not None:
        quantizer.remove_quantization_config(model)
    split_digits(tokenizer, pre_tokenizer_name(path))
    return model, tokenizer, info


def pre_tokenizer_name(path: Path) -> str | None:
    """Read the file's ``tokenizer.ggml.pre``; None if it has none."""
    from gguf import GGUFReader

    field = GGUFReader(path).fields.get("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def split_digits(tokenizer: Any, pre: str | None) -> None:
    """Make a fast tokenizer split numbers digit by digit where ``pre`` says that it must."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if pre not in DIGIT_BY_DIGIT or backend is None:
        return
    from tokenizers import pre_tokenizers

    present = backend.pre_tokenizer
    if "Digits" not in repr(present):
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, present])


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars out of the notebook while we load."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return an exception's first line of text, ended by a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".") + "."


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"
