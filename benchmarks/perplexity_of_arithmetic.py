"""What each arithmetic of linears costs in perplexity, on a model's real weights.

    python benchmarks/perplexity_of_arithmetic.py [--model demo] [--tokens 12000] [--weights bf16]
    python benchmarks/perplexity_of_arithmetic.py --key-value-dtypes [--device cuda] [--tokens 1024]

Every linear's inputs are rounded as CUDA kernels round them, and multiplied in fp32: 16-bit integers in two
planes (with a scale for 32 or for 128 inputs), one plane of 8 bits (for 32, 64, 128 or all of a token), and
half precision. Perplexity is over the texts of `harness.texts` and the project's own documents, in
windows of 512 tokens, the first of each not counted. Beside it stands the mean divergence from fp32
(Kullback and Leibler, in nats a token), which tells more than a perplexity does where both are small.

With `--weights bf16` weights are made dense in bf16 first, and inputs are rounded as products of those round
them: to one bf16 number, or to the sum of two.

With `--key-value-dtypes` the types of caches are compared, in plain torch on the CPU, and on a card by
its own kernels, as the engine launches them.

The demo's weights are quantised to Q4_1 already: its perplexity is not the original model's.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import torch
from harness.machine import card_result_path, measured_cpu, now, physical_cores, result_path, software
from harness.texts import MORE_TEXTS, TEXTS

from pascaline.checkpoint.opening import open_checkpoint
from pascaline.checkpoint.reference import resolve
from pascaline.cli.ending import run
from pascaline.core.errors import PascalineError
from pascaline.core.progress import ignore_progress
from pascaline.engine.card import settle_chip, specialisations_of
from pascaline.engine.loader import find_weights, load_rope_factors, load_weights, settle_tying
from pascaline.kernels import KERNELS, OPS, Chip, Kernel, Launcher, Policy, linear
from pascaline.kernels.kernel import Workspace, any_chip, as_it_is
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import PAGE_SIZE, pages_for
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder, build
from pascaline.llm.model_text import ModelText
from pascaline.models import read_config
from pascaline.weights import Dense, Weight

CASE, KEY_VALUE_CASE = "perplexity-of-arithmetic", "perplexity-of-key-value-dtypes"
BRAIN_CASE = "perplexity-of-bf16-inputs"
KEY_VALUE_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}
WINDOW = 512
DOCUMENTS = Path(__file__).parent.parent / "docs"
Rounding = Callable[[torch.Tensor], torch.Tensor]


def integers(largest: int, group: int | None) -> Rounding:
    """Inputs as integers up to `largest`, with a scale for each `group` of them (None: for a whole token)."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        columns = x.shape[1]
        size = columns if group is None else group
        padded = torch.nn.functional.pad(x, (0, -columns % size)).view(len(x), -1, size)
        scales = padded.abs().amax(2, keepdim=True) / largest
        values = torch.where(scales > 0, (padded / scales).round() * scales, 0.0)
        return values.flatten(1)[:, :columns].contiguous()

    return rounded


def two_brain_numbers(x: torch.Tensor) -> torch.Tensor:
    """x as the sum of two bf16 numbers."""
    first = x.bfloat16().float()
    return first + (x - first).bfloat16().float()


ROUNDINGS: dict[str, Rounding | None] = {
    "fp32": None,
    "two planes, 32 inputs a scale": integers(32512, 32),
    "two planes, 128 inputs a scale": integers(32512, 128),
    "half precision": lambda x: x.half().float(),
    "bf16": lambda x: x.bfloat16().float(),
    "one plane, 32 inputs a scale": integers(127, 32),
    "one plane, 64 inputs a scale": integers(127, 64),
    "one plane, 128 inputs a scale": integers(127, 128),
    "one plane, a scale a token": integers(127, None),
}
BRAIN_ROUNDINGS: dict[str, Rounding | None] = {
    "fp32": None,
    "two bf16 numbers": two_brain_numbers,
    "bf16": ROUNDINGS["bf16"],
}
"""Of products of weights in bf16."""


class Rounded:
    """The plain linear, of inputs that are rounded first as `rounding` says."""

    def __init__(self) -> None:
        self.rounding: Rounding | None = None

    def launch(
        self,
        x: torch.Tensor,
        weight: Weight,
        bias: torch.Tensor | None,
        *,
        out: torch.Tensor,
        workspace: Workspace,
    ) -> None:
        linear.launch(
            x if self.rounding is None else self.rounding(x), weight, bias, out=out, workspace=workspace
        )


Logits = Callable[[list[int]], torch.Tensor]
"""Of each token of a window."""


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--model", default="demo", help="a folder, file or name (%(default)s)")
    parser.add_argument("--tokens", type=int, default=12000, help="of text, 2 at least (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.add_argument("--weights", choices=("stored", "bf16"), default="stored", help="(%(default)s)")
    parser.add_argument("--key-value-dtypes", action="store_true", help="what these cost, not arithmetics")
    arguments = parser.parse_args()
    if arguments.tokens < 2:
        parser.error(f"--tokens {arguments.tokens}: from 2 on there is one to predict")
    if arguments.device == "cuda" and not arguments.key_value_dtypes:
        parser.error("--device cuda: it rounds inputs on the CPU; --key-value-dtypes runs on cards")
    if arguments.weights == "bf16" and arguments.key_value_dtypes:
        parser.error("--weights bf16: it is inputs' rounding that is compared there, not types of caches")
    torch.set_num_threads(physical_cores())
    path = resolve(arguments.model, ignore_progress).path
    device = torch.device(arguments.device)
    case = BRAIN_CASE if arguments.weights == "bf16" else CASE
    if arguments.key_value_dtypes:
        case, ways = KEY_VALUE_CASE, _by_key_value_dtype(path, device)
    elif arguments.weights == "bf16":
        ways = _by_rounding(path, BRAIN_ROUNDINGS, in_brain_numbers)
    else:
        ways = _by_rounding(path, ROUNDINGS, as_it_is)
    windows = _windows(path, arguments.tokens)
    created = now()
    record = {
        "created": created,
        "software": software("torch"),
        "model": arguments.model,
        "tokens": sum(map(len, windows)),
        "results": _measured(ways, windows),
    }
    if device.type == "cuda":
        target = card_result_path(torch.cuda.get_device_name(device), case)
    else:
        target = result_path(measured_cpu(physical_cores()), created, case)
    target.write_text(json.dumps(record, indent=2) + "\n")
    print(target)


def _measured(
    ways: Iterator[tuple[str, Logits]], windows: list[list[int]]
) -> dict[str, dict[str, float] | str]:
    """By the names of the ways, of which the first is what the others are compared with."""
    references: list[torch.Tensor] = []
    results: dict[str, dict[str, float] | str] = {}
    exact = math.nan
    for name, logits_of in ways:
        losses, divergence, count = 0.0, 0.0, 0
        try:
            for index, window in enumerate(windows):
                logarithms = torch.log_softmax(logits_of(window).float(), 1).cpu()
                if not results:
                    references.append(logarithms.half())
                reference = references[index].float()
                targets = torch.tensor(window[1:])[:, None]
                losses -= float(logarithms[:-1].gather(1, targets).sum())
                divergence += float((reference.exp() * (reference - logarithms)).sum())
                count += len(window) - 1
        except (PascalineError, RuntimeError) as error:
            if not results:
                raise
            results[name] = str(error)
            print(f"{name:32} {error}", flush=True)
            continue
        perplexity = math.exp(losses / count)
        exact = exact if results else perplexity
        results[name] = {
            "perplexity": perplexity,
            "relative_change": perplexity / exact - 1,
            "divergence_nats": divergence / count if results else 0.0,
        }
        print(
            f"{name:32} {perplexity:10.4f} {perplexity / exact - 1:+9.4%} {divergence / count:10.2e}",
            flush=True,
        )
    return results


def in_brain_numbers(weight: Weight) -> Weight:
    """The weight dense in bf16."""
    values = torch.empty(weight.shape)
    weight.dequantise(0, weight.shape[0], values)
    return Dense(values.bfloat16())


def _by_rounding(
    path: Path, roundings: dict[str, Rounding | None], prepare: Callable[[Weight], Weight]
) -> Iterator[tuple[str, Logits]]:
    rounded = Rounded()
    kernel = Kernel("rounded", ("linear",), "torch", "fp32", any_chip, rounded.launch)
    others = tuple(each for each in KERNELS if each.ops != ("linear",))
    launcher = Launcher(Policy(Chip(torch.device("cpu")), (kernel, *others), "fp32"))
    model, cache = _model(path, launcher, prepare, torch.float32)
    for name, rounding in roundings.items():
        rounded.rounding = rounding
        yield name, functools.partial(_logits, model, cache)


def _by_key_value_dtype(path: Path, device: torch.device) -> Iterator[tuple[str, Logits]]:
    """Each by a model of its own, whose kernels are compiled at once."""
    for name, dtype in KEY_VALUE_DTYPES.items():
        chip, kernels, _ = settle_chip(device)
        launcher = Launcher(Policy(chip, KERNELS, "fp32" if device.type == "cpu" else "auto"), kernels)
        prepare = launcher.kernel_of(OPS["linear"]).prepare
        model, cache = _model(path, launcher, prepare, dtype)
        if kernels is not None:
            with launcher.recording() as recorder:
                model(StepBatch.of_sizes(WINDOW, 1, pages_for(WINDOW)), cache)
            recipes = [launcher.recipe_of(each) for each in recorder.launches]
            kernels.build(specialisations_of(recipes), ignore_progress)
            torch.cuda.synchronize(device)
        yield name, functools.partial(_logits, model, cache)


def _model(
    path: Path, launcher: Launcher, prepare: Callable[[Weight], Weight], dtype: torch.dtype
) -> tuple[Decoder, KeyValueCache]:
    checkpoint = open_checkpoint(path)
    device = launcher.device
    config = settle_tying(read_config(checkpoint.hf_config, checkpoint.container), checkpoint)
    model = build(config, launcher)
    model.rotary.build(WINDOW, load_rope_factors(checkpoint, config.rotary_dimensions // 2))
    load_weights(model, checkpoint, find_weights(model, checkpoint), device, prepare, ignore_progress)
    cache = KeyValueCache(config, pages_for(WINDOW), dtype, device, for_native=False)
    checkpoint.close()
    return model, cache


def _windows(path: Path, tokens: int) -> list[list[int]]:
    """Token ids of all texts, in windows, until there are enough."""
    text = ModelText.load(path)
    sources = [*TEXTS.values(), *MORE_TEXTS.values()]
    sources += [file.read_text() for file in sorted(DOCUMENTS.rglob("*.md"))]
    ids = [token for source in sources for token in text.encode(source)]
    windows = [ids[start : start + WINDOW] for start in range(0, min(tokens, len(ids)), WINDOW)]
    return [window for window in windows if len(window) > 1]


@torch.inference_mode()
def _logits(model: Decoder, cache: KeyValueCache, window: list[int]) -> torch.Tensor:
    positions = torch.arange(len(window))
    batch = StepBatch(
        token_ids=torch.tensor(window),
        positions=positions,
        slots=positions,
        page_table=torch.arange(-(-len(window) // PAGE_SIZE), dtype=torch.int32)[None],
        query_start=torch.tensor([0, len(window)], dtype=torch.int32),
        context_lengths=torch.tensor([len(window)], dtype=torch.int32),
        logit_rows=positions,
    )
    device = model.launch.device
    on_device = {item.name: getattr(batch, item.name).to(device) for item in fields(batch)}
    logits: torch.Tensor = model(StepBatch(**on_device), cache)
    return logits


if __name__ == "__main__":
    run(main)
