"""llama.cpp's side of a comparison, through llama-cpp-python's bindings of its C interface.

Started as `python -m harness.llamacpp_worker FILE THREADS`, by a Python that has llama-cpp-python;
nothing of Pascaline's package is needed there. The C interface is called directly, so that what is
timed is llama.cpp and not its Python wrapper.
"""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import llama_cpp
import numpy

from harness.json_lines import Answer, serve
from harness.llamacpp_start import start_quietly
from harness.model_file import CONTEXT, sha256

BATCH_TOKENS = 512


class Rounds:
    """One context, emptied before every measurement; greedy choice by numpy's argmax."""

    def __init__(self, path: Path, threads: int) -> None:
        start_quietly()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = CONTEXT
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._model or not self._context:
            sys.exit(f"llama.cpp cannot load {path}")
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        name = llama_cpp.llama_flash_attn_type_name(parameters.flash_attn_type) or b"?"
        self.settings = (
            f"quantised arithmetic, fp16 KV cache, context {CONTEXT}, n_batch = n_ubatch = {BATCH_TOKENS}, "
            f"flash attention {name.decode()} (its default); "
            + llama_cpp.llama_print_system_info().decode().strip(" |")
        )

    @property
    def threads(self) -> int:
        """As llama.cpp reports them; 0 when decode and prefill differ."""
        decode = int(llama_cpp.llama_n_threads(self._context))
        return decode if decode == llama_cpp.llama_n_threads_batch(self._context) else 0

    def prefill(self, token_ids: list[int]) -> Answer:
        """Time from the prompt to its first token."""
        self._forget()
        began = time.perf_counter()
        chosen = self._step(token_ids)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "computed": len(token_ids), "token_ids": [chosen]}

    def decode(self, token_ids: list[int], count: int) -> Answer:
        """Time of `count` tokens after the first."""
        self._forget()
        generated = [self._step(token_ids)]
        began = time.perf_counter()
        for _ in range(count):
            generated.append(self._step(generated[-1:]))
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "computed": len(generated) - 1, "token_ids": generated}

    def predict(self, token_ids: list[int]) -> Answer:
        """The likeliest next token after every token but the last."""
        self._forget()
        count = len(token_ids)
        batch = llama_cpp.llama_batch_init(count, 0, 1)
        batch.n_tokens = count
        for row, token_id in enumerate(token_ids):
            batch.token[row], batch.pos[row], batch.logits[row] = token_id, row, 1
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        self._decode(batch)
        likeliest = [self._likeliest(row) for row in range(count - 1)]
        llama_cpp.llama_batch_free(batch)
        return {"token_ids": likeliest}

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def _step(self, token_ids: list[int]) -> int:
        array = (llama_cpp.llama_token * len(token_ids))(*token_ids)
        self._decode(llama_cpp.llama_batch_get_one(array, len(token_ids)))
        return self._likeliest(-1)

    def _decode(self, batch: Any) -> None:
        status = llama_cpp.llama_decode(self._context, batch)
        if status:
            sys.exit(f"llama_decode failed with status {status}")

    def _likeliest(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(numpy.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def main() -> None:
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    rounds = Rounds(path, threads)
    serve(
        {
            "sha256": sha256(path),
            "threads": rounds.threads,
            "settings": rounds.settings,
            "version": metadata.version("llama-cpp-python"),
        },
        {"prefill": rounds.prefill, "decode": rounds.decode, "predict": rounds.predict},
    )


if __name__ == "__main__":
    main()
