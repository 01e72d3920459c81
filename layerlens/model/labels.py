"""What a classifier answers: classes by their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerlens.model.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Labels(Vocabulary):
    """Labels of classes in the place of a tokenizer's entries."""

    def __init__(self, labels: list[str]) -> None:
        super().__init__(None, len(labels))
        self.labels = labels

    def token_bytes(self, index: int) -> bytes:
        """UTF-8 bytes of a label."""
        return (self.labels[index] if self.has(index) else f"[{index}]").encode()

    def has(self, index: int) -> bool:
        """Whether there is such a class."""
        return 0 <= index < self.size

    def _is_byte(self, index: int) -> bool:
        return False


def labels_of(hf: PreTrainedModel, size: int) -> list[str] | None:
    """The labels of a model's head; None where it answers tokens.

    A configuration lists labels in any model; they are the head's where there are as many as it
    gives numbers, and it is no output embedding.
    """
    labels = getattr(hf.config, "id2label", None) or {}
    if len(labels) != size or hf.get_output_embeddings() is not None:
        return None
    return [str(labels[index]) for index in sorted(labels)]
