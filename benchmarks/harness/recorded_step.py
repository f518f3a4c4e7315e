"""What a card launches for a step of Qwen2.5-7B in GPTQ int4, recorded without card and weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch

from harness.modelled_linears import int4_weight
from harness.seven_billion import write_folder
from pascaline.hardware.architectures import capability_numbers
from pascaline.hardware.gpus import Gpu
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.cuda.linear_product import product_of
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.program import CardProgram
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.policy import Arithmetic
from pascaline.kv.cache import KeyValueCache
from pascaline.kv.pages import pages_for
from pascaline.kv.step_batch import StepBatch
from pascaline.layers.decoder import Decoder, build
from pascaline.layers.module import Layer, WeightSlot
from pascaline.models import read_config
from pascaline.weights import Dense, Slabbed, Weight
from pascaline.workload.slab_form import SLAB, TILE_OUTPUTS
from pascaline.workload.told_directory import open_dummy

Buffers = Mapping[str, torch.Tensor | None]

_DENSE = ("model.embed_tokens", "lm_head")


@dataclass(frozen=True, eq=False)
class StepLaunch:
    """One launch.

    Parameters
    ----------
    op : the last of those that it computes.
    buffers : by their names in the plan; what launches make has no memory.
    """

    op: str
    plan: LaunchPlan
    buffers: Buffers


def record_step(
    gpu: Gpu, tokens: int, context: int, arithmetic: Arithmetic, *, is_fused: bool
) -> list[StepLaunch]:
    """All launches of a step of one sequence, whose last token's logits are wanted, in order.

    Parameters
    ----------
    tokens, context : new ones, and all of the sequence.
    is_fused : as for steps that are graphs; others are launched op by op.

    Raises
    ------
    ValueError : what the policy chose calls a library.
    """
    limits = ChipLimits(capability_numbers(gpu.compute_capability), gpu.sms)
    chip = Chip(torch.device("cuda"), limits, gpu.roofline())
    launcher = Launcher(Policy(chip, KERNELS, arithmetic))
    model = _model(launcher, context)
    pages = pages_for(context)
    cache = KeyValueCache(model.config, pages, torch.float16, torch.device("cpu"))
    batch = StepBatch.of_sizes(tokens, 1, pages)
    with launcher.recording() as recorder:
        logits = model(replace(batch, logit_rows=batch.logit_rows[:1]), cache)
    launches = CardProgram(recorder.launches, logits, chip).launches if is_fused else recorder.launches
    found = []
    for launch in launches:
        watching = _Watching(limits)
        workspace = cast(Workspace, watching)
        launch.kernel.launch(*launch.inputs, out=launch.out, workspace=workspace, **launch.parameters)
        for recipe, buffers in watching.seen:
            made = {
                name: torch.empty(shape, dtype=dtype, device="meta")
                for name, (shape, dtype) in recipe.handed_on.items()
            }
            if len(recipe.plans) != len(recipe.steps):
                raise ValueError(f"{launch.kernel.name} calls a library, of which no code is at hand")
            found += [StepLaunch(launch.op.name, plan, {**made, **buffers}) for plan in recipe.plans]
    return found


class _Watching:
    """In the place of a `Workspace`: notes what would be launched on which buffers."""

    def __init__(self, limits: ChipLimits) -> None:
        self.ops, self.limits = self, limits
        self.seen: list[tuple[Recipe, Buffers]] = []

    def __call__(self, _key: object, make: Callable[[], Recipe], buffers: Buffers) -> None:
        self.seen.append((make(), buffers))

    def linears(
        self,
        way: LinearWay,
        x: torch.Tensor,
        weight: Dense | Slabbed,
        bias: torch.Tensor | None,
        out: torch.Tensor,
        *,
        is_gated: bool = False,
    ) -> None:
        bias_dtype = None if bias is None else bias.dtype
        product = product_of(weight, x.shape[0], self.limits, bias_dtype=bias_dtype, is_gated=is_gated)
        stored: Buffers = {"weight": weight.tensor} if isinstance(weight, Dense) else weight.buffers
        self.seen.append((way.recipe(product, None), {**stored, "x": x, "bias": bias, "y": out}))


def _model(launcher: Launcher, positions: int) -> Decoder:
    """The model with weights that have no memory, launched by `launcher`."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = open_dummy(write_folder(Path(folder) / "model", "gptq-int4"))
        config = read_config(checkpoint.hf_config, checkpoint.container)
        checkpoint.close()
    # Tables of angles are made where the launcher computes: here, before the card's takes its place.
    model = build(config, Launcher(Policy(Chip(torch.device("cpu")), KERNELS)))
    model.rotary.build(positions)
    model.rotary._launch = launcher
    for slot in model.weight_slots():
        slot.fill([(_weight(slot), len(slot.parts))])
    for module in model.modules():
        if isinstance(module, Layer):
            module.launch = launcher
    return model


def _weight(slot: WeightSlot) -> Weight:
    rows = sum(part.shape[0] for part in slot.parts)
    if len(slot.parts[0].shape) == 1:
        return Dense(torch.zeros(rows))
    columns = slot.parts[0].shape[1]
    if slot.module.path in _DENSE:
        return Dense(torch.empty(rows, columns, dtype=torch.float16, device="meta"))
    like = int4_weight(TILE_OUTPUTS, 2 * SLAB)
    slabs, tiles = columns // SLAB, rows // TILE_OUTPUTS
    return Slabbed(
        (rows, columns),
        like.form,
        codes=torch.empty(slabs, tiles, like.codes.shape[2], dtype=torch.uint8, device="meta"),
        scales=torch.empty(slabs, rows, *like.scales.shape[2:], dtype=like.scales.dtype, device="meta"),
    )
