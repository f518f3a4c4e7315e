"""The chip that an engine computes on, and the kernels that are compiled for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import torch

from pascaline.core.errors import CudaError, UnknownGpuError, UnsupportedError
from pascaline.core.progress import ProgressCallback
from pascaline.engine.card_runner import representative_sizes
from pascaline.engine.step_inputs import Sizes
from pascaline.hardware.estimate import identify
from pascaline.hardware.probe import InstalledGpu, installed_gpus
from pascaline.hardware.roofline import Roofline
from pascaline.kernels import OPS, Chip, Launcher
from pascaline.kernels.cuda.fusion import fuse
from pascaline.kernels.cuda.kernel_set import KernelSet
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import Specialisation
from pascaline.kernels.cuda.tuned import TunedLinears
from pascaline.kernels.likeness import likeness
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder
from pascaline.weights import Weight

_EACH_ROWS = 16
"""Up to so many rows of a step, kernels may be compiled for just their number."""

_FEW_ROWS, _FEW_BLOCK_ROWS, _BLOCK_ROWS = 1024, 8, 64
"""Beyond those, blocks have multiples of 8 rows, and from 1024 on of 64."""


def settle_chip(device: torch.device) -> tuple[Chip, KernelSet | None, list[str]]:
    """What is computed on, its kernels (None: plain torch's alone), and notes for the user."""
    if device.type != "cuda":
        return Chip(device), None, []
    try:
        kernels = KernelSet(device)
        roofline = _roofline(device)
    except (UnsupportedError, CudaError, UnknownGpuError) as error:
        return Chip(device), None, [f"plain torch computes, several times slower: {error}"]
    notes: list[str] = []
    tuned = TunedLinears.of(torch.cuda.get_device_name(device), notes.append)
    return Chip(device, kernels.limits, roofline, tuned), kernels, notes


def build_kernels(
    model: Decoder,
    cache: KeyValueCache,
    launcher: Launcher,
    kernels: KernelSet,
    largest: Sizes,
    graphs: Sequence[Sizes],
    pages: int,
    report: ProgressCallback,
) -> None:
    """Compile and load what steps launch, and set apart memory for it.

    Parameters
    ----------
    largest : sizes of steps, of which `graphs` are recorded; `pages` columns of their page table.

    Raises
    ------
    CompileError, CudaError : a kernel does not compile or load.
    """
    recipes = [*recipes_of(model.products(), launcher, largest.tokens)]
    recipes += _recipes_of_steps(model, cache, launcher, largest, graphs, pages)
    kernels.build(specialisations_of(recipes), report)
    kernels.reserve(recipes)


def _recipes_of_steps(
    model: Decoder,
    cache: KeyValueCache,
    launcher: Launcher,
    largest: Sizes,
    graphs: Sequence[Sizes],
    pages: int,
) -> Iterator[Recipe]:
    """Of all ops of steps that stand for all others."""
    seen: set[object] = set()
    of_graphs = ((each, True) for each in graphs)
    others = ((each, False) for each in representative_sizes(largest))
    for sizes, is_graph in (*of_graphs, *others):
        batch = StepBatch.of_sizes(sizes.tokens, sizes.sequences, pages)
        batch = replace(batch, logit_rows=batch.logit_rows[: sizes.logit_rows])
        with launcher.recording() as recorder:
            logits = model(batch, cache)
        launches = recorder.launches
        if is_graph:  # of fused launches alone
            launches, _ = fuse(launches, logits, launcher.chip)
        for launch in launches:
            alike = launch.kernel.name, *map(likeness, launch.inputs), *launch.parameters.items()
            if alike not in seen:
                seen.add(alike)
                yield launcher.recipe_of(launch)


def specialisations_of(recipes: Iterable[Recipe]) -> list[Specialisation]:
    """What they need compiled, each once."""
    return list(dict.fromkeys(plan.specialisation for recipe in recipes for plan in recipe.plans))


def recipes_of(
    products: Iterable[tuple[Weight, torch.Tensor | None]], launcher: Launcher, most_rows: int
) -> Iterator[Recipe]:
    """Of linears of so many rows and less; of their weights and biases no value is read."""
    seen: set[object] = set()
    rows = [*_counts(most_rows)]
    for weight, bias in products:
        alike = likeness(weight), likeness(bias)
        if alike in seen:
            continue
        seen.add(alike)
        for count in rows:
            x = torch.empty(count, weight.shape[1], device="meta")
            yield launcher.recipe(OPS["linear"], x, weight, bias)


def _counts(most_rows: int) -> Iterator[int]:
    """Numbers of rows that stand for all up to `most_rows`: others have as many blocks as the next."""
    yield from range(1, min(most_rows, _EACH_ROWS))
    yield from range(_EACH_ROWS, min(most_rows, _FEW_ROWS), _FEW_BLOCK_ROWS)
    yield from range(_FEW_ROWS, most_rows, _BLOCK_ROWS)
    yield most_rows


def _roofline(device: torch.device) -> Roofline:
    """The limits of the card that torch calls `device`.

    Raises
    ------
    UnknownGpuError : the card is in no table, and its driver does not tell enough.
    """
    properties = torch.cuda.get_device_properties(device)
    uuid = str(getattr(properties, "uuid", ""))
    installed = installed_gpus().gpus
    found = next((gpu for gpu in installed if uuid and uuid in str(gpu.uuid)), None)
    if found is None:
        alike = [gpu for gpu in installed if _is_like(gpu, properties.name)]
        found = alike[0] if alike else None
    if found is None:
        raise UnknownGpuError(f"{properties.name} is not among the cards that the driver lists")
    return identify(found).roofline()


def _is_like(gpu: InstalledGpu, name: str) -> bool:
    return gpu.name.removeprefix("NVIDIA ") == name.removeprefix("NVIDIA ")
