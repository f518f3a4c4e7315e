"""llama.cpp as the judge of GGUF types: its own quantiser, and its logits at every position.

Started as `python -m harness.llamacpp_judge THREADS`, by a Python that has llama-cpp-python; nothing
of Pascaline's package is needed there.
"""

from __future__ import annotations

import ctypes
import sys
from importlib import metadata

import llama_cpp
import numpy

from harness.json_lines import Answer, serve
from harness.llamacpp_start import start_quietly

BATCH_TOKENS = 512
_NO_FLASH_ATTENTION = 0


class Judge:
    """Answers requests about files, one after the other; no model stays loaded."""

    def __init__(self, threads: int) -> None:
        start_quietly()
        self._threads = threads

    def quantise(self, source: str, target: str, file_type: int, pure: bool) -> Answer:
        """Write `source` again as `file_type` (llama.h's enum llama_ftype).

        `pure` gives all matrices that type, instead of llama.cpp's usual mixture.
        """
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.nthread = self._threads
        parameters.ftype = file_type
        parameters.pure = pure
        parameters.allow_requantize = True
        status = llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
        return {"status": int(status)}

    def logits(self, path: str, prompts: list[list[int]], target: str) -> Answer:
        """Write the logits after every token of every prompt to a .npy file, (tokens, V) fp32."""
        model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not model:
            return {"status": 1}
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = self._threads
        parameters.type_k = parameters.type_v = llama_cpp.GGML_TYPE_F32
        parameters.flash_attn_type = _NO_FLASH_ATTENTION
        context = llama_cpp.llama_init_from_model(model, parameters)
        vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        rows = numpy.empty((sum(map(len, prompts)), vocab_size), numpy.float32)
        begin, status = 0, 0
        for prompt in prompts:
            end = begin + len(prompt)
            status = status or self._predict(context, prompt, rows[begin:end])
            begin = end
        numpy.save(target, rows)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)
        return {"status": status}

    def _predict(
        self, context: object, token_ids: list[int], out: numpy.typing.NDArray[numpy.float32]
    ) -> int:
        """Logits of one sequence, from its start; llama_decode's status."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        batch = llama_cpp.llama_batch_init(len(token_ids), 0, 1)
        batch.n_tokens = len(token_ids)
        for row, token_id in enumerate(token_ids):
            batch.token[row], batch.pos[row], batch.logits[row] = token_id, row, 1
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
        status = int(llama_cpp.llama_decode(context, batch))
        if not status:
            logits = llama_cpp.llama_get_logits(context)
            out[:] = numpy.ctypeslib.as_array(logits, shape=out.shape)
        llama_cpp.llama_batch_free(batch)
        return status


def main() -> None:
    judge = Judge(int(sys.argv[1]))
    serve(
        {
            "version": metadata.version("llama-cpp-python"),
            "settings": "quantised arithmetic, fp32 KV cache, no flash attention; "
            + llama_cpp.llama_print_system_info().decode().strip(" |"),
        },
        {"quantise": judge.quantise, "logits": judge.logits},
    )


if __name__ == "__main__":
    main()
