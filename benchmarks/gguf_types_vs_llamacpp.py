"""Every GGUF type that is read, judged by llama.cpp: same file, same tokens, logits at every position.

    python benchmarks/gguf_types_vs_llamacpp.py [--peer-python PYTHON] [--model demo] [--only TYPE …]

llama.cpp's own quantiser writes the demo model as each type: pure, so that the token embeddings and
the head have that type too, and in its usual mixtures. Types with blocks of 256 get the demo padded
to widths that 256 divides, which is first checked to be the same model.

Eight texts of different kinds then run through both sides. Where llama.cpp is sure (its likeliest
token leads the next by more than 1.0 in log-probability), ours has to be the same token, and its
log-probability has to agree within 0.3. llama.cpp rounds activations to 8 bits before it multiplies
them by quantised weights (to 16 bits by 16-bit weights), and we do not: its rounding is in every one
of these differences, and where it shares one scale among 256 activations (K-quants, IQ4_XS) it alone
is more than 0.3 at some positions. So llama.cpp also runs on the file dequantised to fp32 by its own
tool, where it rounds as little as we do. There every token's log-probability, at every position, has
to agree within 0.001; and how far llama.cpp's two runs are apart shows what is its rounding. A type

- "agrees" when both hold,
- "agrees, but for llama.cpp's rounding" when only the second holds: at the positions beyond 0.3,
  llama.cpp in fp32 is as far from llama.cpp as we are,
- "FAILS" otherwise.

Prints each type's figures, and writes those of all types to a JSON file. Exit code 1: a type fails or
is not read; 2: llama-cpp-python is not there. The files, 5 GB of them, stay in --folder for the next
run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
from gguf import LlamaFileType
from harness import pascaline_logits
from harness.agreement import MAX_DELTA, SURE_MARGIN, Agreement, Logits, agreement, log_probabilities
from harness.json_lines import Worker, WorkerError
from harness.machine import measured_cpu, now, physical_cores, result_path, software
from harness.model_file import sha256
from harness.padded_demo import write_fp32
from harness.texts import CHAT, TEXTS

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.env import cache_dir
from pascaline.core.errors import UnsupportedError
from pascaline.core.progress import ignore_progress
from pascaline.llm.model_text import ModelText

CASE = "gguf-types-vs-llamacpp"
MAX_FP32_DELTA = 0.001
"""Of any token's log-probability, between two sides that both compute in fp32."""
MAX_PADDING_DELTA = 0.001
"""Padding adds only zeros, so that sums differ in the last bits: in logits of up to about 30."""

Verdict = Literal["agrees", "agrees, but for llama.cpp's rounding", "FAILS", "not read"]


class NotComparableError(Exception):
    """llama.cpp is not there, or could not do its part."""


@dataclass(frozen=True)
class Variant:
    """One way to write the model."""

    file_type: LlamaFileType
    pure: bool
    padded: bool

    @property
    def name(self) -> str:
        kind = self.file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
        if self.pure:
            return kind.removesuffix("_S")  # the mixture that is nearly all of one type
        return f"{kind} mixture{'' if self.padded else ', not padded'}"

    @property
    def file_name(self) -> str:
        return re.sub(r"\W+", "-", self.name) + ".gguf"


def _variants() -> Iterator[Variant]:
    types = LlamaFileType
    for plain in (
        *(types.ALL_F32, types.MOSTLY_F16, types.MOSTLY_BF16),
        *(types.MOSTLY_Q4_0, types.MOSTLY_Q4_1, types.MOSTLY_Q5_0, types.MOSTLY_Q5_1, types.MOSTLY_Q8_0),
        *(types.MOSTLY_IQ4_NL, types.MOSTLY_MXFP4_MOE),
    ):
        yield Variant(plain, pure=True, padded=False)
    mixtures = {
        types.MOSTLY_Q2_K: (types.MOSTLY_Q2_K,),
        types.MOSTLY_Q3_K_S: (types.MOSTLY_Q3_K_S, types.MOSTLY_Q3_K_M, types.MOSTLY_Q3_K_L),
        types.MOSTLY_Q4_K_S: (types.MOSTLY_Q4_K_S, types.MOSTLY_Q4_K_M),
        types.MOSTLY_Q5_K_S: (types.MOSTLY_Q5_K_S, types.MOSTLY_Q5_K_M),
        types.MOSTLY_Q6_K: (),
        types.MOSTLY_IQ4_XS: (types.MOSTLY_IQ4_XS,),
    }
    for pure, mixed in mixtures.items():
        yield Variant(pure, pure=True, padded=True)
        for mixture in mixed:
            yield Variant(mixture, pure=False, padded=True)
    # What is found of a model that 256 does not divide: llama.cpp falls back to types with blocks of 32.
    yield Variant(types.MOSTLY_Q4_K_M, pure=False, padded=False)


@dataclass(frozen=True)
class Judgement:
    """A type's result: against llama.cpp, against llama.cpp in fp32, and of llama.cpp with itself."""

    variant: str
    tensors: dict[str, int]
    not_read: str | None = None
    with_llamacpp: Agreement | None = None
    with_llamacpp_fp32: Agreement | None = None
    llamacpp_with_fp32: Agreement | None = None

    @property
    def verdict(self) -> Verdict:
        if self.with_llamacpp is None or self.with_llamacpp_fp32 is None:
            return "not read"
        if self.with_llamacpp_fp32.largest_delta_anywhere > MAX_FP32_DELTA:
            return "FAILS"
        return "agrees" if self.with_llamacpp.beyond == 0 else "agrees, but for llama.cpp's rounding"


def main() -> int:
    arguments = _parse_arguments()
    try:
        return _run(arguments)
    except (NotComparableError, WorkerError) as error:
        sys.stderr.write(f"gguf_types_vs_llamacpp: {error}\n")
        return 2


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="demo, or a .gguf file of the llama architecture")
    parser.add_argument("--peer-python", default=sys.executable, help="a Python with llama-cpp-python")
    parser.add_argument("--folder", type=Path, help="for the files that llama.cpp writes [default: a cache]")
    parser.add_argument("--only", nargs="+", default=[], help="types or mixtures, as the report names them")
    arguments = parser.parse_args()
    names = [variant.name for variant in _variants()]
    unknown = [name for name in arguments.only if name not in names]
    if unknown:
        parser.error(f"--only {unknown[0]!r} is none of: {'; '.join(names)}")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    threads = physical_cores()
    _require_peer(arguments.peer_python)
    source = resolve(arguments.model, ignore_progress).path
    digest = sha256(source)
    folder: Path = (arguments.folder or cache_dir() / "benchmarks" / CASE) / digest[:12]
    folder.mkdir(parents=True, exist_ok=True)
    text = ModelText.load(source)
    prompts = {name: text.encode(content) for name, content in TEXTS.items()}
    prompts["chat"] = text.encode_chat(CHAT)
    wanted = [item for item in _variants() if not arguments.only or item.name in arguments.only]
    with Worker(arguments.peer_python, "llamacpp_judge", str(threads)) as worker:
        comparison = Comparison(worker, folder, source, list(prompts.values()))
        padding = comparison.padding_delta()
        print(f"padding changes logits by at most {padding:.1e}")
        if padding > MAX_PADDING_DELTA:
            raise NotComparableError("the padded demo is another model")
        judgements = []
        for variant in wanted:
            judgements.append(comparison.judge(variant))
            print(_line(judgements[-1]), flush=True)
        peer = worker.hello
    if not arguments.only:  # a part does not replace the result of the whole
        _write(
            {
                "software": {"llama-cpp-python": peer["version"]},
                "model": {"file": source.name, "sha256": digest},
                "llama.cpp": peer["settings"],
                "prompt_tokens": {name: len(token_ids) for name, token_ids in prompts.items()},
                "largest_padding_delta": padding,
                "types": [dataclasses.asdict(item) | {"verdict": item.verdict} for item in judgements],
            }
        )
    return 1 if any(item.verdict in ("FAILS", "not read") for item in judgements) else 0


def _write(result: dict[str, Any]) -> None:
    cpu, created = measured_cpu(physical_cores()), now()
    ours = software("pascaline", "torch", "numpy", "gguf")
    limits = {"sure_margin": SURE_MARGIN, "delta": MAX_DELTA, "delta_in_fp32": MAX_FP32_DELTA}
    whole = {"created": created, "cpu": cpu.name, "limits": limits} | result
    whole["software"] = ours | result["software"]
    path = result_path(cpu, created, CASE)
    path.write_text(json.dumps(whole, indent=2) + "\n")
    print(f"written: {os.path.relpath(path)}")


def _require_peer(python: str) -> None:
    try:
        found = subprocess.run([python, "-c", "import llama_cpp"], capture_output=True, check=False)
    except OSError as error:
        raise NotComparableError(f"{python}: {error.strerror}") from None
    if found.returncode:
        raise NotComparableError(
            f"{python} has no llama-cpp-python: benchmarks/README.md says how to install it for --peer-python"
        )


class Comparison:
    """Both sides' logits for the same prompts, file by file."""

    def __init__(self, worker: Worker, folder: Path, source: Path, prompts: list[list[int]]) -> None:
        self._worker = worker
        self._folder = folder
        self._source = source
        self._prompts = prompts

    def padding_delta(self) -> float:
        """Largest difference that padding makes to any of llama.cpp's fp32 logits."""
        plain, padded = (self._llamacpp(self._fp32(padded)) for padded in (False, True))
        return float(numpy.abs(plain - padded).max())

    def judge(self, variant: Variant) -> Judgement:
        path = self._folder / variant.file_name
        if not path.exists():
            self._quantise(self._fp32(variant.padded), path, variant.file_type, variant.pure)
        tensors = _tensor_types(path)
        try:
            ours = log_probabilities(pascaline_logits.logits(path, self._prompts, "fp32"))
        except UnsupportedError as error:
            return Judgement(variant.name, tensors, not_read=str(error))
        theirs = log_probabilities(self._llamacpp(path))
        dequantised = self._folder / "dequantised.gguf"
        self._quantise(path, dequantised, LlamaFileType.ALL_F32, pure=True)
        theirs_fp32 = log_probabilities(self._llamacpp(dequantised))
        dequantised.unlink()
        return Judgement(
            variant.name,
            tensors,
            with_llamacpp=agreement(theirs, ours),
            with_llamacpp_fp32=agreement(theirs_fp32, ours),
            llamacpp_with_fp32=agreement(theirs, theirs_fp32),
        )

    def _fp32(self, padded: bool) -> Path:
        path = self._folder / f"fp32{'-padded' if padded else ''}.gguf"
        if not path.exists():
            write_fp32(self._source, path, padded=padded)
        return path

    def _quantise(self, source: Path, target: Path, file_type: LlamaFileType, pure: bool) -> None:
        partial = target.with_suffix(".partial")
        answer = self._worker.ask(
            "quantise", source=str(source), target=str(partial), file_type=int(file_type), pure=pure
        )
        if answer["status"]:
            raise NotComparableError(f"llama.cpp cannot write {target.name}: status {answer['status']}")
        partial.replace(target)

    def _llamacpp(self, path: Path) -> Logits:
        target = self._folder / "logits.npy"
        answer = self._worker.ask("logits", path=str(path), prompts=self._prompts, target=str(target))
        if answer["status"]:
            raise NotComparableError(f"llama.cpp cannot run {path.name}: status {answer['status']}")
        logits: Logits = numpy.load(target)
        target.unlink()
        return logits


def _tensor_types(path: Path) -> dict[str, int]:
    """How many tensors of each type a file has."""
    checkpoint = open_checkpoint(path)
    try:
        return dict(Counter(entry.type_name for entry in checkpoint.tensors.values()))
    finally:
        checkpoint.close()


def _line(item: Judgement) -> str:
    types = " ".join(f"{name}:{count}" for name, count in item.tensors.items())
    ours, exact, theirs = item.with_llamacpp, item.with_llamacpp_fp32, item.llamacpp_with_fp32
    if ours is None or exact is None or theirs is None:
        return f"{item.variant}: {item.verdict} ({types}): {item.not_read}"
    return (
        f"{item.variant}: {item.verdict} ({types})\n"
        f"    with llama.cpp: same token at {ours.same_token} of {ours.sure} sure of {ours.positions} "
        f"positions, delta up to {ours.largest_delta:.3f}, {ours.beyond} beyond {MAX_DELTA}; "
        f"divergence {ours.median_divergence:.1e}, up to {ours.largest_divergence:.1e}\n"
        f"    with llama.cpp in fp32: delta of any token up to {exact.largest_delta_anywhere:.1e}\n"
        f"    llama.cpp with its fp32: same token at {theirs.same_token}, delta up to "
        f"{theirs.largest_delta:.3f}, {theirs.beyond} beyond {MAX_DELTA}"
    )


if __name__ == "__main__":
    run(main)
