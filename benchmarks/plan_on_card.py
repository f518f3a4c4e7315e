"""Memory that an engine on a card takes, against its plan: at its start, and in the largest of its steps.

    PYTHONPATH=src python benchmarks/plan_on_card.py [MODEL] [--max-model-len 8192] [--output FILE.json]

Weights are made up; without MODEL it is Qwen2.5-7B in GPTQ-Int4. The driver tells what the device has in use
before torch makes its context there, after it, after the start and after each kind of step, and torch's
allocator what it has of that. Prints both beside the plan's parts: weights, cache, activations, runtime.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from load_to_card import SETTINGS

from pascaline.cli.ending import run
from pascaline.core.progress import ignore_progress
from pascaline.engine.core import EngineCore
from pascaline.engine.device import settle_device
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.hardware.probe import installed_gpus

MAX_BATCH_TOKENS, MAX_SEQUENCES = 512, 64


def used_bytes() -> int | None:
    """Of the first card, by its driver, without a context of ours."""
    gpus = installed_gpus().gpus
    if not gpus or gpus[0].memory_bytes is None or gpus[0].free_memory_bytes is None:
        return None
    return gpus[0].memory_bytes - gpus[0].free_memory_bytes


def memory() -> dict[str, int | None]:
    return {
        "used": used_bytes(),
        "allocated": torch.cuda.memory_allocated(),
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
    }


class Engine:
    """An engine on the card, and requests to it."""

    def __init__(self, folder: Path, max_model_len: int) -> None:
        config = EngineConfig(
            str(folder),
            device="cuda",
            load_format="dummy",
            max_model_len=max_model_len,
            max_batch_tokens=MAX_BATCH_TOKENS,
            max_sequences=MAX_SEQUENCES,
        )
        self.core = EngineCore(config, ignore_progress)
        self._next = 0

    def submit(self, tokens: int, **settings: Any) -> None:
        self._next += 1
        prompt = [(self._next * 7919 + index * 31) % 1000 + 5 for index in range(tokens)]
        params = SamplingParams(max_tokens=4, ignore_eos=True, seed=1, **settings)
        self.core.submit(Submit(self._next, prompt, params))

    def run(self) -> None:
        while self.core.has_work:
            for failed in self.core.step().failed:
                raise RuntimeError(failed.failure.seen)
        torch.cuda.synchronize()


def steps_of(engine: Engine) -> dict[str, Callable[[], None]]:
    """Kinds of steps that take most, by what they fill."""
    longest = engine.core.ready.max_model_len - 8
    return {
        "one prompt of a whole step": lambda: engine.submit(MAX_BATCH_TOKENS, temperature=0.0),
        "the longest prompt": lambda: engine.submit(longest, temperature=0.0),
        "all sequences, sampled": lambda: many(engine, temperature=0.8, top_p=0.9, top_k=40),
        "all sequences, penalties and log-probabilities": lambda: many(
            engine, temperature=0.8, frequency_penalty=0.5, logprobs=5
        ),
        "log-probabilities of a prompt": lambda: engine.submit(
            MAX_BATCH_TOKENS, temperature=0.0, prompt_logprobs=5
        ),
    }


def many(engine: Engine, **settings: Any) -> None:
    for _ in range(MAX_SEQUENCES):
        engine.submit(64, **settings)


def measure(folder: Path, max_model_len: int) -> dict[str, Any]:
    before = used_bytes()
    device, _ = settle_device("cuda")
    torch.zeros(1, device=device)
    result: dict[str, Any] = {
        "card": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "used_before": before,
        "with_context": memory(),
    }
    began = time.perf_counter()
    engine = Engine(folder, max_model_len)
    plan, ready = engine.core.plan, engine.core.ready
    result |= {
        "started_s": time.perf_counter() - began,
        "stages": ready.stages,
        "notes": ready.notes,
        "plan": {
            "weights": plan.weights_bytes,
            "kv": plan.kv_bytes,
            "activations": plan.activation_bytes,
            "runtime": plan.runtime_bytes,
            "total": plan.total_bytes,
        },
        "weights": ready.weights_bytes,
        "kv": ready.kv_bytes,
        "started": memory(),
    }
    for name, submit in steps_of(engine).items():
        torch.cuda.reset_peak_memory_stats()
        try:
            submit()
            engine.run()
        except Exception:  # this kind has no figures, and the others go on
            result[name] = {"failed": traceback.format_exc()}
            continue
        result[name] = memory() | {
            "beside_weights_and_kv": torch.cuda.max_memory_allocated() - ready.weights_bytes - ready.kv_bytes
        }
    used = used_bytes()
    if used is not None and before is not None:
        result["runtime"] = used - before - torch.cuda.memory_reserved()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--max-model-len", type=int, default=8192)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.model or Path(scratch)
        if arguments.model is None:
            (folder / "config.json").write_text(json.dumps(SETTINGS))
        text = json.dumps(measure(folder, arguments.max_model_len), indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)
    return 0


if __name__ == "__main__":
    run(main)
