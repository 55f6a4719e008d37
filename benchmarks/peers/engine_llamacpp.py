"""llama.cpp through the C interface that llama-cpp-python exposes."""

from __future__ import annotations

from pathlib import Path

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.protocol import Generated, Stopwatch, serve

_ROOM = 1024  # tokens of a text; of a batch, in all, so many for every four texts


_SILENT = lib.llama_log_callback(lambda _level, _text, _data: None)


class LlamaCpp:
    """One context per batch size, with llama.cpp's own defaults but for threads and length."""

    def __init__(self, model: Path, _format: str, threads: int) -> None:
        lib.llama_log_set(_SILENT, None)
        lib.llama_backend_init()
        info = lib.llama_print_system_info().decode()
        widest = "AVX512" if "AVX512 = 1" in info else "AVX2" if "AVX2 = 1" in info else "baseline"
        self.version = f"llama-cpp-python {lib.__version__}, {widest}"
        path = str(model / "model.gguf").encode()
        self._model = lib.llama_model_load_from_file(path, lib.llama_model_default_params())
        if not self._model:
            raise RuntimeError("llama.cpp did not load the model")
        self._n_vocab = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._threads = threads
        self._contexts = {1: self._context(1)}

    def generate(self, prompts: list[list[int]], new: int) -> Generated:
        n = len(prompts)
        if n not in self._contexts:
            self._contexts[n] = self._context(n)
        context = self._contexts[n]
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        size = sum(map(len, prompts))
        batch = lib.llama_batch_init(size, 0, 1)
        watch = Stopwatch()
        tokens: list[list[int]] = [[] for _ in prompts]
        given, past = prompts, 0
        for _ in range(new):
            rows = self._decode(context, batch, given, past, every=False)
            past += len(given[0])
            given = [[int(row.argmax())] for row in rows]
            for text, token in zip(tokens, given, strict=True):
                text += token
            watch.token()
        lib.llama_batch_free(batch)
        return watch.generated(tokens)

    def logits(self, tokens: list[int]) -> NDArray[np.float32]:
        context = self._contexts[1]
        lib.llama_memory_clear(lib.llama_get_memory(context), False)
        batch = lib.llama_batch_init(len(tokens), 0, 1)
        rows = np.array(self._decode(context, batch, [tokens], 0, every=True))
        lib.llama_batch_free(batch)
        return rows

    def _context(self, n: int) -> lib.llama_context_p:
        params = lib.llama_context_default_params()
        params.n_ctx = _ROOM if n == 1 else _ROOM * -(-n // 4)
        params.n_seq_max = n
        params.n_threads = params.n_threads_batch = self._threads
        context = lib.llama_init_from_model(self._model, params)
        if not context:
            raise RuntimeError("llama.cpp did not make a context")
        return context

    def _decode(
        self,
        context: lib.llama_context_p,
        batch: lib.llama_batch,
        given: list[list[int]],
        past: int,
        *,
        every: bool,
    ) -> list[NDArray[np.float32]]:
        """Append tokens to each text; return logits after `every` one, or the last of each."""
        i, wanted = 0, []
        for text, tokens in enumerate(given):
            for j, token in enumerate(tokens):
                batch.token[i] = token
                batch.pos[i] = past + j
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = text
                batch.logits[i] = every or j == len(tokens) - 1
                if batch.logits[i]:
                    wanted.append(i)
                i += 1
        batch.n_tokens = i
        status = lib.llama_decode(context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        pointers = (lib.llama_get_logits_ith(context, i) for i in wanted)
        return [np.ctypeslib.as_array(pointer, (self._n_vocab,)) for pointer in pointers]


if __name__ == "__main__":
    serve(LlamaCpp)
