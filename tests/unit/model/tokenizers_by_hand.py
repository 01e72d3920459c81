"""Small real tokenizers of each kind, made with the `tokenizers` library."""

from __future__ import annotations

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import PreTrainedTokenizerFast

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def llama2() -> PreTrainedTokenizerFast:
    """BPE on pieces with ``▁`` for spaces, a space put in front of every text, byte fallback."""
    pieces = ["<unk>", "<s>", *BYTES, "▁", *"ABCDanswer:isPh", "▁A", "▁is", "is", "▁answer", "Pi"]
    merges = [("▁", "A"), ("i", "s"), ("▁", "is"), ("a", "n"), ("an", "s"), ("w", "e")]
    merges += [("ans", "we"), ("answe", "r"), ("▁", "answer"), ("P", "i")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")


def metaspace() -> PreTrainedTokenizerFast:
    """Unigram pieces, a space put in front of every word, as in T5 and XLM-R."""
    scores = [("<unk>", 0.0), ("▁", -3.0), ("▁Paris", -1.0), ("▁is", -1.0), ("is", -2.0)]
    scores += [("A", -2.0), ("▁A", -1.5), *((letter, -6.0) for letter in "Parto")]
    backend = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    """BPE on bytes, as in GPT-2; nothing is put in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, "ĠA", "is"])}
    backend = Tokenizer(models.BPE(vocabulary, [("Ġ", "A"), ("i", "s")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def word_level() -> PreTrainedTokenizerFast:
    """One token a word; what is not a known word is ``<unk>``."""
    words = ["<unk>", "the", "capital", "is", "rome"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: ``##`` in front of what continues a word, and a mask token."""
    pieces = ["[UNK]", "[MASK]", "the", "capital", "is", "paris", "##paris", "par", "##is", "rome"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken("[MASK]", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]")
