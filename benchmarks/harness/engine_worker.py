"""An engine on a card in a process of its own, measured on request.

    python -m harness.engine_worker MODEL OPTIONS ANNOUNCEMENTS

OPTIONS is a JSON object of `EngineConfig`'s settings. The greeting says how long the start took, by stage.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import psutil

from harness.card_session import announcing, serve_measurements
from harness.json_lines import Answer
from harness.kernel_trace import traced
from pascaline.cli.ending import run
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Abort, Submit
from pascaline.engine.sampling_params import SamplingParams

_WARM_STEPS = 8
_TRACED_STEPS = 64
_ONCE_A_STEP = "take_sampled"
_SHOWN = 24


class MeasuredEngine:
    """Requests of random tokens, greedy; stream i always has the same prompt, so that it is computed once."""

    def __init__(self, model: str, options: dict[str, object]) -> None:
        began = time.perf_counter()
        self._core = EngineCore(EngineConfig(model, **options))  # type: ignore[arg-type]
        self.core_s = time.perf_counter() - began
        self._random = random.Random(0)
        self._requests = 0

    def hello(self) -> Answer:
        """What was started, and how long each part of it took."""
        process_s = time.time() - psutil.Process().create_time()
        ready = msgspec.to_builtins(self._core.ready)
        return {"ready": ready, "core_s": self.core_s, "process_s": process_s}

    def decode(self, streams: int, context: int, steps: int) -> Answer:
        """Steps that give every stream a token, after `context` tokens each: seconds and tokens of each."""
        with self._streams(streams, context):
            done = self._steps(steps)
        seconds, tokens = ([each[which] for each in done] for which in range(2))
        return {"step_s": seconds, "tokens": tokens, "streams": streams, "context": context}

    def trace(self, streams: int, context: int) -> Answer:
        """What the card does in such steps, a step's share of it."""
        with self._streams(streams, context):
            traced(lambda: self._run(2))  # the first time, the profiler starts
            plain = [seconds for seconds, _ in self._steps(_TRACED_STEPS)]
            seen = traced(lambda: self._run(_TRACED_STEPS))
        # Of the first and the last step, which are under way while others' results are read, a part is seen.
        steps = max([times for name, (_, times) in seen.by_name.items() if _ONCE_A_STEP in name], default=0)
        steps = steps or _TRACED_STEPS
        costly = list(seen.by_name.items())[:_SHOWN]
        return {
            "plain_step_s": plain,
            "steps": steps,
            "span_s": seen.span_s / steps,
            "busy_s": seen.busy_s / steps,
            "launches": seen.launches / steps,
            "by_name": {name: (seconds / steps, times / steps) for name, (seconds, times) in costly},
        }

    def prefill(self, tokens: int, repeats: int) -> Answer:
        """Seconds from a new prompt to its first token, each time; the first one is not counted."""
        seconds = []
        for _ in range(repeats + 1):
            prompt = [self._random.randrange(self._core.ready.vocab_size) for _ in range(tokens)]
            began = time.perf_counter()
            self._submit(prompt, 1)
            while self._core.has_work:
                self._core.step()
            seconds.append(time.perf_counter() - began)
        return {"seconds": seconds[1:], "tokens": tokens}

    def _submit(self, prompt: list[int], tokens: int) -> int:
        self._requests += 1
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        self._core.submit(Submit(self._requests, prompt, params))
        return self._requests

    @contextmanager
    def _streams(self, streams: int, context: int) -> Iterator[None]:
        """So many requests, whose prompts are computed, and which do not end by themselves."""
        most = self._core.ready.max_model_len - context - 1
        prompts = [random.Random(index) for index in range(streams)]
        vocabulary = self._core.ready.vocab_size
        numbers = [
            self._submit([each.randrange(vocabulary) for _ in range(context)], most) for each in prompts
        ]
        try:
            begun: set[int] = set()
            while len(begun) < streams:
                outputs = self._core.step()
                if outputs.failed:
                    raise RuntimeError(outputs.failed[0].failure.seen)
                begun.update(token.request_id for token in outputs.tokens)
            self._run(_WARM_STEPS)
            yield
        finally:
            for number in numbers:
                self._core.abort(Abort(number))
            while self._core.has_work:
                self._core.step()

    def _run(self, steps: int) -> None:
        self._steps(steps)

    def _steps(self, steps: int) -> list[tuple[float, int]]:
        """Seconds from the tokens of one step to those of the next, and how many these are."""
        done: list[tuple[float, int]] = []
        began = time.perf_counter()
        while len(done) < steps:
            if count := len(self._core.step().tokens):
                now = time.perf_counter()
                done.append((now - began, count))
                began = now
        return done


def main() -> None:
    model, options, announcements = sys.argv[1:]
    announcing(announcements)
    engine = MeasuredEngine(model, json.loads(options))
    answers: dict[str, Callable[..., Answer]] = {
        "decode": engine.decode,
        "trace": engine.trace,
        "prefill": engine.prefill,
    }
    serve_measurements(answers, engine.hello())


if __name__ == "__main__":
    run(main)
