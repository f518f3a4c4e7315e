"""From recorded launches to those that a card runs: some do the work of several, with the same bits.

- A sum and its norm: the sum takes the place of what was added to, which nothing reads afterwards.
- A linear of gates and ups, and what the gates are for: nothing else reads its output.
- Queries and keys that are rotated (their heads normalised before), and keys and values that are stored.
- A norm or gate that a linear alone reads, which rounds its inputs first: they are written as it takes them.

Attention is by kernels for at most `attention_decode.MOST_ROWS` new tokens a sequence: others are no graphs.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import cast

import torch

from pascaline.kernels.cuda.fused_kernels import (
    ADD_NORM,
    NORM_ROTATE_AND_STORE,
    ROTATE_AND_STORE,
    making_input,
    of_made_input,
)
from pascaline.kernels.cuda.input_memory import BrainForm, Form, ScaledForm, input_bytes, shapes_of
from pascaline.kernels.cuda.linear_call import NUMBER_TYPES
from pascaline.kernels.cuda.quantise_input import InputForm
from pascaline.kernels.cuda.recipe import Recipe, Step
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda_attention import OF_FEW_ROWS
from pascaline.kernels.cuda_linear import GATED
from pascaline.kernels.kernel import Chip, Kernel
from pascaline.kernels.recording import Operand, RecordedLaunch, storage_of
from pascaline.weights import Dense, Slabbed


def fuse(
    launches: list[RecordedLaunch], result: torch.Tensor, chip: Chip
) -> tuple[list[RecordedLaunch], torch.Tensor]:
    """The launches to run, in order, and where what was in `result` is then.

    Of a fused one `kernel.ops` are what it covers, `op` the last of those.
    """
    launches = [replace(each, kernel=OF_FEW_ROWS.get(each.kernel.name, each.kernel)) for each in launches]
    launches, result = _with_sums(_with_stores(launches, storage_of(result)), result)
    launches = _with_inputs(launches, storage_of(result), chip)
    return _with_gates(launches, storage_of(result)), result


def _with_gates(launches: list[RecordedLaunch], result: int) -> list[RecordedLaunch]:
    uses = _uses(launches, result)
    fused: list[RecordedLaunch] = []
    for launch in launches:
        before = fused[-1] if fused else None
        kernel = None if before is None else GATED.get(before.kernel.name)
        if (
            before is not None
            and kernel is not None
            and _names([before, launch]) == kernel.ops
            and launch.out.dtype == torch.float32  # not a gate that writes integers
            and uses[storage_of(before.out)] == len(launch.inputs)
            and all(map(_is_same, launch.inputs, before.out.chunk(2, dim=1)))
            and kernel.takes({}, before.inputs) is None
        ):
            fused[-1] = replace(before, op=launch.op, kernel=kernel, out=launch.out)
            continue
        fused.append(launch)
    return fused


def _with_stores(launches: list[RecordedLaunch], result: int) -> list[RecordedLaunch]:
    uses = _uses(launches, result)
    fused: list[RecordedLaunch] = []
    index = 0
    while index < len(launches):
        for kernel in (NORM_ROTATE_AND_STORE, ROTATE_AND_STORE):
            group = launches[index : index + len(kernel.ops)]
            launch = _stored(kernel, group, uses) if _names(group) == kernel.ops else None
            if launch is not None:
                fused.append(launch)
                index += len(group)
                break
        else:
            fused.append(launches[index])
            index += 1
    return fused


def _names(launches: list[RecordedLaunch]) -> tuple[str, ...]:
    return tuple(launch.op.name for launch in launches)


def _stored(kernel: Kernel, group: list[RecordedLaunch], uses: Counter[int]) -> RecordedLaunch | None:
    """The one launch of a group, None where its launches do not belong together so."""
    *norms, query, key, store_key, store_value = group
    (rotated_query, positions, cosine, sine), (rotated_key, *key_tables) = query.inputs, key.inputs
    (stored_key, slots, key_cache, key_scales), (value, value_slots, value_cache, value_scales) = (
        store_key.inputs,
        store_value.inputs,
    )
    passed_on = [(key.out, stored_key)]
    parameters: dict[str, float] = {}
    gains: tuple[Operand, ...] = ()
    if norms:
        (raw_query, query_gain), (raw_key, key_gain) = (norm.inputs for norm in norms)
        passed_on += [(norms[0].out, rotated_query), (norms[1].out, rotated_key)]
        rotated_query, rotated_key, gains = raw_query, raw_key, (query_gain, key_gain)
        parameters = dict(norms[0].parameters)
        if norms[1].parameters != parameters or _dtype(query_gain) != _dtype(key_gain):
            return None
    alike = zip((positions, cosine, sine, slots), (*key_tables, value_slots), strict=True)
    caches = cast(torch.Tensor, key_cache), cast(torch.Tensor, value_cache)
    if (
        not all(_is_handed_on(out, operand, uses) for out, operand in passed_on)
        or not all(_is_same(one, other) for one, other in alike)
        or len({(cache.shape, cache.stride(), cache.dtype) for cache in caches}) > 1
    ):
        return None
    scales = key_scales, value_scales
    inputs = (rotated_query, rotated_key, value, positions, cosine, sine, slots, *caches, *scales, *gains)
    return _launch(kernel, query, store_value, inputs, parameters)


def _launch(
    kernel: Kernel,
    written: RecordedLaunch,
    last: RecordedLaunch,
    inputs: tuple[Operand, ...],
    parameters: dict[str, float],
) -> RecordedLaunch | None:
    """What writes the output of `written` in the place of `last`; None if the kernel refuses it."""
    if kernel.takes({}, inputs) is not None:
        return None
    return replace(
        last, path=written.path, kernel=kernel, inputs=inputs, out=written.out, parameters=parameters
    )


def _dtype(gain: Operand) -> torch.dtype | None:
    return gain.tensor.dtype if isinstance(gain, Dense) else None


def _is_same(one: Operand, other: Operand) -> bool:
    """Whether both are the same elements of the same memory."""
    if not (isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)):
        return False
    return storage_of(one) == storage_of(other) and _geometry(one) == _geometry(other)


def _geometry(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _is_handed_on(out: torch.Tensor, operand: Operand, uses: Counter[int]) -> bool:
    """Whether a launch's output is this operand, and nothing else reads it."""
    return _is_same(out, operand) and uses[storage_of(out)] == 1


def _uses(launches: list[RecordedLaunch], result: int) -> Counter[int]:
    """How often each memory is read."""
    return Counter([result, *(storage_of(tensor) for launch in launches for tensor in launch.reads())])


def _with_sums(
    launches: list[RecordedLaunch], result: torch.Tensor
) -> tuple[list[RecordedLaunch], torch.Tensor]:
    last_read = {storage_of(tensor): index for index, each in enumerate(launches) for tensor in each.reads()}
    last_read[storage_of(result)] = len(launches)
    moved: dict[int, torch.Tensor] = {}  # by the storage of a sum: what it took the place of
    fused: list[RecordedLaunch] = []
    for index, launch in enumerate(launches):
        last = replace(launch, inputs=tuple(_in_place(operand, moved) for operand in launch.inputs))
        before = launches[index - 1] if index else None
        if before is not None and _names([before, launch]) == ADD_NORM.ops:
            x, residual = (cast(torch.Tensor, operand) for operand in fused[-1].inputs)
            is_free = last_read[storage_of(cast(torch.Tensor, before.inputs[1]))] < index
            if (
                is_free
                and _is_whole(residual)
                and storage_of(x) != storage_of(residual)
                and _is_same(before.out, launch.inputs[0])
            ):
                both = _launch(ADD_NORM, last, last, (x, residual, last.inputs[1]), dict(last.parameters))
                if both is not None:
                    fused[-1] = both
                    moved[storage_of(before.out)] = residual
                    continue
        fused.append(last)
    return fused, cast(torch.Tensor, _in_place(result, moved))


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether it is all of the memory of an output."""
    nbytes = tensor.numel() * tensor.element_size()
    return tensor.is_meta and tensor.is_contiguous() and tensor.untyped_storage().nbytes() == nbytes


def _in_place(operand: Operand, moved: dict[int, torch.Tensor]) -> Operand:
    """The operand where it is now."""
    if not isinstance(operand, torch.Tensor) or storage_of(operand) not in moved:
        return operand
    whole = moved[storage_of(operand)]
    return whole.as_strided(operand.shape, operand.stride(), operand.storage_offset())


def _with_inputs(launches: list[RecordedLaunch], result: int, chip: Chip) -> list[RecordedLaunch]:
    uses = _uses(launches, result)
    fused: list[RecordedLaunch] = []
    for launch in launches:
        if fused and launch.op.name == "linear":
            pair = _made(fused[-1], launch, uses, chip)
            if pair is not None:
                fused[-1:] = pair
                continue
        fused.append(launch)
    return fused


def _made(
    before: RecordedLaunch, linear: RecordedLaunch, uses: Counter[int], chip: Chip
) -> tuple[RecordedLaunch, RecordedLaunch] | None:
    """Both launches, the linear without the first of its own; None if that does not make its input."""
    x, weight, bias = linear.inputs
    if not isinstance(weight, Dense | Slabbed) or not _is_handed_on(before.out, x, uses):
        return None
    recipe = linear.kernel.recipe(chip, {}, linear.inputs, linear.parameters)
    form = _form_of(recipe.steps[0]) if len(recipe.steps) > 1 else None
    kernel = None if form is None else making_input(before.kernel.ops, form)
    if form is None or kernel is None:
        return None
    order = (weight.inputs,) if form.has_permutation and isinstance(weight, Slabbed) else ()
    inputs = (*before.inputs, *order)
    if kernel.takes({}, inputs) is not None:
        return None
    rows, columns = before.out.shape
    made = torch.empty(input_bytes(form, rows, columns), dtype=torch.uint8, device="meta")
    names = shapes_of(form, rows, columns)
    handed_on = {name: each for name, each in recipe.handed_on.items() if name not in names}
    rest = of_made_input(linear.kernel, Recipe(recipe.steps[1:], handed_on), form, rows, columns)
    return (
        replace(before, kernel=kernel, inputs=inputs, out=made),
        replace(linear, kernel=rest, inputs=(made, weight, bias)),
    )


def _form_of(step: Step) -> Form | None:
    """What a launch makes of rows of fp32; None if that is not what it is for."""
    if not isinstance(step, LaunchPlan) or "x" not in step.arguments:
        return None
    defined = dict(step.specialisation.definitions)
    if defined.get("INPUT_TYPE") != NUMBER_TYPES[torch.float32]:
        return None
    if step.specialisation.entry == "quantise_input":
        return InputForm(defined["PLANES"], defined["SCALE_GROUP"], bool(defined["HAS_PERMUTATION"]))
    if step.specialisation.entry == "scale_rows":
        return ScaledForm(bool(defined["HAS_PERMUTATION"]))
    if step.specialisation.entry == "round_rows":
        return BrainForm(defined["BRAIN_NUMBERS"])
    return None
