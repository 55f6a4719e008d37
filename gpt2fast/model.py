"""`load` and `Model`: a GPT-2 that is ready to write."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Unpack, overload

import numpy as np
from numpy.typing import NDArray

from gpt2fast import scoring
from gpt2fast._generate import CancelFlag
from gpt2fast.asynchronous import AsyncModel
from gpt2fast.completion import Completion
from gpt2fast.engine import check_ids
from gpt2fast.generation import SharedPrompt, Writing, complete, search
from gpt2fast.generation.alternatives import Alternative, alternatives
from gpt2fast.generation.beams import BeamSearch
from gpt2fast.generation.contrastive import ContrastiveSearch
from gpt2fast.generation.plan import Plan
from gpt2fast.hub import Access
from gpt2fast.loaded import Loaded
from gpt2fast.loading import load_packed
from gpt2fast.memory import Limit, check_cache_dtype, parse_size
from gpt2fast.ranges import integer
from gpt2fast.sampling import GenerateOptions, Options
from gpt2fast.scoring.score import Score
from gpt2fast.session import Session
from gpt2fast.stream import Stream
from gpt2fast.threads import MAX_THREADS, thread_count

Prompt = str | Sequence[int] | NDArray[np.integer]


def load(
    source: str | os.PathLike[str] = "tales",
    *,
    dtype: str | None = None,
    threads: int | None = None,
    prompt_threads: int | None = None,
    cache_dtype: str | None = None,
    prefix_cache: int | str | None = None,
    max_memory: int | str | None = None,
    mmap: bool = True,
    verify: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Model:
    """Load a model: the bundled "tales", a packed file, a checkpoint, or a model of the Hub.

    What exists here under that name comes first. Otherwise "gpt2", "gpt2-medium", "gpt2-large",
    "gpt2-xl", "distilgpt2" and ORGANISATION/NAME are models of the Hugging Face Hub (or the mirror
    that HF_ENDPOINT names): `revision` is a branch, tag or commit (None is "main"), `token` an
    access token (None: HF_TOKEN, or that of `hf auth login`; False: none), and `local_files_only`
    forbids the network. Only the files that are needed are downloaded, into huggingface_hub's
    cache.

    A checkpoint is packed as `dtype` ("float32", "float16" or "int8"; None is "int8"), in memory
    or, from 64 MB on, once into a file in `cache_dir` (None: GPT2FAST_CACHE, or the user's cache).
    `progress(done, total)` is told the bytes, first of a download, then of the packing. A packed
    file has its own dtype. `threads` None is GPT2FAST_THREADS, or all CPUs that affinity and
    container allow; `prompt_threads` None is the same. `cache_dtype` is "float16" or "float32";
    None is what goes with the dtype. `mmap` false reads the file into memory: a file truncated
    while it is mapped kills the process. `verify` reads all of it first and checks its content.

    `prefix_cache`, in bytes or text such as "500MB", is how much of the texts that ended is kept: a
    prompt that begins like one of them is processed from where it differs, to the same bits. None
    is as much as one whole context takes; 0 keeps nothing. A text that is written makes room for
    itself, so None takes no more memory than a text of the whole context does alone. What is kept
    are users' texts, until `close`; that one was kept can be told from the time a prompt takes.

    `max_memory` is in bytes, or text such as "2GB": a model whose weights, keys and values of one
    whole context, and work buffers take more is refused with MemoryError before any of them is
    read, packed or allocated (see `estimate`; the packing itself is not counted).

    Raises CheckpointError for bad files and for what is neither here nor on the Hub, ValueError for
    bad options, OSError if the network, the disk or the cache fails.

    >>> import gpt2fast
    >>> model = gpt2fast.load("tales")
    >>> print(model.generate("Once upon a time", max_new_tokens=4, temperature=0).finish_reason)
    length
    """
    n_threads = thread_count(threads)
    n_prompt_threads = n_threads
    if prompt_threads is not None:
        n_prompt_threads = integer("prompt_threads", prompt_threads, 1, MAX_THREADS)
    check_cache_dtype(cache_dtype)
    kept = None if prefix_cache is None else parse_size("prefix_cache", prefix_cache, least=0)
    limit = None
    if max_memory is not None:
        n_bytes = parse_size("max_memory", max_memory)
        limit = Limit(n_bytes, cache_dtype, max(n_threads, n_prompt_threads), kept or 0)
    packed = load_packed(
        source,
        dtype=dtype,
        mmap=mmap,
        verify=verify,
        cache_dir=cache_dir,
        progress=progress,
        access=Access(revision, token, local_files_only),
        limit=limit,
    )
    return Model(
        packed,
        threads=n_threads,
        prompt_threads=n_prompt_threads,
        cache_dtype=cache_dtype,
        prefix_cache=kept,
    )


class Model(Loaded, AsyncModel):
    """A GPT-2 ready to write; `load` makes one. Any number of threads may use it."""

    @overload
    def generate(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer],
        *,
        n: None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: str | Sequence[int] | NDArray[np.integer],
        *,
        n: int,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        n: None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self,
        prompt: list[str] | list[list[int]],
        *,
        n: int,
        **options: Unpack[GenerateOptions],
    ) -> list[list[Completion]]: ...
    def generate(
        self,
        prompt: Prompt | list[str] | list[list[int]],
        *,
        n: int | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Completion | list[Completion] | list[list[Completion]]:
        """Continue a prompt, text or token ids, or each of a list of prompts.

        "" starts from <|endoftext|>. Prompts of a list are written together, and each completion
        equals that of the prompt alone. With `n`, a list of that many completions takes the place
        of each. Options, their defaults and ranges: see `Options`. Raises ValueError for a bad
        prompt or option, before any work.
        """
        chosen = Options(n=n, **options)
        prompts = _list_of_prompts(prompt)
        if prompts is None:
            samples = self._complete([prompt], chosen)[0]  # type: ignore[list-item]
            return samples[0] if n is None else samples
        texts = self._complete(prompts, chosen)
        return [samples[0] for samples in texts] if n is None else texts

    def _complete(self, prompts: Sequence[Prompt], options: Options) -> list[list[Completion]]:
        """Return the samples of each prompt."""
        plan, n = Plan(self._engine, options), options.n or 1
        texts = [self._engine.prompt(prompt) for prompt in prompts]
        if options.is_search:
            kind = BeamSearch if options.num_beams > 1 else ContrastiveSearch
            return search.complete(plan, [kind(plan, ids) for ids in texts])
        writings = []
        for ids in texts:
            shared = SharedPrompt(n) if n > 1 else None
            writings += [Writing(plan, ids, sample=i, shared=shared) for i in range(n)]
        done = complete(plan, writings)
        return [done[i : i + n] for i in range(0, len(done), n)]

    def stream(self, prompt: Prompt, **options: Unpack[GenerateOptions]) -> Stream:
        """Continue a prompt and iterate over its chunks as they are written.

        Options as in `generate`. The prompt is processed at the first `next`.
        """
        chosen = Options(**options)
        chosen.check_single("a stream is one text")
        return Stream(Writing(Plan(self._engine, chosen), self._engine.prompt(prompt)))

    def alternatives(
        self, prompt: Prompt, k: int, **options: Unpack[GenerateOptions]
    ) -> list[Alternative]:
        """Continue a prompt in k ways that begin with different tokens, to choose from.

        The first is the text of `generate`; the options are the same, without `forced_tokens`. See
        `alternatives` for the order of the others, and `Alternative` for their probabilities.
        Raises ValueError unless k is from 1 to 1024 and no more than there are tokens.
        """
        return alternatives(self._engine, self._engine.prompt(prompt), k, Options(**options))

    def session(self, *, overflow: str = "error", stride: int | None = None) -> Session:
        """Return an empty session: a text that grows without being read again.

        `overflow` and `stride`, as in `generate`, say whether it may outgrow the context.
        """
        return Session(self._engine, overflow, stride)

    def restore(self, path: str | os.PathLike[str]) -> Session:
        """Return a session that was saved, to go on as if it never had been.

        Raises CheckpointError for the session of another model (see `fingerprint`) or of another
        `cache_dtype`, and for a file that is damaged.
        """
        return Session.restored(self._engine, path)

    def logits(
        self, tokens: Sequence[int] | NDArray[np.integer], *, last_only: bool = False
    ) -> NDArray[np.float32]:
        """Return what the model predicts after each token, or only after the last one.

        Shape (n_tokens, n_vocab), or (n_vocab,). Raises ValueError for no token, an id out of range
        or more tokens than the context has.
        """
        ids = self._ids(tokens)
        engine = self._engine
        rows = engine.core.forward(
            [engine.new_cache(len(ids))],
            [np.array(ids, np.int32)],
            [1 if last_only else len(ids)],
            threads=engine.threads,
            prompt_threads=engine.prompt_threads,
            chunk=engine.chunk,
        )
        return rows[0][0] if last_only else rows[0]

    def hidden_states(self, tokens: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Return the embeddings and what each layer makes of them.

        Shape (n_layer + 1, n_tokens, n_embd). The last is after the final LayerNorm. Raises
        ValueError as `logits` does.
        """
        ids = np.array(self._ids(tokens), np.int32)
        engine = self._engine
        return engine.core.hidden_states(ids, engine.prompt_threads, engine.cache_dtype)

    @overload
    def score(
        self,
        text: str | Sequence[int] | NDArray[np.integer],
        *,
        context: str | Sequence[int] | NDArray[np.integer] = "",
        bos: bool = False,
        cancel: CancelFlag | None = None,
    ) -> Score: ...
    @overload
    def score(
        self,
        text: list[str] | list[list[int]],
        *,
        context: Prompt | list[str] | list[list[int]] = "",
        bos: bool = False,
        cancel: CancelFlag | None = None,
    ) -> list[Score]: ...
    def score(
        self,
        text: Prompt | list[str] | list[list[int]],
        *,
        context: Prompt | list[str] | list[list[int]] = "",
        bos: bool = False,
        cancel: CancelFlag | None = None,
    ) -> Score | list[Score]:
        """Return how likely each token of a text is, or of each of a list of texts.

        Text or token ids. `context` stands before it and is not scored: one for all texts, or a
        list with one for each; "" is none. Both are encoded for themselves, so the space between
        two words belongs to the text. `bos` puts <|endoftext|> before everything; without it and
        without context, the first token has no score. Texts of a list are processed together, what
        their contexts begin with alike once, and each has the score of the text alone.

        Raises ValueError for a text without tokens, and for one that has, with its context, more
        than n_ctx + 1: `perplexity` takes those. `cancel` is a flag by which any thread can end
        the call, which then raises concurrent.futures.CancelledError.

        >>> import gpt2fast
        >>> score = gpt2fast.load().score(" time", context="Once upon a")
        >>> score.pieces, score.ranks.tolist()
        ([' time'], [0])
        """
        texts = _list_of_prompts(text)
        several = [text] if texts is None else texts
        contexts = _list_of_prompts(context) or [context] * len(several)  # type: ignore[list-item]
        if len(contexts) != len(several):
            raise ValueError(
                f"context is a list of {len(contexts)}; allowed: one, or a list of {len(several)}"
            )
        scores = scoring.score(self._engine, several, contexts, bos, cancel)  # type: ignore[arg-type]
        return scores[0] if texts is None else scores

    def perplexity(
        self,
        text: str | Sequence[int] | NDArray[np.integer],
        *,
        stride: int | None = None,
        progress: Callable[[int, int], object] | None = None,
        cancel: CancelFlag | None = None,
    ) -> float:
        """Return the perplexity of a text of any length, text or token ids.

        The text is read in windows of n_ctx tokens, `stride` apart (2 to n_ctx; None is 512, or
        n_ctx if that is less): each token but those of the first window has n_ctx - stride tokens
        before it at least. exp of the mean of -logprob, just as Hugging Face's page "Perplexity of
        fixed-length models" computes it in 2025: a window's mean is weighted by one less than its
        new tokens. `progress(done, total)` is told the tokens.

        Raises ValueError for a text of less than two tokens, and a stride out of range;
        concurrent.futures.CancelledError if `cancel` is set meanwhile.
        """
        return scoring.perplexity(
            self._engine, text, stride=stride, progress=progress, cancel=cancel
        )

    def _ids(self, tokens: Sequence[int] | NDArray[np.integer]) -> list[int]:
        ids = check_ids(tokens, self.config.n_vocab)
        if len(ids) > self.config.n_ctx:
            raise ValueError(f"{len(ids)} tokens, but the context has {self.config.n_ctx}")
        return ids


def _list_of_prompts(prompt: object) -> list[Prompt] | None:
    """Return the prompts of a list; None if it is itself one prompt."""
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return None
    if any(isinstance(item, (str, list, tuple, np.ndarray)) for item in prompt):
        for item in prompt:
            if not isinstance(item, (str, list, tuple, np.ndarray)):
                raise ValueError(
                    f"a list of prompts holds {item!r}; allowed: text, or lists of token ids"
                )
        return list(prompt)
    return None
