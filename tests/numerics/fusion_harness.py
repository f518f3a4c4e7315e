"""Kernels that do the work of several launches, and those launches, which have to leave the same bits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy
import torch
from linear_harness import Execute, as_array
from op_harness import as_part
from stand_in_workspace import memory_of

from pascaline.kernels.cuda.elementwise import Operation, plan_elementwise
from pascaline.kernels.cuda.gated_input import plan_gated_input
from pascaline.kernels.cuda.input_memory import BrainForm, Form, shapes_of
from pascaline.kernels.cuda.quantise_input import InputForm, plan_quantise_input
from pascaline.kernels.cuda.rms_norm import plan_rms_norm
from pascaline.kernels.cuda.rotary import plan_rotary
from pascaline.kernels.cuda.rotate_and_store import HeadNorm, plan_rotate_and_store
from pascaline.kernels.cuda.round_rows import plan_round_rows
from pascaline.kernels.cuda.scale_rows import plan_scale_rows
from pascaline.kernels.cuda.specialisation import LaunchPlan
from pascaline.kernels.cuda.store_rows import plan_store_rows

Buffers = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Launch:
    """A plan, run on what is `given`, that fills what is `made` and changes some of `changed`."""

    plan: LaunchPlan
    given: Buffers
    made: Buffers = field(default_factory=dict)
    changed: Buffers = field(default_factory=dict)

    def __call__(self, execute: Execute) -> None:
        buffers = self.given | self.made | self.changed
        arrays = {name: as_array(memory_of(tensor)) for name, tensor in buffers.items()}
        execute(self.plan, arrays, tuple(self.made), updates=tuple(self.changed))


@dataclass(frozen=True)
class FusedCase:
    """Launches in their order, of which the last is `got`'s, and the others `expected`'s."""

    launches: tuple[Launch, ...]
    got: Buffers
    expected: Buffers

    @property
    def plans(self) -> tuple[LaunchPlan, ...]:
        return tuple(each.plan for each in self.launches)

    def check(self, execute: Execute) -> None:
        for launch in self.launches:
            launch(execute)
        assert self.got.keys() == self.expected.keys()
        for name, tensor in self.expected.items():
            found, wanted = (as_array(each).view(numpy.uint8) for each in (self.got[name], tensor))
            assert numpy.array_equal(found, wanted), f"{name} has other bits than by launches of their own"


def sum_and_norm(rows: int, columns: int) -> FusedCase:
    """residual += x and its norm, of rows that are parts of wider ones."""
    x, residual = as_part(random_rows(rows, columns), 4), as_part(random_rows(rows, columns, 1), 8)
    gain = torch.randn(columns, generator=torch.Generator().manual_seed(2)).half()
    total, normed, y = (torch.empty(rows, columns) for _ in range(3))
    launches = (
        Launch(
            plan_elementwise(Operation.ADD, x, residual, names=("x", "residual", "y")),
            {"x": x, "residual": residual},
            {"y": total},
        ),
        Launch(plan_rms_norm(total, gain.dtype, 1e-6), {"x": total, "gain": gain}, {"y": normed}),
        Launch(
            plan_rms_norm(x, gain.dtype, 1e-6, residual=residual),
            {"x": x, "gain": gain},
            {"y": y},
            {"residual": residual},
        ),
    )
    return FusedCase(launches, {"y": y, "residual": residual}, {"y": normed, "residual": total})


def norm_as_input(form: Form, columns: int, *, has_residual: bool) -> FusedCase:
    """A norm, or a sum's, that is written as a linear takes it."""
    rows = 3
    x = as_part(random_rows(rows, columns), 4)
    gain = torch.randn(columns, generator=torch.Generator().manual_seed(2))
    residual = random_rows(rows, columns, 1) if has_residual else None
    given: Buffers = {"x": x, "gain": gain}
    y = torch.empty(rows, columns)
    once, again = ({} if residual is None else {"residual": residual.clone()} for _ in range(2))
    apart = _input_of(y, form)
    got = {name: torch.empty_like(tensor) for name, tensor in apart.made.items()}
    launches = (
        Launch(plan_rms_norm(x, gain.dtype, 1e-6, residual=residual), given, {"y": y}, once),
        apart,
        Launch(
            plan_rms_norm(x, gain.dtype, 1e-6, residual=residual, form=form),
            given | _order(apart),
            got,
            again,
        ),
    )
    return FusedCase(launches, got | again, apart.made | once)


def gate_as_input(form: Form, columns: int, operation: Operation) -> FusedCase:
    """A gate that is written as a linear takes it, of the halves of a merged linear's rows."""
    both = torch.randn(3, 2 * columns, generator=torch.Generator().manual_seed(columns)) * 4
    gate, up = both[:, :columns], both[:, columns:]
    given = {"gate": gate, "up": up}
    gated = torch.empty(3, columns)
    apart = _input_of(gated, form)
    got = {name: torch.empty_like(tensor) for name, tensor in apart.made.items()}
    launches = (
        Launch(plan_elementwise(operation, gate, up, names=("gate", "up", "y")), given, {"y": gated}),
        apart,
        Launch(plan_gated_input(operation, gate, up, form), given | _order(apart), got),
    )
    return FusedCase(launches, got, apart.made)


def heads_and_caches(head_dim: int, half: int, dtype: torch.dtype, *, has_norm: bool) -> FusedCase:
    """Queries, keys and values as a merged linear leaves them; the last token has no place."""
    tokens, heads, key_heads, epsilon = 3, 5, 2, 1e-6
    generator = torch.Generator().manual_seed(head_dim)
    qkv = torch.randn(tokens, (heads + 2 * key_heads) * head_dim, generator=generator)
    sizes = [heads * head_dim, key_heads * head_dim, key_heads * head_dim]
    query, key, value = (part.view(tokens, -1, head_dim) for part in torch.split(qkv, sizes, dim=1))
    given = {
        "positions": torch.tensor([0, 7, 3]),
        "slots": torch.tensor([31, 5, -1]),
        "cosine": torch.randn(8, half, generator=generator),
        "sine": torch.randn(8, half, generator=generator),
        "query_gain": torch.randn(head_dim, generator=generator).bfloat16(),
        "key_gain": torch.randn(head_dim, generator=generator).bfloat16(),
    }
    before = torch.randn(2, key_heads, 16, head_dim, generator=generator).to(dtype).transpose(1, 2)
    names = ("key_cache", "value_cache", *(("key_scales", "value_scales") if dtype == torch.int8 else ()))

    def unchanged() -> Buffers:
        scales = torch.zeros(2, key_heads, 16)
        return {name: scales.clone() if "scales" in name else before.clone() for name in names}

    expected, changed = unchanged(), unchanged()
    launches, rotated = [], []
    for name, x in (("query", query), ("key", key)):
        if has_norm:
            normed = torch.empty(x.shape)
            gain = given[f"{name}_gain"]
            launches.append(
                Launch(plan_rms_norm(x, gain.dtype, epsilon), {"x": x, "gain": gain}, {"y": normed})
            )
            x = normed
        rotated.append(torch.empty(x.shape))
        launches.append(Launch(plan_rotary(x, given["cosine"]), given | {"x": x}, {"y": rotated[-1]}))
    for name, rows in (("key", rotated[1]), ("value", value)):
        stored = {"cache": expected[f"{name}_cache"]}
        if dtype == torch.int8:
            stored["scales"] = expected[f"{name}_scales"]
        of_rows = {"rows": rows, "slots": given["slots"]}
        launches.append(Launch(plan_store_rows(rows, before), of_rows, changed=stored))
    norm = HeadNorm(torch.bfloat16, epsilon) if has_norm else None
    plan = plan_rotate_and_store(query, key, value, given["cosine"], before, norm)
    y = torch.empty(query.shape)
    launches.append(Launch(plan, given | {"query": query, "key": key, "value": value}, {"y": y}, changed))
    return FusedCase(tuple(launches), {"y": y} | changed, {"y": rotated[0]} | expected)


def random_rows(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Log-normal; a quarter of the first one is zero."""
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).exp()
    x[0, : columns // 4] = 0
    return x


def _input_of(x: torch.Tensor, form: Form) -> Launch:
    """What a launch of its own makes of x for a linear."""
    rows, columns = x.shape
    if isinstance(form, InputForm):
        plan = plan_quantise_input(
            rows,
            columns,
            torch.float32,
            form.planes,
            form.scale_group,
            has_permutation=form.has_permutation,
        )
    elif isinstance(form, BrainForm):
        plan = plan_round_rows(rows, columns, torch.float32, form.numbers)
    else:
        plan = plan_scale_rows(rows, columns, torch.float32, is_permuted=form.has_permutation)
    made = {
        name: torch.empty(shape, dtype=dtype)
        for name, (shape, dtype) in shapes_of(form, rows, columns).items()
    }
    return Launch(plan, {"x": x} | ({"inputs": _order_of(columns)} if form.has_permutation else {}), made)


def _order(launch: Launch) -> Buffers:
    return {name: tensor for name, tensor in launch.given.items() if name == "inputs"}


def _order_of(columns: int) -> torch.Tensor:
    """An order of inputs, padded to whole slabs."""
    order = torch.full((-(-columns // 128) * 128,), -1, dtype=torch.int32)
    order[:columns] = torch.randperm(columns, generator=torch.Generator().manual_seed(columns))
    return order
