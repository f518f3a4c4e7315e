"""`LLM` in a process of its own: `python -m harness.offline_worker MODEL MEMORY_SHARE [SETTINGS]`.

SETTINGS are more of its arguments, a JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from harness.json_lines import Answer, serve
from pascaline import LLM, SamplingParams


class Generation:
    """Generates for all prompts at once."""

    def __init__(self, model: str, memory_share: float, settings: dict[str, Any]) -> None:
        self._llm = LLM(model, gpu_memory_utilization=memory_share, **settings)

    def generate(self, prompts: list[str | list[int]], max_tokens: int) -> Answer:
        """Time from the texts to the texts."""
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
        began = time.perf_counter()
        results = self._llm.generate(prompts, params)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": [len(result.completions[0].token_ids) for result in results]}


def main() -> None:
    model, share, *settings = sys.argv[1:]
    generation = Generation(model, float(share), json.loads(settings[0]) if settings else {})
    serve({}, {"generate": generation.generate})


if __name__ == "__main__":
    main()
