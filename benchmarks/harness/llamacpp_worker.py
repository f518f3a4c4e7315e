"""llama.cpp's side of a comparison, through llama-cpp-python's bindings of its C interface.

Started as `python -m harness.llamacpp_worker FILE THREADS CONTEXT SEQUENCES`, by a Python that has
llama-cpp-python; nothing of Pascaline's package is needed there. The C interface is called directly,
so that what is timed is llama.cpp and not its Python wrapper.
"""

from __future__ import annotations

import sys
import time
from importlib import metadata
from pathlib import Path

import llama_cpp
import numpy
from numpy.typing import NDArray

from harness.json_lines import Answer, serve
from harness.llamacpp_start import start_quietly
from harness.model_file import sha256

BATCH_TOKENS = 512
_NO_LIMIT = -1


class Rounds:
    """One context, emptied before every measurement; greedy choice by numpy's argmax."""

    def __init__(self, path: Path, threads: int, context: int, sequences: int) -> None:
        start_quietly()
        self._model = llama_cpp.llama_model_load_from_file(
            str(path).encode(), llama_cpp.llama_model_default_params()
        )
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = context * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, parameters)
        if not self._model or not self._context:
            sys.exit(f"llama.cpp cannot load {path}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._remembered: list[list[int]] = []
        name = llama_cpp.llama_flash_attn_type_name(parameters.flash_attn_type) or b"?"
        self.system = llama_cpp.llama_print_system_info().decode().strip(" |")
        self.settings = (
            f"quantised arithmetic, fp16 KV cache, n_batch = n_ubatch = {BATCH_TOKENS}, "
            f"flash attention {name.decode()} (its default); {self.system}"
        )

    @property
    def threads(self) -> int:
        """As llama.cpp reports them; 0 when decode and prefill differ."""
        decode = int(llama_cpp.llama_n_threads(self._context))
        return decode if decode == llama_cpp.llama_n_threads_batch(self._context) else 0

    @property
    def instructions(self) -> str:
        """The widest set it was compiled for, as Pascaline names them."""
        known = {"AVX512_VNNI = 1": "avx512-vnni", "AVX512 = 1": "avx512", "AVX2 = 1": "avx2"}
        return next((name for flag, name in known.items() if flag in self.system), "unknown")

    def prefill(self, token_ids: list[int]) -> Answer:
        """Time from the prompt to its first token."""
        self._forget()
        began = time.perf_counter()
        self._feed(0, token_ids, 0)
        self._likeliest(-1)
        return {"seconds": time.perf_counter() - began, "computed": len(token_ids)}

    def decode(self, prompts: list[list[int]], count: int) -> Answer:
        """Time of `count` tokens of each sequence after its first.

        Of prompts that were decoded the last time, only the last token is computed again.
        """
        again = prompts == self._remembered
        if not again:
            self._forget()
        chosen = []
        for sequence, token_ids in enumerate(prompts):
            known = len(token_ids) - 1 if again else 0
            llama_cpp.llama_memory_seq_rm(self._memory, sequence, known, _NO_LIMIT)
            self._feed(sequence, token_ids[known:], known)
            chosen.append(self._likeliest(-1))
        self._remembered = prompts
        positions = [len(token_ids) for token_ids in prompts]
        began = time.perf_counter()
        for step in range(count):
            self._clear()
            for sequence, token_id in enumerate(chosen):
                self._add(token_id, positions[sequence] + step, sequence, wanted=True)
            self._decode()
            chosen = [self._likeliest(row) for row in range(len(prompts))]
        return {"seconds": time.perf_counter() - began, "computed": count * len(prompts)}

    def predict(self, token_ids: list[int]) -> Answer:
        """The likeliest next token after every token but the last."""
        return {"token_ids": self._all_logits(token_ids)[:-1].argmax(1).tolist()}

    def logits(self, prompts: list[list[int]], target: str) -> Answer:
        """Write the logits after every token of every prompt to a .npy file, (tokens, V) fp32."""
        numpy.save(target, numpy.concatenate([self._all_logits(prompt) for prompt in prompts]))
        return {}

    def _all_logits(self, token_ids: list[int]) -> NDArray[numpy.float32]:
        self._forget()
        self._clear()
        for position, token_id in enumerate(token_ids):
            self._add(token_id, position, 0, wanted=True)
        self._decode()
        logits = llama_cpp.llama_get_logits(self._context)
        return numpy.ctypeslib.as_array(logits, shape=(len(token_ids), self._vocab_size)).copy()

    def _forget(self) -> None:
        llama_cpp.llama_memory_clear(self._memory, True)
        self._remembered = []

    def _feed(self, sequence: int, token_ids: list[int], position: int) -> None:
        """Compute a part of a sequence, in batches; logits of its last token."""
        last = len(token_ids) - 1
        for begin in range(0, len(token_ids), BATCH_TOKENS):
            self._clear()
            for row, token_id in enumerate(token_ids[begin : begin + BATCH_TOKENS], begin):
                self._add(token_id, position + row, sequence, wanted=row == last)
            self._decode()

    def _clear(self) -> None:
        self._batch.n_tokens = 0

    def _add(self, token_id: int, position: int, sequence: int, *, wanted: bool) -> None:
        batch = self._batch
        row = batch.n_tokens
        batch.token[row], batch.pos[row], batch.logits[row] = token_id, position, wanted
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        batch.n_tokens = row + 1

    def _decode(self) -> None:
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status:
            sys.exit(f"llama_decode failed with status {status}")

    def _likeliest(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, row)
        return int(numpy.ctypeslib.as_array(logits, shape=(self._vocab_size,)).argmax())


def main() -> None:
    path = Path(sys.argv[1])
    threads, context, sequences = map(int, sys.argv[2:])
    rounds = Rounds(path, threads, context, sequences)
    serve(
        {
            "sha256": sha256(path),
            "threads": rounds.threads,
            "instructions": rounds.instructions,
            "settings": rounds.settings,
            "version": metadata.version("llama-cpp-python"),
        },
        {
            "prefill": rounds.prefill,
            "decode": rounds.decode,
            "predict": rounds.predict,
            "logits": rounds.logits,
        },
    )


if __name__ == "__main__":
    main()
