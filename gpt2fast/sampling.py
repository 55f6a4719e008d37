"""The options of generation: their defaults, their ranges, and how they go together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from gpt2fast import ranges
from gpt2fast._generate import CancelFlag
from gpt2fast.presets import PRESETS
from gpt2fast.ranges import MAX_INT, integer, out_of_range

MAX_NEW_TOKENS = 128  # unless asked otherwise, and no more than the context has room for
MAX_SAMPLES = 1024
MAX_TOP_LOGPROBS = 1000
OVERFLOWS = ("error", "truncate", "stride")
MAX_WIDTH = 256  # texts that a search considers at a time
TEMPERATURE_MIN, TEMPERATURE_MAX = 1e-6, 1e6
BREAKERS = ("\n", ":", '"', "*")

LogitsProcessor = Callable[[NDArray[np.int32], NDArray[np.float32]], NDArray[np.float32] | None]


class _Default:
    """What an option is until it is known whether it was given, for presets yield to that."""

    def __repr__(self) -> str:
        return "<default>"


_DEFAULT: Any = _Default()
_DEFAULTS: dict[str, Any] = {
    "logit_bias": {},
    "temperature": 0.8,
    "top_k": 0,
    "typical_p": 1.0,
    "top_p": 0.9,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "penalty_window": 0,
    "no_repeat_ngram": 0,
    "dry_multiplier": 0.0,
    "dry_base": 1.75,
    "dry_allowed_length": 2,
    "dry_breakers": BREAKERS,
}
_WITHOUT = {"top_k": 0, "typical_p": 1.0, "top_p": 1.0, "min_p": 0.0}  # what goes with mirostat
_GREEDY = _WITHOUT | {"temperature": 0.0}  # what goes with num_beams, and with penalty_alpha
_INTEGERS = {"top_k": 0, "penalty_window": 0, "no_repeat_ngram": 0, "dry_allowed_length": 1}
_NUMBERS = {  # least and most
    "min_p": (0, 1),
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-100, 100),
    "frequency_penalty": (-100, 100),
    "dry_multiplier": (0, 100),
    "dry_base": (1, 100),
    "mirostat_eta": (0, 1),
    "length_penalty": (-10, 10),
}


class GenerateOptions(TypedDict, total=False):
    """The options of `generate` and `stream` as keyword arguments; see `Options`."""

    max_new_tokens: int | None
    min_new_tokens: int
    temperature: float
    top_k: int
    typical_p: float
    top_p: float
    min_p: float
    mirostat_tau: float | None
    mirostat_eta: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_window: int
    no_repeat_ngram: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_breakers: str | Sequence[str | int]
    logit_bias: Mapping[int, float]
    bad_tokens: Sequence[int | Sequence[int]]
    forced_tokens: Sequence[int]
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None
    preset: str | None
    seed: int | None
    logprobs: int | None
    num_beams: int
    length_penalty: float
    penalty_alpha: float
    stop: str | Sequence[str]
    stop_tokens: Sequence[int]
    ignore_eot: bool
    deadline: float | None
    cancel: CancelFlag | None
    overflow: str
    stride: int | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Say how a text is drawn and where it ends. Raises ValueError for a value out of range.

    What these do to the logits of the next token happens in this order, whatever the order in which
    they are given:

        logit_bias, repetition_penalty, presence_penalty and frequency_penalty, dry_multiplier,
        no_repeat_ngram, bad_tokens, min_new_tokens, logits_processor;
        temperature, top_k, typical_p, top_p, min_p, or temperature, mirostat_tau;
        the draw

    Penalties look at the text so far, the prompt included. Between equally likely tokens the lower
    id comes first; the filters of the second line always keep one token. If the rules of the first
    leave none, ValueError is raised; the session or stream has what was written until then.

    - max_new_tokens: 1 or more; None is 128, or what the context has room for if that is less
    - min_new_tokens: nothing but cancel and deadline ends the text before it has this many
    - temperature: 0 takes the likeliest token; else 1e-6 to 1e6, below 1 for likelier text
    - top_k: keep the k likeliest tokens; 0 keeps all
    - typical_p: keep the tokens nearest to the expected surprise that together have this
      probability; above 0, 1 keeps all
    - top_p: keep the likeliest tokens that together have this probability; above 0, 1 keeps all
    - min_p: keep what has at least this share of the likeliest's probability; 0 to 1, 0 keeps all
    - mirostat_tau, mirostat_eta: hold the surprise of the text near tau bits (up to 100; None is
      without), correcting it at the rate eta (0 to 1); instead of the four filters above
    - repetition_penalty: 0.01 to 100; the logit of a token of the text is divided by it if it is
      positive, multiplied if negative; 1 is without
    - presence_penalty, frequency_penalty: -100 to 100; subtracted from the logit of a token of the
      text, once, and for each of its occurrences; 0 is without
    - penalty_window: how many of the last tokens these penalties and DRY look at; 0: all
    - no_repeat_ngram: no sequence of this many tokens stands twice in the text; 0 is without
    - dry_multiplier, dry_base, dry_allowed_length, dry_breakers: "don't repeat yourself": a token
      that would prolong a repetition of k tokens loses multiplier * base^(k - allowed_length), if k
      is at least allowed_length; no repetition spans a token that is a breaker, an id, or that
      contains one, a text. 0 to 100, 0 is without; 1 to 100; 1 or more
    - logit_bias: {id: amount} to add to logits, -1000 to 1000, or -inf to rule a token out
    - bad_tokens: ids that are never drawn, and sequences of ids that are never completed
    - forced_tokens: ids that the new text begins with, whatever the other options say
    - logits_processor: f(tokens, logits), or several, called before each draw with the text so far
      (int32) and the logits (float32, n_vocab) that the rules before it left; it changes these in
      place or returns others. -inf rules a token out; NaN is an error. The one option that costs
      the GIL for each token
    - preset: "deterministic", "balanced", "story" or "code"; options given besides go before it
    - seed: 0 to 2**64 - 1; None draws a fresh one, which the completion tells
    - n: write this many texts for each prompt, 1 to 1024, which is processed once; the first is
      the one without n. `generate` then returns a list for each prompt. Not for streams or sessions
    - logprobs: tell the log-probability of each token and of this many alternatives, 0 to 1000: the
      model's own, before anything above and at temperature 1; None does not
    - num_beams: 2 to 256: beam search, which looks for the likeliest text instead of drawing one; 1
      is without. Rules then act on log-probabilities, neither temperature nor the filters go with
      it, and n, at most num_beams, asks for the best texts (fewer, if there are no more)
    - length_penalty: -10 to 10; beam search ranks texts by score / length^length_penalty, so that
      more is for longer ones
    - penalty_alpha: above 0, up to 1: contrastive search, which takes that of the top_k (2 to 256)
      likeliest tokens with the best (1 - alpha) * probability - alpha * similarity, the greatest
      cosine between its hidden state and those before; 0 is without. Only rules go with it
    - stop: one string or several that end the text; they are not part of it
    - stop_tokens: ids that end the text, besides <|endoftext|>
    - ignore_eot: do not end at <|endoftext|>
    - deadline: seconds, above 0, after which the text ends as it is
    - cancel: a `CancelFlag` by which any thread can end the text
    - overflow: what happens if the text could outgrow the context; "error": it is refused;
      "truncate": each token is drawn from the last n_ctx - 1 at most, which costs the processing of
      as many for each token; "stride": when the text has n_ctx tokens the oldest `stride` are
      dropped and the others processed anew, once in `stride` tokens. Prompts of any length and up
      to 1,048,576 new tokens; every token comes as if what is kept were the prompt
    - stride: of overflow "stride", 1 to n_ctx - 1; None is half of the context
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    temperature: float = _DEFAULT
    top_k: int = _DEFAULT
    typical_p: float = _DEFAULT
    top_p: float = _DEFAULT
    min_p: float = _DEFAULT
    mirostat_tau: float | None = None
    mirostat_eta: float = 0.1
    repetition_penalty: float = _DEFAULT
    presence_penalty: float = _DEFAULT
    frequency_penalty: float = _DEFAULT
    penalty_window: int = _DEFAULT
    no_repeat_ngram: int = _DEFAULT
    dry_multiplier: float = _DEFAULT
    dry_base: float = _DEFAULT
    dry_allowed_length: int = _DEFAULT
    dry_breakers: str | Sequence[str | int] = _DEFAULT
    logit_bias: Mapping[int, float] = _DEFAULT
    bad_tokens: Sequence[int | Sequence[int]] = ()
    forced_tokens: Sequence[int] = ()
    logits_processor: LogitsProcessor | Sequence[LogitsProcessor] | None = None
    preset: str | None = None
    seed: int | None = None
    n: int | None = None
    logprobs: int | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    penalty_alpha: float = 0.0
    stop: str | Sequence[str] = ()
    stop_tokens: Sequence[int] = ()
    ignore_eot: bool = False
    deadline: float | None = None
    cancel: CancelFlag | None = None
    overflow: str = "error"
    stride: int | None = None

    def __post_init__(self) -> None:
        self._resolve()
        self._check_filters()
        self._check_rules()
        self._check_ends()
        self._check_together()

    def _resolve(self) -> None:
        """Give what was not given its value: the preset's, or else the default."""
        chosen = dict(_DEFAULTS)
        if self.preset is not None:
            if not isinstance(self.preset, str) or self.preset not in PRESETS:
                raise out_of_range("preset", self.preset, f"None, {', '.join(PRESETS)}")
            chosen |= PRESETS[self.preset]
        if self.mirostat_tau is not None:
            chosen |= _WITHOUT
        self._set("num_beams", integer("num_beams", self.num_beams, 1, MAX_WIDTH))
        self._set("penalty_alpha", ranges.between("penalty_alpha", self.penalty_alpha, 0, 1))
        if self.is_search:
            chosen |= _GREEDY
        for name, value in chosen.items():
            if getattr(self, name) is _DEFAULT:
                self._set(name, value)

    def _check_filters(self) -> None:
        """Check what draws from the logits."""
        temperature = ranges.number("temperature", self.temperature)
        if temperature != 0 and not TEMPERATURE_MIN <= temperature <= TEMPERATURE_MAX:
            raise out_of_range("temperature", self.temperature, "0, or 1e-06 to 1e+06")
        self._set("temperature", temperature)
        for name in ("top_p", "typical_p"):
            self._set(name, ranges.share(name, getattr(self, name)))
        for name, low in _INTEGERS.items():
            self._set(name, integer(name, getattr(self, name), low, MAX_INT))
        for name, (least, most) in _NUMBERS.items():
            self._set(name, ranges.between(name, getattr(self, name), least, most))
        if self.mirostat_tau is not None:
            tau = ranges.number("mirostat_tau", self.mirostat_tau)
            if not 0 < tau <= 100:
                raise out_of_range("mirostat_tau", tau, "bits above 0 and at most 100, or None")
            self._set("mirostat_tau", tau)
        for name, most in (("seed", 2**64 - 1), ("logprobs", MAX_TOP_LOGPROBS)):
            if getattr(self, name) is not None:
                self._set(name, integer(name, getattr(self, name), 0, most))
        if self.n is not None:
            self._set("n", integer("n", self.n, 1, MAX_SAMPLES))

    def _check_rules(self) -> None:
        """Check what changes the logits."""
        self._set("dry_breakers", ranges.strings_or_ids("dry_breakers", self.dry_breakers))
        self._set("logit_bias", ranges.biases("logit_bias", self.logit_bias))
        self._set("bad_tokens", ranges.id_sequences("bad_tokens", self.bad_tokens))
        self._set("forced_tokens", ranges.ids("forced_tokens", self.forced_tokens))
        given = self.logits_processor
        processors = () if given is None else (given,) if callable(given) else given
        if not isinstance(processors, Sequence) or not all(map(callable, processors)):
            raise out_of_range("logits_processor", given, "a function, several of them, or None")
        self._set("logits_processor", tuple(processors))

    def _check_ends(self) -> None:
        """Check what ends the text."""
        if self.max_new_tokens is not None:
            self._set("max_new_tokens", integer("max_new_tokens", self.max_new_tokens, 1, MAX_INT))
        self._set("min_new_tokens", integer("min_new_tokens", self.min_new_tokens, 0, MAX_INT))
        self._set("stop", ranges.strings("stop", self.stop))
        self._set("stop_tokens", ranges.ids("stop_tokens", self.stop_tokens))
        ranges.flag("ignore_eot", self.ignore_eot)
        if self.deadline is not None:
            self._set("deadline", ranges.number("deadline", self.deadline))
            if not self.deadline > 0:
                raise out_of_range("deadline", self.deadline, "seconds above 0, or None")
        ranges.cancel_flag("cancel", self.cancel)
        if self.overflow not in OVERFLOWS:
            raise out_of_range("overflow", self.overflow, ", ".join(map(repr, OVERFLOWS)))
        if self.stride is not None:
            if self.overflow != "stride":
                allowed = f"None, as overflow is {self.overflow!r}"
                raise out_of_range("stride", self.stride, allowed)
            self._set("stride", integer("stride", self.stride, 1, MAX_INT))

    def _check_together(self) -> None:
        """Refuse options that contradict each other."""
        if self.mirostat_tau is not None:
            if self.temperature == 0:
                raise out_of_range("temperature", 0, "above 0, as mirostat_tau is given")
            for name, without in _WITHOUT.items():
                if getattr(self, name) != without:
                    allowed = f"{without:g}, as mirostat_tau is given"
                    raise out_of_range(name, getattr(self, name), allowed)
        if self.is_search:
            self._check_search()
        elif self.length_penalty != 1:
            raise out_of_range("length_penalty", self.length_penalty, "1, as num_beams is 1")
        if self.max_new_tokens is not None:
            allowed = f"at most {self.max_new_tokens}, as max_new_tokens is"
            if self.min_new_tokens > self.max_new_tokens:
                raise out_of_range("min_new_tokens", self.min_new_tokens, allowed)
            if len(self.forced_tokens) > self.max_new_tokens:
                raise out_of_range("forced_tokens", self.forced_tokens, f"{allowed} ids")
        for token in self.forced_tokens:
            if (token,) in self.bad_tokens:
                raise out_of_range("forced_tokens", token, "ids that are not in bad_tokens")

    def _check_search(self) -> None:
        """Refuse what does not go with a search."""
        expected: dict[str, Any] = _GREEDY | {"mirostat_tau": None, "overflow": "error"}
        name, most = "num_beams", self.num_beams
        if self.penalty_alpha > 0:
            name, most = "penalty_alpha", 1
            expected |= {"num_beams": 1, "length_penalty": 1}
            del expected["top_k"]
            if not 2 <= self.top_k <= MAX_WIDTH:
                allowed = f"2 to {MAX_WIDTH}, as penalty_alpha is given"
                raise out_of_range("top_k", self.top_k, allowed)
        for option, value in expected.items():
            if getattr(self, option) != value:
                raise out_of_range(option, getattr(self, option), f"{value}, as {name} is given")
        if (self.n or 1) > most:
            raise out_of_range("n", self.n, f"at most {most}, as {name} is given")

    @property
    def is_search(self) -> bool:
        """Whether the text is chosen among others: beam search, or contrastive search."""
        return self.num_beams > 1 or self.penalty_alpha > 0

    def check_single(self, why: str) -> None:
        """Raise ValueError if several texts are asked for, or one that is chosen among several."""
        for name, without in (("n", None), ("num_beams", 1), ("penalty_alpha", 0)):
            if getattr(self, name) != without:
                raise out_of_range(name, getattr(self, name), f"{without}, as {why}")

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
