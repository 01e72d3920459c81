"""Which causal language models of transformers layerlens can prove, family by family.

``python -m layerlens.model.support`` builds every family tiny, with random weights, each
in a process of its own, finds its anatomy and proves it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto

from layerlens.errors import ModelError
from layerlens.model.lensmodel import LensModel
from layerlens.model.tiny import tiny_model
from layerlens.model.tiny_families import VARIANTS

#: What may come out, from best to worst, with the heading it has in the table.
OUTCOMES = {
    "full": "proven in full",
    "partly": "proven without heads",
    "refused": "refused",
    "unbuilt": "could not be built",
}

_MASKED = "MODEL_FOR_MASKED_LM_MAPPING_NAMES"
KINDS = {
    "CausalLM": ("Causal language models", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "MaskedLM": ("Masked language models", _MASKED),
    "Seq2SeqLM": ("Encoders with a decoder", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "ImageClassification": ("Images", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
    "AudioClassification": ("Sounds", "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES"),
    "CTC": ("Speech to text by frames (CTC)", "MODEL_FOR_CTC_MAPPING_NAMES"),
    "SpeechSeq2Seq": ("Speech with a decoder", "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"),
}
"""Task -> title of its table, and transformers' table of its classes."""

SECONDS = 60.0
BYTES = 4 << 30
PAGE = Path(__file__).resolve().parents[2] / "docs" / "families.md"


Wanted = tuple[str, str, str, dict[str, Any]]
"""Label, model type, task, and configuration attributes of a variant."""


@dataclass(frozen=True)
class Support:
    """What came out for one family.

    Attributes
    ----------
    model_type
        ``model_type`` of its configuration, with ``(variant)`` after it for a variant.
    outcome
        A key of :data:`OUTCOMES`.
    task
        A key of :data:`KINDS`.
    reason
        Why it is not proven in full, in one sentence; empty where it is.
    cls
        The class of transformers.
    layout, attention, heads
        As in :class:`layerlens.model.anatomy.BlockAnatomy`, over all blocks.
    """

    model_type: str
    outcome: str
    reason: str = ""
    task: str = "CausalLM"
    cls: str = ""
    layout: str = ""
    attention: str = ""
    heads: str = ""

    def row(self) -> str:
        """As a row of a Markdown table."""
        result = OUTCOMES[self.outcome] + (f": {self.reason}" if self.reason else "")
        cells = (self.model_type, self.cls, self.layout, self.attention, self.heads, result)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def classes(task: str) -> dict[str, Any]:
    """The classes of transformers for a task, by the model type of their configuration."""
    return dict(getattr(modeling_auto, KINDS[task][1]))


def examine(model_type: str, task: str = "CausalLM", **overrides: Any) -> Support:
    """Build a family tiny, find its anatomy and prove it.

    Parameters
    ----------
    model_type
        ``model_type`` of a configuration of transformers.
    task
        A key of :data:`KINDS`.
    **overrides
        Configuration attributes of a variant.
    """
    from layerlens.run.proof import prove_anatomy

    try:
        hf = tiny_model(model_type, task=task, **overrides)
        if task == "CausalLM":
            with torch.inference_mode():
                hf(input_ids=torch.arange(3, 10)[None], use_cache=False)
    except Exception as error:  # whatever a class of transformers raises
        return Support(model_type, "unbuilt", _sentence(error), task, _named(task, model_type))
    cls = type(hf).__name__
    try:
        model = LensModel.wrap(hf, name=model_type, prove=False)
        proof = prove_anatomy(model)
    except ModelError as error:
        return Support(model_type, "refused", _sentence(error), task, cls)
    if not proof.ok:
        line = next(line for line in proof.lines if not line.ok)
        reason = f"it does not hold that {line.what} (off by {line.error:.2g})"
        return Support(model_type, "refused", reason, task, cls)
    blocks = model.anatomy.blocks
    layouts = dict.fromkeys(block.layout for block in blocks)
    routes = dict.fromkeys(block.attention or "none" for block in blocks if block.mixer)
    return Support(
        model_type,
        "full" if proof.full else "partly",
        "; ".join(proof.notes),
        task,
        cls,
        ", ".join(layouts),
        ", ".join(routes),
        f"{model.n_heads} / {model.n_kv_heads}",
    )


def _named(task: str, model_type: str) -> str:
    """Name of the class for a model type; of several, the first."""
    cls = classes(task)[model_type]
    return cls if isinstance(cls, str) else str(cls[0])


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:237] + "..."


def _child(pipe: Any, model_type: str, task: str, overrides: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    pipe.send(examine(model_type, task, **overrides))


def survey(wanted: Iterable[Wanted], processes: int = 2) -> Iterator[Support]:
    """Examine families, each in a process with a limit on its time and memory.

    Parameters
    ----------
    wanted
        ``(label, model_type, task, overrides)``.
    processes
        How many run at a time.
    """
    methods = multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    waiting = list(wanted)[::-1]
    running: dict[Any, tuple[Any, str, str, str, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            label, model_type, task, overrides = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(theirs, model_type, task, overrides))
            process.start()
            theirs.close()
            running[ours] = (process, label, model_type, task, time.monotonic() + SECONDS)
        ready = multiprocessing.connection.wait(list(running), timeout=1.0)
        late = [pipe for pipe, entry in running.items() if time.monotonic() > entry[-1]]
        for pipe in dict.fromkeys([*ready, *late]):
            process, label, model_type, task, _ = running.pop(pipe)
            yield _collect(pipe, process, label, model_type, task)


def _collect(pipe: Any, process: Any, label: str, model_type: str, task: str) -> Support:
    try:
        found = pipe.recv() if pipe.poll() else None
        reason = "" if found else f"it took longer than {SECONDS:.0f} s"
    except EOFError:
        found, reason = None, "its process ended without an answer"
    process.kill()
    process.join()
    pipe.close()
    if found is None:
        return Support(label, "unbuilt", reason, task, _named(task, model_type))
    return Support(**{**found.__dict__, "model_type": label})


def all_families() -> list[Wanted]:
    """Every model type of every kind, and the variants of decoders."""
    families: list[Wanted] = [(n, n, task, {}) for task in KINDS for n in classes(task)]
    variants: list[Wanted] = [
        (f"{name} ({label})", name, "CausalLM", overrides)
        for name, several in VARIANTS.items()
        for label, overrides in several.items()
    ]
    return sorted(families + variants, key=lambda wanted: wanted[:3])


def summary(found: Iterable[Support]) -> str:
    """Say how many came out how, in one line."""
    counts = Counter(support.outcome for support in found)
    return ", ".join(f"{counts[key]} {text}" for key, text in OUTCOMES.items())


def page(found: list[Support]) -> str:
    """Write the tables of families as a Markdown page."""
    variants = [support for support in found if "(" in support.model_type]
    head = "| model type | class | layout | attention | heads / key-value heads | result |"
    line = "| --- | --- | --- | --- | --- | --- |"
    tables = []
    for task, (title, _) in KINDS.items():
        types = [one for one in found if one.task == task and one not in variants]
        counts = f"Of {len(types)} model types: {summary(types)}."
        tables += [f"## {title}", "", counts, "", head, line, *(one.row() for one in types), ""]
    return "\n".join(
        [
            "# Model families",
            "",
            f"Every model type of transformers {transformers.__version__} for these tasks, built "
            "tiny with random weights; its anatomy was found by watching a pass and compared with "
            "the model's own numbers. A family that is not proven is refused, never guessed. Of an "
            "encoder with a decoder the row is about the decoder; the encoder is proven when "
            "`model.encoder` is asked for.",
            "",
            "*interface*: the attention is watched where transformers' attention interface calls "
            "it; *spy*: in the family's own code while it runs; *none*: no softmax attention that "
            "could be watched. A real checkpoint is proven again each time it is loaded.",
            "",
            "This page is written by `python -m layerlens.model.support --write`.",
            "",
            *tables,
            "## Variants of causal language models",
            "",
            "Configurations of the same families that build their blocks differently.",
            "",
            *[head, line, *(support.row() for support in variants)],
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m layerlens.model.support", description=__doc__)
    parser.add_argument("--only", default="", help="model types or tasks, separated by commas")
    parser.add_argument("--write", action="store_true", help="write docs/families.md")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args(arguments)
    only = set(options.only.split(",")) - {""}
    wanted = [entry for entry in all_families() if not only or {entry[1], entry[2]} & only]
    found = []
    for support in survey(wanted, options.processes):
        found.append(support)
        print(support.row(), flush=True)
    print(summary(found))
    if options.write and not only:
        found.sort(key=lambda support: support.model_type)
        PAGE.write_text(page(found), encoding="utf-8")
        print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
