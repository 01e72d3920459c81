"""What turns a text, a picture or a sound into what a model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layerlens.errors import InputError

#: Files that say how pictures or sounds are prepared.
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def tokenizer_and_processor(given: Any) -> tuple[Any, Any]:
    """The tokenizer and the processor of pictures or sounds in what was given; None for none.

    Raises
    ------
    InputError
        If it is neither.

    Examples
    --------
    >>> tokenizer_and_processor(None)
    (None, None)
    """
    if given is None or hasattr(given, "convert_ids_to_tokens"):
        return given, None
    if hasattr(given, "tokenizer"):
        parts = (getattr(given, name, None) for name in ("image_processor", "feature_extractor"))
        return given.tokenizer, next((part for part in parts if part is not None), None)
    if callable(given) and hasattr(given, "model_input_names"):
        return None, given
    raise InputError(
        f"The tokenizer is an object of type {type(given).__name__}: give one of transformers "
        "(or a processor of pictures or sounds), or the id or folder of one."
    )


def processor_in(folder: Path) -> Any:
    """The processor of pictures or sounds that a folder holds; None for none.

    It may hold a tokenizer too.
    """
    from transformers import AutoFeatureExtractor, AutoImageProcessor

    if not any((folder / file).is_file() for file in PROCESSOR_FILES):
        return None
    kinds: tuple[Any, ...] = (AutoImageProcessor, AutoFeatureExtractor)
    for auto in kinds:
        try:
            return auto.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError):  # what they raise for one of the other kind
            continue
    return None
