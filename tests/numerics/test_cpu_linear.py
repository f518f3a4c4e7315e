"""The native linear: every form and shape, and the promise that a row's bits depend on nothing beside it."""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from native_libraries import NEEDS_LIBRARY, RUNNABLE, Use

from pascaline.hardware import instruction_sets
from pascaline.kernels import KERNELS, OPS, Chip, Policy, cpu_linear, linear
from pascaline.kernels.cpu import native, native_kernel
from pascaline.kernels.kernel import Workspace
from pascaline.kernels.packed_cases import PACKED_FORMS, PackedForm, random_packed
from pascaline.weights import Dense, Packed, Weight
from pascaline.weights.codes import Codes, Plane
from pascaline.workload.weight_form import PLANE_BITS

CPU = Chip(torch.device("cpu"))
CANARY = 12345.0

pytestmark = NEEDS_LIBRARY

SIGNED_FORMS = ("Q8_0 as in files", "Q6_K as in files")
ODD_FORMS = {
    "G 8, 3 bits": PackedForm(3, 8, (4, 8), zero=4, offsets=True),
    "G 24, 4 bits in runs of 8": PackedForm(4, 24, (8,), zeros=True, zero=1),
    "G 100, 6 bits": PackedForm(6, 100, (2, 4), zero=32),
    "G 5, 1 bit": PackedForm(1, 5, (8,), offsets=True, scale_dtype=torch.float32),
    "G 96, 5 bits": PackedForm(5, 96, (2, 8), zeros=True, offsets=True, scale_dtype=torch.bfloat16),
    "G 16, 8 bits": PackedForm(8, 16, (1,), zero=128, permutation=True),
    "G 48, 2 bits, S 96": PackedForm(2, 48, (4,), 96, zero=2, group_bits=6, group_zero=32, offsets=True),
}
FORMS = [*PACKED_FORMS, *SIGNED_FORMS, *ODD_FORMS]


def as_signed(codes: Codes) -> Codes:
    """The same bytes as int8."""
    return Codes(
        codes.columns, tuple(replace(plane, data=plane.data.view(torch.int8)) for plane in codes.planes)
    )


def columns_of(name: str) -> int:
    form = ODD_FORMS.get(name) or PACKED_FORMS[name.removesuffix(" as in files")]
    step = form.super_size or form.group_size
    # Above 500, and for most forms no multiple of the four blocks that vectors take at a time.
    return step * (560 // step + 1)


def weight_of(name: str, rows: int) -> Packed:
    generator = torch.Generator().manual_seed(rows)
    columns = columns_of(name)
    if name in ODD_FORMS:
        return random_packed(ODD_FORMS[name], rows, columns, generator)
    weight = random_packed(PACKED_FORMS[name.removesuffix(" as in files")], rows, columns, generator)
    if name == "Q8_0 as in files":
        return replace(weight, codes=as_signed(weight.codes), zero=0)
    if name == "Q6_K as in files":
        assert weight.group_scales is not None
        return replace(weight, group_scales=as_signed(weight.group_scales), group_scale_zero=0)
    return weight


def random_rows(rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(columns)
    # Blocks of very different sizes, and one of zeros.
    x = torch.randn(rows, columns, generator=generator) * torch.logspace(-3, 2, columns)
    x[:, :32] = 0
    return x


def multiply(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Launch between canaries."""
    rows, outputs = len(x), weight.shape[0]
    buffer = torch.full((rows * outputs + 200,), CANARY)
    out = buffer[100 : 100 + rows * outputs].view(rows, outputs).fill_(math.nan)
    cpu_linear.NATIVE.launch(x, weight, bias, out=out, workspace=Workspace(CPU.device))
    assert (buffer[:100] == CANARY).all()
    assert (buffer[-100:] == CANARY).all()
    return out


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("name", FORMS)
def test_every_shape_is_within_the_tolerance(name: str, instructions: str, use: Use) -> None:
    use(instructions, 2)
    bound = cpu_linear.NATIVE.tolerance
    assert bound is not None
    for outputs, tokens in [(1, 2), (3, 17), (50, 0), (50, 1), (50, 5), (50, 64), (1000, 1), (1000, 9)]:
        weight = weight_of(name, outputs)
        x = random_rows(tokens, weight.shape[1])
        bias = torch.randn(outputs).half() if outputs == 50 else None
        error = (multiply(x, weight, bias).double() - linear.reference(x.double(), weight, bias)).abs()
        assert (error <= bound.bound(x.double(), weight, bias)).all(), (outputs, tokens)


@pytest.mark.parametrize("name", FORMS)
def test_the_bits_of_a_row_do_not_depend_on_rows_threads_or_instructions(name: str, use: Use) -> None:
    weight = weight_of(name, 1000)
    x = random_rows(64, weight.shape[1])
    use(RUNNABLE[0], 1)
    expected = torch.cat([multiply(row[None], weight) for row in x])
    for instructions in RUNNABLE:
        for threads in (1, 2):
            use(instructions, threads)
            for start, stop in [(0, 64), (3, 5), (5, 10), (7, 16), (20, 21), (31, 48)]:
                assert torch.equal(multiply(x[start:stop], weight), expected[start:stop])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "columns"), [(1, 1), (3, 100), (50, 64), (1000, 300)])
def test_dense_weights(dtype: torch.dtype, outputs: int, columns: int, use: Use) -> None:
    weight = Dense(torch.randn(outputs, columns, generator=torch.Generator().manual_seed(1)).to(dtype))
    x = random_rows(64, columns)
    bias = torch.randn(outputs).to(dtype)
    use(RUNNABLE[0], 1)
    expected = torch.cat([multiply(row[None], weight, bias) for row in x])
    error = (expected.double() - linear.reference(x.double(), weight, bias)).abs()
    assert (error <= OPS["linear"].tolerance.bound(x.double(), weight, bias)).all()
    for instructions in RUNNABLE:
        for threads in (1, 2):
            use(instructions, threads)
            for start, stop in [(0, 64), (3, 5), (5, 10), (7, 16), (31, 48)]:
                assert torch.equal(multiply(x[start:stop], weight, bias), expected[start:stop])


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("name", [name for name in FORMS if name not in ("MXFP4", "IQ4_XS")])
def test_integers_are_exact_at_their_limits(name: str, instructions: str, use: Use) -> None:
    """With dx = 1 and scales of 1 all sums are integers: none may saturate or overflow."""
    use(instructions, 1)
    random = weight_of(name, 40)

    def filled(codes: Codes, value: int) -> Codes:
        return codes.over(lambda data: torch.full_like(data, value))

    ones = torch.ones(40, random.shape[1] // random.group_size)
    for value in (-1, 0, 85, -86):  # all bits, none, every second; as signed bytes −1, 0, 85, −86
        byte = value if random.codes.planes[0].data.dtype == torch.int8 else value % 256
        weight = replace(
            random,
            codes=filled(random.codes, byte),
            super_size=random.group_size,
            scales=ones,
            offsets=None if random.offsets is None else ones,
            group_scales=None,
            group_offsets=None,
        )
        x = torch.full((9, weight.shape[1]), 127.0)
        x[1::2] = -127
        x[2, ::2] = -127
        assert torch.equal(multiply(x, weight).double(), linear.reference(x.double(), weight, None))


@pytest.mark.parametrize("instructions", RUNNABLE)
def test_the_table_reaches_its_limits(instructions: str, use: Use) -> None:
    use(instructions, 1)
    for value in (-128, 127):
        weight = replace(
            weight_of("MXFP4", 40),
            scales=torch.full((40, columns_of("MXFP4") // 32), 128, dtype=torch.uint8),
            table=torch.full((16,), value, dtype=torch.int8),
        )
        for sign in (-1, 1):
            for tokens in (1, 9):
                x = torch.full((tokens, weight.shape[1]), sign * 127.0)
                assert torch.equal(multiply(x, weight).double(), linear.reference(x.double(), weight, None))


@pytest.mark.parametrize("instructions", RUNNABLE)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["Q4_1", "Q6_K", "GPTQ 4 bits", "G 24, 4 bits in runs of 8", "fp16"])
def test_what_is_no_number_shows(name: str, bad: float, instructions: str, use: Use) -> None:
    use(instructions, 2)
    weight: Weight = Dense(torch.ones(50, 100).half()) if name == "fp16" else weight_of(name, 50)
    for tokens in (1, 3, 17):
        x = random_rows(tokens, weight.shape[1])
        expected = multiply(x, weight)
        x[tokens // 2, weight.shape[1] - 3] = bad
        y = multiply(x, weight)
        assert not y[tokens // 2].isfinite().any()
        others = torch.arange(tokens) != tokens // 2
        assert torch.equal(y[others], expected[others])


@pytest.mark.parametrize("size", [1e-44, 1e-38, 1e-30, 1e30, 3e38])
def test_very_small_and_very_large_rows(size: float) -> None:
    weight = replace(weight_of("Q4_0", 7), scales=torch.full((7, columns_of("Q4_0") // 32), 2.0**-12))
    x = torch.randn(5, weight.shape[1]).clamp(-1, 1) * size
    exact = linear.reference(x.double(), weight, None)
    error = (multiply(x, weight).double() - exact).abs()
    bound = cpu_linear.NATIVE.tolerance
    assert bound is not None
    # 127 / max is no number below 1e-36: such rows count as zeros.
    assert (error <= bound.bound(x.double(), weight, None) + 1e-36).all()


def test_rows_that_are_not_neighbours() -> None:
    weight = weight_of("Q4_1", 20)
    wide = random_rows(6, 2 * weight.shape[1])
    for x in (wide[:, : weight.shape[1]], wide[::2, : weight.shape[1]], wide[:, ::2]):
        assert torch.equal(multiply(x, weight), multiply(x.contiguous(), weight))


def test_threads_of_python_may_launch_at_once() -> None:
    names = ["Q4_1", "Q8_0", "GPTQ 3 bits"]
    weights = [weight_of(name, 200) for name in names]
    inputs = [random_rows(3 + index, weight.shape[1]) for index, weight in enumerate(weights)]
    expected = [multiply(x, weight) for x, weight in zip(inputs, weights, strict=True)]
    wrong: list[str] = []

    def launch(index: int) -> None:
        same = [torch.equal(multiply(inputs[index], weights[index]), expected[index]) for _ in range(100)]
        wrong.extend([] if all(same) else [names[index]])

    threads = [threading.Thread(target=launch, args=(index,)) for index in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nothing_is_remembered_of_a_weight_that_is_gone() -> None:
    gc.collect()
    before = len(native_kernel._prepared)
    weight = weight_of("Q4_0", 3)
    multiply(random_rows(1, weight.shape[1]), weight)
    assert len(native_kernel._prepared) == before + 1
    del weight
    gc.collect()
    assert len(native_kernel._prepared) == before


def test_a_process_with_sleeping_threads_ends() -> None:
    code = """
import torch
from pascaline.kernels import cpu_linear
from pascaline.kernels.cpu import native
from pascaline.weights import Dense
native.library().use_threads(4)
out = torch.empty(9, 4000)
cpu_linear.NATIVE.launch(torch.ones(9, 100), Dense(torch.ones(4000, 100)), None, out=out, workspace=None)
assert (out == 100).all()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_policy_takes_it_and_says_why_not() -> None:
    sizes = {"M": 1, "K": 64, "N": 64}
    decision = Policy(CPU, KERNELS).decide(OPS["linear"], sizes)
    assert decision.kernel is cpu_linear.NATIVE
    assert [other.choice for other in decision.alternatives] == ["torch.linear"]
    in_fp32 = Policy(CPU, KERNELS, "fp32").decide(OPS["linear"], sizes)
    assert in_fp32.kernel is linear.KERNEL
    assert native_kernel.requires(Chip(torch.device("cuda"))) == "it runs on the CPU only"


def test_without_a_library_torch_computes(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(instruction_sets, "FOLDER", tmp_path)
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    reason = native_kernel.requires(CPU)
    assert reason is not None
    assert "is not built" in reason
    assert Policy(CPU, KERNELS).decide(OPS["linear"], {"M": 1, "K": 64, "N": 64}).kernel is linear.KERNEL


def test_random_forms_of_the_codes() -> None:
    """Planes in any runs come out as torch unpacks them: the unit vectors pick single columns."""
    generator = torch.Generator().manual_seed(5)
    for bits, planes in PLANE_BITS.items():
        for run in (8, 16, 64, 96, 256):
            columns = 96
            data = [
                torch.randint(
                    0, 256, (6, -(-columns // run) * run * part // 8), generator=generator, dtype=torch.uint8
                )
                for part in planes
            ]
            runs = [1 if part == 8 else run for part in planes]
            data = [d[:, :columns] if part == 8 else d for d, part in zip(data, planes, strict=True)]
            codes = Codes(columns, tuple(map(Plane, planes, runs, [d.contiguous() for d in data])))
            weight = Packed(codes, 32, 32, torch.ones(6, 3))
            assert codes.bits == bits
            x = torch.eye(columns) * 127
            assert torch.equal(multiply(x, weight), 127 * codes.unpack().float().T)


FORKING = """
import os, sys, torch
from pascaline.kernels import OPS, KERNELS, Chip, Launcher, Policy
from pascaline.kernels.cpu import native
native.loaded().use_threads(2)
launch = Launcher(Policy(Chip(torch.device("cpu")), KERNELS))
x = torch.ones(64, 64)
launch(OPS["add"], "", x, x)
child = os.fork()
if child == 0:
    os._exit(0 if (launch(OPS["add"], "", x, x) == 2).all() else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


def test_a_forked_process_computes() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], timeout=60, check=False)
    assert done.returncode == 0
