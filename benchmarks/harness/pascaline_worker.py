"""Pascaline's side of a comparison: the engine in this process, greedy.

Started as `python -m harness.pascaline_worker MODEL CONTEXT SEQUENCES`: tokens of context of each of so
many sequences.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from harness.json_lines import Answer, serve
from harness.model_file import sha256
from pascaline.core.threads import compute_threads
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.kernels.cpu import native
from pascaline.kv.pages import pages_for


class Rounds:
    """Drives the engine step by step; a step is timed from scheduling to the sampled tokens."""

    def __init__(self, path: Path, context: int, sequences: int) -> None:
        self.core = EngineCore(
            EngineConfig(
                str(path),
                device="cpu",
                max_model_len=context,
                max_sequences=sequences,
                pages=pages_for(context) * (sequences + 1),
            )
        )
        self._request_id = 0

    def prefill(self, token_ids: list[int]) -> Answer:
        """Time from the prompt to its first token."""
        steps, cached = self._run([token_ids], SamplingParams(temperature=0.0, max_tokens=1))
        return {"seconds": sum(seconds for seconds, _ in steps), "computed": len(token_ids) - cached}

    def decode(self, prompts: list[list[int]], count: int) -> Answer:
        """Time of `count` tokens of each sequence after its first.

        Of prompts that were decoded before, what the prefix cache remembers is not computed again.
        """
        params = SamplingParams(temperature=0.0, max_tokens=count + 1, ignore_eos=True)
        steps, _ = self._run(prompts, params)
        decoding = steps[-count:]
        return {
            "seconds": sum(seconds for seconds, _ in decoding),
            "computed": sum(tokens for _, tokens in decoding),
        }

    def predict(self, token_ids: list[int]) -> Answer:
        """The likeliest next token after every token but the last."""
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        core = self.core
        core.submit(Submit(self._next_id(), token_ids, params))
        likeliest: list[int] = []
        while core.has_work:
            for prompt in core.step().prompts:
                likeliest += [item.top_logprobs[0][0] for item in prompt.logprobs or ()]
        return {"token_ids": likeliest}

    def _run(self, prompts: list[list[int]], params: SamplingParams) -> tuple[list[tuple[float, int]], int]:
        """Each step's seconds and generated tokens; and the prompt tokens found in the cache."""
        core = self.core
        for token_ids in prompts:
            core.submit(Submit(self._next_id(), token_ids, params))
        steps: list[tuple[float, int]] = []
        cached = 0
        while core.has_work:
            began = time.perf_counter()
            outputs = core.step()
            steps.append((time.perf_counter() - began, len(outputs.tokens)))
            cached += sum(prompt.cached_tokens for prompt in outputs.prompts)
        return steps, cached

    def _next_id(self) -> int:
        self._request_id += 1
        return self._request_id


def main() -> None:
    path = Path(sys.argv[1])
    context, sequences = map(int, sys.argv[2:])
    rounds = Rounds(path, context, sequences)
    ready = rounds.core.ready
    library = native.library()
    plain = isinstance(library, str)
    kv_bytes = ready.kv_bytes // (ready.pages * ready.page_size)
    serve(
        {
            "sha256": sha256(path) if path.is_file() else None,
            "threads": torch.get_num_threads() if plain else compute_threads(),
            "instructions": "none of its own" if isinstance(library, str) else library.name,
            "kv_bytes_per_token": kv_bytes,
            "settings": f"{'fp32' if plain else '8-bit activations'}, {kv_bytes} bytes of keys and values a "
            f"token, up to {ready.max_batch_tokens} tokens a step",
        },
        {"prefill": rounds.prefill, "decode": rounds.decode, "predict": rounds.predict},
    )


if __name__ == "__main__":
    main()
