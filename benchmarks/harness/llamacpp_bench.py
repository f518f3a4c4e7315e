"""llama.cpp's own benchmark programs (`peers/build_llamacpp.py`) on a GGUF, all of it on the card."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_MOST_S = 120
_BATCH, _SMALL_BATCH = 2048, 512
"""Tokens a call of theirs, and of those computed at once: the second is llama.cpp's default, the first its
other good choice for prompts."""


class LlamaCpp:
    """Programs in one folder, on one model."""

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._model = model

    def prompts(self, tokens: Sequence[int], repeats: int) -> dict[str, float]:
        """Tokens a second of prompts of so many tokens, by the faster of two sizes of parts."""
        sizes = f"{_SMALL_BATCH},{_BATCH}"
        rows = self._bench("-p", _list(tokens), "-n", "0", "-ub", sizes, "-r", str(repeats))
        best: dict[str, float] = {}
        for row in rows:
            key = str(row["n_prompt"])
            best[key] = max(best.get(key, 0.0), float(row["avg_ts"]))
        return best

    def decode(self, tokens: int, contexts: Sequence[int], repeats: int) -> dict[str, float]:
        """Tokens a second of one stream that has had so many tokens before, by their number."""
        options = ("-p", "0", "-n", str(tokens), "-d", _list(contexts), "-r", str(repeats))
        return {str(row["n_depth"]): float(row["avg_ts"]) for row in self._bench(*options)}

    def batched(self, streams: Sequence[int], context: int, tokens: int) -> dict[str, float]:
        """Tokens a second of so many streams together, by their number."""
        room = max(streams) * (context + tokens)
        said = self._run(
            "llama-batched-bench",
            *("-c", str(room), "-b", str(_BATCH), "-ub", str(_SMALL_BATCH), "-fa", "on", "-ngl", "99"),
            *("-npp", str(context), "-ntg", str(tokens), "-npl", _list(streams), "--output-format", "jsonl"),
        )
        rows: list[dict[str, Any]] = [
            json.loads(line[line.index("{") :]) for line in said.splitlines() if '"speed_tg"' in line
        ]
        return {str(row["pl"]): float(row["speed_tg"]) for row in rows}

    def _bench(self, *options: str) -> list[dict[str, Any]]:
        said = self._run("llama-bench", "-ngl", "99", "-fa", "on", "-o", "json", *options)
        rows: list[dict[str, Any]] = json.loads(said[said.index("[") :])
        return rows

    def _run(self, program: str, *options: str) -> str:
        command = [str(self._folder / program), "-m", str(self._model), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MOST_S, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {done.stderr[-400:].strip()}")
        return done.stdout


def _list(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
