"""The way of `pascaline generate MODEL --max-tokens 1`, with the time at every station, and its memory.

Started as `python -m harness.first_token_worker MODEL PROMPT`. Calls what the command calls, in its
order, and prints one JSON object: `stations`, station -> time of arrival on the system's monotonic
clock, which the parent process shares; `load_s`, as the engine reports it; and in bytes after the
first token `anonymous` (resident, without mapped pages of files), `weights` and `kv` (of the pages
in use).
"""

from __future__ import annotations

import time

arrived = {"python starts": time.monotonic()}


def main() -> None:
    import json
    import sys

    from pascaline.cli.progress_bars import ProgressBars
    from pascaline.core.progress import Progress

    model, prompt = sys.argv[1:]

    def arrive(station: str) -> None:
        arrived[station] = time.monotonic()

    def note(progress: Progress) -> None:
        report(progress)
        if progress.stage == "loading weights":
            if "open, build, plan" not in arrived:
                arrive("open, build, plan")
            elif progress.finished:
                arrive("load weights")

    import pascaline.cli.app  # noqa: F401

    arrive("import the command line")
    import torch  # noqa: F401

    arrive("import torch")
    from pascaline.checkpoint.reference import resolve
    from pascaline.engine.core import EngineCore
    from pascaline.engine.engine_config import EngineConfig
    from pascaline.engine.messages import Submit
    from pascaline.engine.sampling_params import SamplingParams
    from pascaline.kv.pages import pages_for
    from pascaline.llm.model_text import ModelText

    arrive("import the engine")
    with ProgressBars() as report:
        path = resolve(model, report).path
        text = ModelText.load(path)
        arrive("tokenizer and chat template")
        core = EngineCore(EngineConfig(str(path), max_sequences=1), note)
        arrive("allocate the KV cache")
    prompt_ids = text.encode(prompt)
    core.submit(Submit(1, prompt_ids, SamplingParams(temperature=0.0, max_tokens=1)))
    tokens = [token.token_id for token in core.step().tokens]
    sys.stderr.write(text.tokenizer.decode(tokens))
    arrive("first step")
    ready = core.ready
    memory = {
        "anonymous": anonymous_bytes(),
        "weights": ready.weights_bytes,
        "kv": ready.kv_bytes // ready.pages * pages_for(len(prompt_ids) + 1),
    }
    json.dump({"stations": arrived, "load_s": ready.load_s, **memory}, sys.stdout)


def anonymous_bytes() -> int:
    """This process's resident memory that no file backs."""
    from pathlib import Path

    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


if __name__ == "__main__":
    main()
