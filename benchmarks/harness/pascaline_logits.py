"""Our logits after every token of prompts, in a process of its own or in this one.

Started as `python -m harness.pascaline_logits MODEL`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import torch
from numpy.typing import NDArray

from harness.json_lines import Answer, serve
from pascaline.core.progress import ignore_progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.start import start
from pascaline.kernels.policy import Arithmetic
from pascaline.kv.pages import PAGE_SIZE, pages_for
from pascaline.kv.step_batch import StepBatch

CONTEXT = 512


def logits(path: Path, prompts: list[list[int]], arithmetic: Arithmetic) -> NDArray[numpy.float32]:
    """(tokens, V); each prompt is one step. The KV cache is fp32 with arithmetic in fp32."""
    config = EngineConfig(
        str(path),
        device="cpu",
        max_model_len=CONTEXT,
        pages=pages_for(CONTEXT),
        arithmetic=arithmetic,
        key_value_dtype="fp32" if arithmetic == "fp32" else "auto",
    )
    runner = start(config, ignore_progress).runner
    rows = []
    for prompt in prompts:
        positions = torch.arange(len(prompt))
        batch = StepBatch(
            token_ids=torch.tensor(prompt),
            positions=positions,
            slots=positions,
            page_table=torch.arange(-(-len(prompt) // PAGE_SIZE), dtype=torch.int32)[None],
            query_start=torch.tensor([0, len(prompt)], dtype=torch.int32),
            context_lengths=torch.tensor([len(prompt)], dtype=torch.int32),
            logit_rows=positions,
        )
        rows.append(runner.run(batch).numpy().copy())
    result: NDArray[numpy.float32] = numpy.concatenate(rows)
    return result


def main() -> None:
    path = Path(sys.argv[1])

    def answer(prompts: list[list[int]], arithmetic: Arithmetic, target: str) -> Answer:
        numpy.save(target, logits(path, prompts, arithmetic))
        return {}

    serve({}, {"logits": answer})


if __name__ == "__main__":
    main()
