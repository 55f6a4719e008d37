"""A model as lm-evaluation-harness wants it: the numbers of the harness's own `hf` model.

Requests become token ids exactly as in lm_eval/models/huggingface.py: special tokens in a text are
special, spaces at the end of a context move to its continuation, `<|endoftext|>` stands before what
has no context, and what is too long loses its beginning.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from gpt2fast.lm_eval.generation import Manner, groups
from gpt2fast.model import Model, load
from gpt2fast.ranges import flag, integer, out_of_range
from gpt2fast.scoring import Request, score_requests

LOAD_OPTIONS = tuple(sorted(set(inspect.signature(load).parameters) - {"source", "progress"}))
OWN_OPTIONS = ("add_bos_token", "max_gen_toks", "max_length", "prefix_token_id", "seed")
SEED = 1234  # the harness's own for torch
TOGETHER = 256  # requests after which results are handed to the harness's cache

logger = logging.getLogger(__name__)
Ids = list[int]
Pair = tuple[tuple[str, str] | None, Ids, Ids]  # context and continuation, as text and as ids


@register_model("gpt2fast")
class HarnessModel(TemplateLM):  # type: ignore[misc]
    """What `--model gpt2fast` is; its arguments are those of `--model_args`.

    - pretrained: what `gpt2fast.load` takes, or a `Model`; default "tales"
    - the other options of `load`: dtype, threads, revision ...
    - max_length: tokens of the context that are used; default: all
    - max_gen_toks: new tokens, where a task does not say how many; default 256
    - add_bos_token: put `<|endoftext|>` before every text; default False
    - prefix_token_id: what stands before a text without context; default `<|endoftext|>`
    - seed: of tasks that draw their answers; default 1234

    Results do not depend on batches, and their size is chosen for you: `--batch_size` and
    `--device` change nothing. Raises ValueError for anything else.
    """

    def __init__(
        self,
        pretrained: str | Model = "tales",
        *,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool = False,
        prefix_token_id: int | None = None,
        seed: int = SEED,
        batch_size: object = None,  # noqa: ARG002
        max_batch_size: object = None,  # noqa: ARG002
        device: object = None,  # noqa: ARG002
        **options: Any,
    ) -> None:
        super().__init__()
        self._add_bos = flag("add_bos_token", add_bos_token)
        self.max_gen_toks = integer("max_gen_toks", max_gen_toks, 1, 2**31 - 1)
        self.seed = integer("seed", seed, 0, 2**63 - 1)
        self.model = _loaded(pretrained, options)
        config = self.model.config
        self.max_length = config.n_ctx
        if max_length is not None:
            self.max_length = integer("max_length", max_length, 2, config.n_ctx)
        self._prefix = prefix_token_id
        if prefix_token_id is not None:
            self._prefix = integer("prefix_token_id", prefix_token_id, 0, config.n_vocab - 1)

    @property
    def eot_token_id(self) -> int:
        """The id of `<|endoftext|>`. Raises ValueError if the model has none."""
        eot = self.model.tokenizer.eot
        if eot is None:
            eot = self.model.config.eot
        if eot is None:
            raise ValueError(
                "the model has no <|endoftext|> to put before texts: give prefix_token_id"
            )
        return eot

    @property
    def prefix_token_id(self) -> int:
        """The id that stands before a text without context."""
        return self.eot_token_id if self._prefix is None else self._prefix

    @property
    def tokenizer_name(self) -> str:
        """What tells caches of requests that the tokenizer is another one."""
        return f"gpt2fast-{self.model.fingerprint}"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return "": there is none. Raises ValueError if one is asked for."""
        if chat_template:
            raise ValueError(f"apply_chat_template is {chat_template!r}; GPT-2 has no template")
        return ""

    def get_model_info(self) -> dict[str, Any]:
        """Return what the harness writes into its results, so that they can be reproduced."""
        from gpt2fast import __version__

        model = self.model
        return {
            "model_dtype": model.dtype,
            "model_sha": model.fingerprint,
            "gpt2fast_version": __version__,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: object) -> Ids:
        """Return the ids of a text, after `<|endoftext|>` if that is always put before texts."""
        tokenizer = self.model.tokenizer
        ids = tokenizer.encode(string, allowed_special="all")
        if not self._add_bos or add_special_tokens is False:
            return ids
        prefix = tokenizer.decode([self.prefix_token_id])
        if add_special_tokens is None and string.startswith(prefix):
            return ids
        return [self.eot_token_id, *ids]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return of each continuation its log-probability and whether it is the greedy one.

        Raises ValueError if one is empty, or longer than the context.
        """
        for context, continuation in (request.args for request in requests):
            if not continuation:
                raise ValueError(f"the continuation of {_end(context)} is empty")
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm)
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Pair], disable_tqdm: bool = False, **_: object
    ) -> list[tuple[float, bool]]:
        """Score ids after ids; what begins alike comes together and is read once."""
        wanted = [self._request(*pair) for pair in requests]
        cut = [len(it.context) < len(pair[1]) for it, pair in zip(wanted, requests, strict=True)]
        if any(cut):
            logger.warning(
                "%d of %d requests are longer than the context and lose their beginning",
                *(sum(cut), len(cut)),
            )
        order = iter(sorted(range(len(wanted)), key=wanted.__getitem__))
        found: dict[int, tuple[float, bool]] = {}
        with tqdm(total=len(wanted), disable=disable_tqdm, desc="loglikelihood requests") as bar:
            while some := list(islice(order, TOGETHER)):
                scores = score_requests(self.model._engine, [wanted[i] for i in some])
                for i, rows in zip(some, scores, strict=True):
                    found[i] = float(rows["logprob"].sum(dtype="f8")), not rows["rank"].any()
                    if requests[i][0] is not None:
                        self.cache_hook.add_partial("loglikelihood", requests[i][0], found[i])
                bar.update(len(some))
        return [found[i] for i in range(len(wanted))]

    def _request(self, texts: tuple[str, str] | None, context: Ids, continuation: Ids) -> Request:
        """Return what to score: as much of the context as there is room for, or the prefix."""
        n, room = len(continuation), self.max_length + 1  # the last id is not read
        if texts is not None and not 0 < n < room:
            why = f"has {n} tokens; allowed: 1 to {self.max_length}"
            raise ValueError(f"the continuation {_end(texts[1])} of {_end(texts[0])} {why}")
        return Request(context[n - room :] or [self.prefix_token_id], continuation)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text, read in windows as long as the context."""
        texts = [text for (text,) in (request.args for request in requests)]
        windows = [list(self._windows(text)) for text in texts]
        scores = iter(
            self._loglikelihood_tokens(
                [window for of_text in windows for window in of_text], disable_tqdm
            )
        )
        found = []
        for text, of_text in zip(texts, windows, strict=True):
            found.append(sum(logprob for logprob, _ in islice(scores, len(of_text))))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def _windows(self, text: str) -> Iterator[Pair]:
        for pair in get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        ):
            yield None, *make_disjoint_window(pair)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Return the continuation of each context, up to the first of its stop strings.

        Raises ValueError for an option that `generate` does not have, before any work.
        """
        arguments = [request.args for request in requests]
        end = self.model.tokenizer.decode([self.eot_token_id])
        planned = [
            (repetition, indices, self._manner(arguments[indices[0]][1], end))
            for repetition, indices in groups(arguments)
        ]
        found: dict[int, str] = {}
        with tqdm(total=len(requests), disable=disable_tqdm, desc="generate_until requests") as bar:
            for repetition, indices, manner in planned:
                prompts = {i: self._prompt(arguments[i][0], manner) for i in indices}
                order = iter(sorted(indices, key=prompts.__getitem__))
                while some := list(islice(order, TOGETHER)):
                    done = self.model.generate(
                        [prompts[i] for i in some], seed=self.seed + repetition, **manner.options
                    )
                    for i, completion in zip(some, done, strict=True):
                        found[i] = manner.text(completion.tokens, self.model.tokenizer)
                        self.cache_hook.add_partial("generate_until", arguments[i], found[i])
                    bar.update(len(some))
        return [found[i] for i in range(len(requests))]

    def _manner(self, given: dict[str, Any], end: str) -> Manner:
        manner = Manner.from_harness(given, self.max_gen_toks, end)
        if manner.n_new >= self.max_length:
            raise out_of_range("max_gen_toks", manner.n_new, f"less than {self.max_length}")
        return manner

    def _prompt(self, context: str, manner: Manner) -> Ids:
        """Return the end of a context, with room for the answer."""
        return self.tok_encode(context)[manner.n_new - self.max_length :] or [self.prefix_token_id]


def _loaded(pretrained: str | Model, options: dict[str, Any]) -> Model:
    unknown = sorted(set(options) - set(LOAD_OPTIONS))
    if unknown:
        allowed = ", ".join(sorted(["pretrained", *OWN_OPTIONS, *LOAD_OPTIONS]))
        raise ValueError(f"model_args has {unknown[0]!r}; allowed: {allowed}")
    if isinstance(pretrained, Model):
        if options:
            raise ValueError(f"{sorted(options)[0]} is an option of loading; pretrained is loaded")
        return pretrained
    return load(pretrained, **options)


def _end(text: str) -> str:
    """Return how a text ends, for messages."""
    return repr(text if len(text) <= 40 else f"...{text[-37:]}")
