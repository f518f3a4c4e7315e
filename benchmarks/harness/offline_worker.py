"""`LLM` in a process of its own: `python -m harness.offline_worker MODEL MEMORY_SHARE`."""

from __future__ import annotations

import sys
import time

from harness.json_lines import Answer, serve
from pascaline import LLM, SamplingParams


class Generation:
    """Generates for all prompts at once."""

    def __init__(self, model: str, memory_share: float) -> None:
        self._llm = LLM(model, gpu_memory_utilization=memory_share)

    def generate(self, prompts: list[str], max_tokens: int) -> Answer:
        """Time from the texts to the texts."""
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        began = time.perf_counter()
        results = self._llm.generate(prompts, params)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": [len(result.completions[0].token_ids) for result in results]}


def main() -> None:
    serve({}, {"generate": Generation(sys.argv[1], float(sys.argv[2])).generate})


if __name__ == "__main__":
    main()
