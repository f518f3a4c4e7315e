"""The ARM library, on an emulated processor, gives the bits of this machine's: all kernels, whole steps.

What the bits are worth is tested where the kernels are: against the references, within their tolerances.
"""

from __future__ import annotations

import random
from pathlib import Path

import emulated_arm
import pytest
import torch
from emulated_arm import Emulator, RecordingLibrary
from sampling_cases import random_logits, random_sequences
from stepped_model import Part, SteppedModel
from test_cpu_linear import FORMS, columns_of, random_rows, weight_of
from test_ops import inputs_of
from test_recorded_steps import CASES, Case
from test_tiny_models import tokens

from pascaline.engine.runner import RecordedRunner
from pascaline.engine.sampler import sample
from pascaline.kernels import KERNELS, OPS, Kernel, cpu_linear
from pascaline.kernels.cpu import native
from pascaline.kernels.kernel import Workspace
from pascaline.weights import Dense, Weight

pytestmark = pytest.mark.skipif(emulated_arm.missing() is not None, reason=str(emulated_arm.missing()))

WORKSPACE = Workspace(torch.device("cpu"))
NATIVE = [kernel for kernel in KERNELS if kernel.backend == "native"]
STEPS = [case for case in CASES if case.name in ("llama, Q4_K", "gemma2, Q8_0", "qwen3, AWQ", "qwen2, fp32")]


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Emulator:
    return Emulator(tmp_path_factory.mktemp("replay"))


@pytest.fixture
def library(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordingLibrary:
    """What computes natively from now on."""
    recording = RecordingLibrary(emulator, tmp_path / "recording")
    monkeypatch.setattr(native, "library", lambda: recording)
    return recording


@pytest.mark.parametrize("kernel", NATIVE, ids=lambda kernel: kernel.name)
def test_every_case_of_every_op(kernel: Kernel, library: RecordingLibrary) -> None:
    op = OPS[kernel.ops[0]]
    for case in op.cases:
        operands = inputs_of(op, case)
        if kernel.takes(op.bind(operands), operands) is not None:  # type: ignore[arg-type]
            continue
        if op.in_place is not None:
            out = operands[list(op.inputs).index(op.in_place)]
        else:
            out = torch.zeros(op.output_shape(op.bind(operands)))  # type: ignore[arg-type]
        kernel.launch(*operands, out=out, workspace=WORKSPACE, **case.parameters)  # type: ignore[arg-type]
    library.assert_replay_gives_the_same_bits()


def multiply(x: torch.Tensor, weight: Weight, bias: torch.Tensor | None = None) -> None:
    out = torch.zeros(len(x), weight.shape[0])
    cpu_linear.NATIVE.launch(x, weight, bias, out=out, workspace=WORKSPACE)


@pytest.mark.parametrize("name", FORMS)
def test_weights_of_every_form(name: str, library: RecordingLibrary) -> None:
    weight, x = weight_of(name, 50), random_rows(64, columns_of(name))
    for count in (1, 5, 17, 64):
        multiply(x[:count], weight, torch.linspace(-1, 1, 50).half())
    library.assert_replay_gives_the_same_bits()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dense_weights(dtype: torch.dtype, library: RecordingLibrary) -> None:
    for outputs, columns in [(1, 1), (3, 100), (50, 300)]:
        weight = Dense(torch.randn(outputs, columns, generator=torch.Generator().manual_seed(1)).to(dtype))
        for count in (1, 5, 17):
            multiply(random_rows(count, columns), weight)
    library.assert_replay_gives_the_same_bits()


def test_numbers_at_their_limits(library: RecordingLibrary) -> None:
    for name in ("Q4_1", "Q8_0", "MXFP4", "IQ4_XS"):
        weight = weight_of(name, 50)
        for size in (1e-44, 1e-38, 1e-30, 3e38, torch.inf, torch.nan):
            x = random_rows(3, columns_of(name)).clamp(-1, 1)
            x[1] *= size
            multiply(x, weight)
    library.assert_replay_gives_the_same_bits()


@pytest.mark.parametrize("seed", range(6))
def test_choices(seed: int, library: RecordingLibrary) -> None:
    shuffle = random.Random(seed)
    for vocabulary in (1, 15, 64, 513, 4099):
        logits = random_logits(shuffle, 24, vocabulary)
        sequences = random_sequences(shuffle, 24, vocabulary)
        sample(logits, sequences)
        logits[::3, shuffle.randrange(vocabulary)] = shuffle.choice([torch.nan, torch.inf])
        sample(logits, sequences)
    library.assert_replay_gives_the_same_bits()


@pytest.mark.parametrize("case", STEPS, ids=lambda case: case.name)
def test_recorded_steps(case: Case, library: RecordingLibrary, tmp_path: Path) -> None:
    stepped = SteppedModel(case.write(tmp_path), pages=64, arithmetic="auto")
    assert isinstance(stepped.started.runner, RecordedRunner)
    vocab_size = stepped.started.model_config.vocab_size
    prompts = [tokens(count, vocab_size) for count in (40, 5)]
    pages = [stepped.pages_for(len(prompt)) for prompt in prompts]
    for starts, stops in (((0, 0), (38, 3)), ((38, 3), (39, 4))):
        spans = zip(prompts, pages, starts, stops, strict=True)
        stepped.step(*(Part(prompt[start:stop], held, start) for prompt, held, start, stop in spans))
    library.assert_replay_gives_the_same_bits()
