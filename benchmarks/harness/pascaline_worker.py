"""Pascaline's side of a comparison: the engine in this process, one sequence, greedy.

Started as `python -m harness.pascaline_worker FILE THREADS`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from harness.json_lines import Answer, serve
from harness.model_file import CONTEXT, sha256
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Submit
from pascaline.engine.sampling_params import SamplingParams


class Rounds:
    """Drives the engine step by step; a step is timed from scheduling to the sampled token."""

    def __init__(self, path: Path) -> None:
        self._core = EngineCore(EngineConfig(str(path), device="cpu", max_model_len=CONTEXT, max_sequences=1))
        self._request_id = 0

    def prefill(self, token_ids: list[int]) -> Answer:
        """Time from the prompt to its first token."""
        steps_s, tokens, cached = self._run(token_ids, SamplingParams(temperature=0.0, max_tokens=1))
        return {"seconds": sum(steps_s), "computed": len(token_ids) - cached, "token_ids": tokens}

    def decode(self, token_ids: list[int], count: int) -> Answer:
        """Time of `count` tokens after the first."""
        params = SamplingParams(temperature=0.0, max_tokens=count + 1, ignore_eos=True)
        steps_s, tokens, _ = self._run(token_ids, params)
        decoding_s = steps_s[-count:]
        return {"seconds": sum(decoding_s), "computed": len(decoding_s), "token_ids": tokens}

    def predict(self, token_ids: list[int]) -> Answer:
        """The likeliest next token after every token but the last."""
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        core = self._core
        core.submit(Submit(self._next_id(), token_ids, params))
        likeliest: list[int] = []
        while core.has_work:
            for prompt in core.step().prompts:
                likeliest += [item.top_logprobs[0][0] for item in prompt.logprobs or ()]
        return {"token_ids": likeliest}

    def _run(self, token_ids: list[int], params: SamplingParams) -> tuple[list[float], list[int], int]:
        """Seconds of each step, the generated tokens, and the prompt tokens found in the cache."""
        core = self._core
        core.submit(Submit(self._next_id(), token_ids, params))
        steps_s: list[float] = []
        generated: list[int] = []
        cached = 0
        while core.has_work:
            began = time.perf_counter()
            outputs = core.step()
            steps_s.append(time.perf_counter() - began)
            generated += [token.token_id for token in outputs.tokens]
            cached += sum(prompt.cached_tokens for prompt in outputs.prompts)
        return steps_s, generated, cached

    def _next_id(self) -> int:
        self._request_id += 1
        return self._request_id


def main() -> None:
    import torch  # after pascaline, which settles how its threads wait

    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(threads)
    rounds = Rounds(path)
    serve(
        {
            "sha256": sha256(path),
            "threads": torch.get_num_threads(),
            "settings": f"fp32 arithmetic and KV cache, context {CONTEXT}, up to 512 tokens a step, "
            f"GOMP_SPINCOUNT {os.environ.get('GOMP_SPINCOUNT', 'not set')}",
        },
        {"prefill": rounds.prefill, "decode": rounds.decode, "predict": rounds.predict},
    )


if __name__ == "__main__":
    main()
