"""A Hugging Face model with its anatomy: what every other part of layerlens works on."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from layerlens.errors import ModelError
from layerlens.model.accept import accepted, during
from layerlens.model.anatomy import Anatomy
from layerlens.model.blocks import find_layers
from layerlens.model.feed import Feed, feed_of, numbered, positions
from layerlens.model.find import find_anatomy
from layerlens.model.offloaded import brought_for_gradients, present
from layerlens.model.prepare import fed, grid_of, written
from layerlens.model.settled import settled
from layerlens.model.text import Tokens
from layerlens.model.unrolled import unrolled
from layerlens.model.weights import input_device
from layerlens.model.with_head import WithHead
from layerlens.model.with_text import WithText

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layerlens.model.evidence import Proof
    from layerlens.model.sites import NamesFilter
    from layerlens.run.edits import Edit
    from layerlens.run.generation import Generation
    from layerlens.run.record import Trace


class LensModel(WithHead, WithText):
    """A model that can be looked into.

    Made by :func:`layerlens.load`. The Hugging Face model is used as it is: never copied,
    moved, folded or re-implemented.

    Attributes
    ----------
    hf, tokenizer
        The Hugging Face objects themselves; the tokenizer may be None. Of a model that peft or
        ``torch.compile`` wrapped it is the model inside, with the same modules. Of one that runs
        a block several times over it is another model with the same parameters, in which each
        layer is a module.
    processor
        What prepares pictures or sounds for the model; None where it reads text, or where these
        are given as it takes them.
    feed
        How the model is fed.
    name
        What the model is called in results.
    anatomy
        Where its parts are.
    proof
        The numbers that show the anatomy to be right; None if the proof was not asked for.
    bidirectional
        Whether early positions see later tokens, as in BERT; found by a small pass.
    lock
        Held while the model runs.
    passes
        How many blocks of :meth:`running`, one inside the other, are under way.
    edited_now
        Whether a block of :meth:`edited`, or :meth:`generate`, is under way.
    twin
        The small model that stands in where one is not in memory; None for one that is.
    remote
        Where it runs, if it is not in this process; see `layerlens.model.remote`.
    recipe
        Arguments of ``ll.load`` that load it again in another process; None where it was given
        in memory.
    """

    def __init__(
        self,
        hf: PreTrainedModel,
        tokenizer: Any,
        anatomy: Anatomy,
        name: str,
        feed: Feed,
        processor: Any = None,
    ) -> None:
        self.hf = hf
        self.tokenizer = tokenizer
        self.feed = feed
        self.processor = processor
        self.anatomy = anatomy
        self.name = name
        self.proof: Proof | None = None
        self.lock = threading.RLock()
        self.bidirectional = False
        self.passes = 0
        self._recorded = 0
        self.edited_now = False
        self.twin: LensModel | None = None
        self.remote: bool | str | None = None
        self.recipe: dict[str, Any] | None = None
        self.load_code = ""  # the call of ll.load; empty for a model in memory

    @classmethod
    def wrap(
        cls,
        hf: PreTrainedModel,
        tokenizer: Any = None,
        *,
        processor: Any = None,
        name: str | None = None,
        prove: bool = True,
    ) -> LensModel:
        """Find the anatomy of a model in memory and prove it.

        Raises
        ------
        ModelError
            If no anatomy is found.
        ProofError
            If the numbers contradict it.
        """
        from layerlens.run.heads import find_attention
        from layerlens.run.proof import prove_anatomy
        from layerlens.run.reads_ahead import reads_ahead

        with during("it was made ready", hf):
            hf = accepted(hf)
        name = name or getattr(hf.config, "name_or_path", "") or type(hf).__name__
        with during("its parts were looked for", hf), settled(hf), torch.inference_mode():
            feed = feed_of(hf)
            try:
                found = find_anatomy(hf, feed)
            except ModelError:  # no module belongs to one layer where a block runs several times
                if (apart := unrolled(hf, feed)) is None:
                    raise
                hf, found = apart, find_anatomy(apart, feed)
            anatomy = find_attention(hf, found, feed)
        model = cls(hf, tokenizer, anatomy, name, feed, processor)
        model.bidirectional = reads_ahead(model)
        if prove:
            with during("its parts were checked by numbers", hf):
                model.proof = prove_anatomy(model)
            model.proof.require()
        return model

    def refuse(self) -> NoReturn:
        """Raise a ``ModelError``: a model that is not in memory was asked for its numbers."""
        raise ModelError(f"{self.name} cannot be asked this.")

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.anatomy.n_layers

    @property
    def n_heads(self) -> int:
        """Query heads in a block (the largest number, where blocks differ)."""
        return max(block.n_heads for block in self.anatomy.blocks)

    @property
    def n_kv_heads(self) -> int:
        """Key-value heads in a block (the largest number, where blocks differ)."""
        return max(block.n_kv_heads for block in self.anatomy.blocks)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.anatomy.d_model

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the parameters."""
        return self.hf.dtype

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return input_device(self.hf)

    def facts(self) -> dict[str, Any]:
        """What a result says of the model that was asked: attributes by name."""
        return {
            "model": self.name,
            "load": self.load_code,
            "model_type": self.anatomy.family,
            "dtype": str(self.dtype).removeprefix("torch."),
            "n_layers": self.n_layers,
            "d_vocab": self.d_vocab,
            **({} if self.d_vocab_in == self.d_vocab else {"d_vocab_in": self.d_vocab_in}),
        }

    @cached_property
    def encoder(self) -> LensModel:
        """The encoder of an encoder with a decoder, as a model of its own.

        Raises
        ------
        ModelError
            If this model has no two sides.
        """
        if not self.feed.of_pairs:
            raise ModelError(f"{self.name} has one side only: it is looked at as it is.")
        return LensModel.wrap(
            self.hf.get_encoder(), self.tokenizer, processor=self.processor,
            name=f"{self.name} encoder", prove=self.proof is not None,
        )  # fmt: skip

    def tokens(
        self, text: Any, *, add_bos: bool | None = None, padding_side: str = "right"
    ) -> Tokens:
        """What is fed for a text; see :func:`layerlens.model.text.encode`.

        Where the model reads pictures, sounds or pairs it is what ``ll.images``, ``ll.audio`` or
        ``ll.sides`` stand for, which have no beginning to add nor a side to pad.
        """
        if not self.feed.ids:
            return fed(self, text)
        if self.feed.of_pairs:
            return written(self, text)
        return super().tokens(text, add_bos=add_bos, padding_side=padding_side)

    def probe(self, length: int = 7, seed: int = 1) -> Tokens:
        """A small input that means nothing, always the same for a seed.

        Parameters
        ----------
        length
            How many tokens; pictures and sounds have the size that the model takes.
        """
        given = self.feed.example(self.hf, length, seed)
        if self.feed.ids:
            ids = given.pop(self.feed.ids)
        else:
            with self.running():
                arguments = self.feed.call(self.hf, given)
                count = positions(self.hf, self.anatomy.blocks[0].path, arguments)
            ids = numbered(1, count)
        real = torch.ones_like(ids, dtype=torch.bool)
        grid = None if self.feed.ids else grid_of(self, given[self.feed.main], ids.shape[1])
        return Tokens(
            ids, real, (None,), ((),), ((),), True,
            given=given, grid=grid, numbered=not self.feed.ids,
        )  # fmt: skip

    def layers(self, which: Any = None) -> list[int]:
        """Numbers of the blocks that are meant, in order, each once.

        Parameters
        ----------
        which
            A number, several or a slice, negative from the end; None for all.

        Raises
        ------
        InputError
            When one does not exist or is no number, or none is named.
        """
        return find_layers(self.n_layers, which)

    @contextmanager
    def running(self, *, gradients: bool = False) -> Iterator[None]:
        """Hold the lock, be in ``eval`` mode and run uncompiled (restored after).

        Parameters
        ----------
        gradients
            Record what is computed for autograd; else nothing is.
        """
        quiet = torch.inference_mode(not gradients)
        with ExitStack() as stack:
            stack.enter_context(self.evaluating())
            stack.enter_context(quiet)
            stack.enter_context(torch.set_grad_enabled(gradients))
            if gradients and not self._recorded:  # to look at all modules takes its time
                stack.enter_context(brought_for_gradients(self.hf))
            self.passes += 1
            self._recorded += gradients
            try:
                yield
            finally:
                self.passes -= 1
                self._recorded -= gradients

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """As :meth:`running`, for calls that are not passes of our own."""
        # Who is inside a pass holds the lock and has settled it: to look at all modules again for
        # each of many small calls costs more than the calls.
        with self.lock, nullcontext() if self.passes else settled(self.hf):
            yield

    @contextmanager
    def present(self, layers: Iterable[int]) -> Iterator[None]:
        """Have the weights of some blocks in memory throughout, where they are offloaded."""
        with ExitStack() as stack:
            for layer in layers:
                block = self.hf.get_submodule(self.anatomy.blocks[layer].path)
                stack.enter_context(present(block))
            yield

    @contextmanager
    def edited(
        self, edits: Edit | Iterable[Edit], text: Any = None, *, add_bos: bool | None = None
    ) -> Iterator[None]:
        """Apply edits to every call of ``hf`` that this thread makes in a ``with`` block.

        The model is in ``eval`` mode in the block, and its lock is held: other threads wait.
        Gradients are recorded as the caller wishes, also for a tensor in an edit that requires
        them. Functions of layerlens called in the block run unedited: they take ``edits=``.

        Parameters
        ----------
        edits
            From :func:`layerlens.edit`. Positions count in the prompt, steps after it.
        text
            The prompt that all calls begin with. None: each call without a filled cache is a
            prompt of its own, so that what follows it in the cache was generated. Give it for
            calls without a cache that hold generated tokens too.
        add_bos
            How the prompt is read, as in :meth:`tokens`.

        Raises
        ------
        SiteError
            If a site does not exist or cannot be changed, or if an edit was never applied.
        InputError
            If an edit does not fit a call, or the model is being edited already.

        Examples
        --------
        >>> model = ll.load("toy:induction")
        >>> with model.edited(ll.edit("z.1.3", "zero")):
        ...     output = model.hf(**model.tokenizer("cat dog", return_tensors="pt"))
        """
        from layerlens.run.editing import editing

        prompt = None if text is None else self.tokens(text, add_bos=add_bos)
        with editing(self, edits, prompt) as session:
            yield
        session.require_applied()

    def generate(
        self,
        text: Any,
        max_new_tokens: int = 20,
        edits: Edit | Iterable[Edit] = (),
        **generate_kwargs: Any,
    ) -> Generation:
        """Generate, with edits at the prompt, at chosen generated tokens, or always.

        Parameters
        ----------
        text
            A text in any form that :meth:`tokens` takes, or several.
        max_new_tokens
            How many tokens to write at most.
        edits
            From :func:`layerlens.edit`: ``position`` names positions of the prompt, ``steps``
            generated tokens (0 is the first one, when it is fed back), ``always`` all of them.
        **generate_kwargs
            For ``hf.generate``; greedy unless ``do_sample=True``. ``add_bos`` as in
            :meth:`tokens`.

        Returns
        -------
        Generation
            ``.text``, ``.new_text``, ``.ids``, ``.new_ids``; ``.applied`` says at which columns
            each edit was applied (a text may end before a step is reached).

        Raises
        ------
        ModelError
            If the model has no head.
        SiteError
            If a site does not exist, cannot be changed or did not fire.
        InputError
            If the text, an edit or a length does not fit.

        Examples
        --------
        >>> model = ll.load("toy:induction")
        >>> half = ll.edit("mlp_out.1", "scale", 0.5, always=True)
        >>> model.generate("cat dog owl cat", 3, half)
        Generation('<bos>catdogowlcat' -> 'dogowlcat')
        """
        from layerlens.run.generation import generate

        return generate(self, text, max_new_tokens, edits, **generate_kwargs)

    def run_with_cache(
        self, text: Any, names_filter: NamesFilter = None, *, add_bos: bool | None = None
    ) -> tuple[Tensor | None, Trace]:
        """Logits and recorded activations of one pass, with TransformerLens names.

        Parameters
        ----------
        text
            A text in any form that :meth:`tokens` takes.
        names_filter
            None (everything but ``result``), a name, a list of names, or a function from
            a name to a bool.
        add_bos
            As in :meth:`tokens`.

        Returns
        -------
        logits
            ``[batch, position, vocabulary]``.
        cache
            ``cache["blocks.5.hook_resid_post"]`` or ``cache["resid_post", 5]``.
        """
        from layerlens.model.sites import select
        from layerlens.run.record import record

        sites = select(self.anatomy.available(), names_filter)
        trace = record(self, text, sites, add_bos=add_bos)
        return trace.logits, trace

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.hf.parameters())
        trained, fed = self.trained_range, self.d_vocab_in
        return (
            f"LensModel({self.name!r}: {self.anatomy.family}, {self.n_layers} blocks, "
            f"{self.n_heads} heads, d = {self.d_model}, vocabulary {self.d_vocab}"
            f"{'' if fed == self.d_vocab else f' ({fed} can be fed)'}, "
            f"{_count(size)} parameters, {str(self.dtype).removeprefix('torch.')}"
            f"{'' if trained is None else f'; trained on {trained}'})"
        )


def _count(number: int) -> str:
    """``134.5 M``, ``42.1 k`` or ``512``."""
    for size, unit in ((10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
