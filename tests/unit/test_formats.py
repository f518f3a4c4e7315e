"""Every format against the gguf package's own dequantisation, bit for bit, and what is refused."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import gguf
import numpy
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

import pascaline.formats
from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError, UnsupportedError
from pascaline.formats import FORMATS, IN_MEMORY, Format, StoredRows, StoredTensors, WeightReader
from pascaline.formats.destination import Card
from pascaline.weights import Dense, Packed, Weight
from pascaline.weights.codes import Codes, Plane
from pascaline.workload.weight_form import TENSOR_FORMS

# Where each block keeps fp16 numbers, by byte; the rest of a block are codes, and any byte is valid.
HALVES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
NOT_A_NUMBER = {"MXFP4": (0, 255)}
"""Where a byte of a block is an exponent, and which value of it stands for NaN."""

ROWS, COLUMNS = 24, 1280


def edge_halves() -> NDArray[numpy.float16]:
    """Zeros of both signs, subnormals, and the largest finite numbers, among ordinary ones."""
    limits = numpy.finfo(numpy.float16)
    edges = [0.0117, 0.0, limits.smallest_subnormal, 1e-5, limits.tiny, 1.0, limits.max]
    return numpy.array([*edges, *(-edge for edge in edges)], numpy.float16)


def random_bytes(type_name: str, rows: int, columns: int) -> bytearray:
    """A tensor of this type: random codes, and every pairing of edge cases for its fp16 numbers."""
    random = numpy.random.default_rng(7)
    elements, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    blocks = random.integers(0, 256, (rows * columns // elements, block_bytes), numpy.uint8)
    halves = edge_halves()
    for step, start in enumerate(HALVES.get(type_name, ())):
        index = numpy.arange(len(blocks)) // len(halves) ** step % len(halves)
        blocks[:, start : start + 2] = halves[index].view(numpy.uint8).reshape(-1, 2)
    if type_name in NOT_A_NUMBER:
        place, nan = NOT_A_NUMBER[type_name]
        exponents = numpy.arange(len(blocks)) % 256
        blocks[:, place] = numpy.where(exponents == nan, 0, exponents)
    return bytearray(blocks.tobytes())


def dequantised_by_gguf(type_name: str, data: bytearray, rows: int, columns: int) -> NDArray[numpy.float32]:
    raw = numpy.frombuffer(data, numpy.uint8).reshape(rows, -1)
    kind = GGMLQuantizationType[type_name]
    if type_name in ("F32", "F16"):  # the package wants the elements of these, not their bytes
        return raw.view(numpy.float32 if type_name == "F32" else numpy.float16).astype(numpy.float32)
    with numpy.errstate(over="ignore"):  # the largest scales are meant to
        return gguf.dequantize(raw, kind)


def dequantised(weight: Weight, start: int, stop: int, columns: int) -> NDArray[numpy.float32]:
    out = torch.full((stop - start, columns), float("nan"))
    weight.dequantise(start, stop, out)
    return out.numpy()


def same_bits(left: NDArray[numpy.float32], right: NDArray[numpy.float32]) -> bool:
    """Equal to the sign of zero; any NaN is as good as another one."""
    nan = numpy.isnan(left)
    return bool(
        (nan == numpy.isnan(right)).all()
        and (left.view(numpy.uint32)[~nan] == right.view(numpy.uint32)[~nan]).all()
    )


@pytest.mark.parametrize("item", FORMATS.values(), ids=list(FORMATS))
def test_dequantises_bit_for_bit_as_the_gguf_package(item: Format) -> None:
    data = random_bytes(item.type_name, ROWS, COLUMNS)
    expected = dequantised_by_gguf(item.type_name, data, ROWS, COLUMNS)
    weight = item.load([StoredRows(lambda: memoryview(data), (ROWS, COLUMNS))], IN_MEMORY)
    assert weight.shape == (ROWS, COLUMNS)
    assert same_bits(dequantised(weight, 0, ROWS, COLUMNS), expected)
    assert same_bits(dequantised(weight, 5, 9, COLUMNS), expected[5:9])
    assert dequantised(weight, 3, 3, COLUMNS).shape == (0, COLUMNS)


@pytest.mark.parametrize("item", FORMATS.values(), ids=list(FORMATS))
def test_rows_are_gathered_and_reordered(item: Format) -> None:
    data = random_bytes(item.type_name, ROWS, COLUMNS)
    expected = dequantised_by_gguf(item.type_name, data, ROWS, COLUMNS)
    weight = item.load([StoredRows(lambda: memoryview(data), (ROWS, COLUMNS))], IN_MEMORY)
    rows = [7, 0, 7, ROWS - 1]
    out = torch.full((len(rows), COLUMNS), float("nan"))
    weight.gather(torch.tensor(rows), out)
    assert same_bits(out.numpy(), expected[rows])
    order = [*range(1, ROWS), 0]
    weight.reorder_rows(torch.tensor(order))
    assert same_bits(dequantised(weight, 0, ROWS, COLUMNS), expected[order])


@pytest.mark.parametrize("item", FORMATS.values(), ids=list(FORMATS))
def test_tensors_below_each_other_are_read_as_one(item: Format) -> None:
    """With the halves of heads, which GGUF interleaves, put one after the other on the way."""
    data = random_bytes(item.type_name, ROWS, COLUMNS)
    expected = dequantised_by_gguf(item.type_name, data, ROWS, COLUMNS)
    parts = tuple(StoredRows(lambda: memoryview(data), (ROWS, COLUMNS), heads) for heads in (3, None, 2))
    weight = item.load(parts, IN_MEMORY)
    assert weight.shape == (3 * ROWS, COLUMNS)
    assert same_bits(dequantised(weight, ROWS, 2 * ROWS, COLUMNS), expected)
    for start, heads in ((0, 3), (2 * ROWS, 2)):
        size = ROWS // heads
        in_head = [*range(0, size, 2), *range(1, size, 2)]
        order = [head * size + row for head in range(heads) for row in in_head]
        assert same_bits(dequantised(weight, start, start + ROWS, COLUMNS), expected[order])


def test_only_tensors_of_one_format_and_width_are_joined() -> None:
    def stored(type_name: str, columns: int) -> StoredTensors:
        rows = StoredRows(lambda: memoryview(b""), (2, columns))
        return StoredTensors.of("model.gguf", (f"{type_name}.weight",), FORMATS[type_name], (rows,))

    first = stored("Q4_0", 64)
    joined = first.joined(stored("Q4_0", 64))
    assert joined is not None
    assert joined.names == ("Q4_0.weight", "Q4_0.weight")
    assert joined.resident_bytes == 2 * first.resident_bytes == 2 * 2 * 2 * 18
    assert first.joined(stored("Q4_1", 64)) is None
    assert first.joined(stored("Q4_0", 32)) is None


@pytest.mark.parametrize("shape", [(ROWS, COLUMNS), (1, 256)])
@pytest.mark.parametrize("item", FORMATS.values(), ids=list(FORMATS))
def test_keeps_as_many_bytes_as_the_file_and_none_of_the_file(item: Format, shape: tuple[int, int]) -> None:
    data = random_bytes(item.type_name, *shape)
    weight = item.load([StoredRows(lambda: memoryview(data), shape)], IN_MEMORY)
    assert weight.resident_bytes == len(data)
    assert TENSOR_FORMS[item.type_name].packed_bytes(*shape) == len(data)
    before = dequantised(weight, 0, *shape)
    data[:] = bytes(len(data))
    assert same_bits(dequantised(weight, 0, *shape), before)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_dense_vectors_are_kept_as_stored(type_name: str) -> None:
    data = random_bytes(type_name, 1, 7)
    weight = FORMATS[type_name].load([StoredRows(lambda: memoryview(data), (7,))], IN_MEMORY)
    assert isinstance(weight, Dense)
    assert weight.shape == (7,)
    assert weight.tensor.view(torch.uint8).numpy().tobytes() == data


def test_a_gguf_quantised_by_the_gguf_package_comes_back(tmp_path: Path) -> None:
    """Through a file: real values rather than random codes, and the reader's shapes."""
    values = numpy.random.default_rng(1).standard_normal((ROWS, COLUMNS), numpy.float32)
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    expected = {}
    for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"):
        kind = GGMLQuantizationType[name]  # those that the package can quantise to
        raw = gguf.quantize(values, kind)
        expected[name] = gguf.dequantize(raw, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    write(writer)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    for name, wanted in expected.items():
        entry = checkpoint.tensors[name]
        weight = WeightReader.of(checkpoint).locate(name, entry.shape).load()
        assert same_bits(dequantised(weight, 0, ROWS, COLUMNS), wanted)
        assert weight.resident_bytes == entry.nbytes
    checkpoint.close()


def write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("type_name", [*HALVES, *NOT_A_NUMBER])
@pytest.mark.parametrize("shape", [(64,), (2, 48), (2, 2, 256)])
def test_block_formats_refuse_shapes_without_whole_blocks(type_name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=r"two axes, the last a multiple of (32|256)"):
        FORMATS[type_name].load([StoredRows(lambda: memoryview(b""), shape)], IN_MEMORY)


def one_tensor(folder: Path, blocks: NDArray[numpy.uint8], type_name: str) -> Checkpoint:
    writer = GGUFWriter(folder / "model.gguf", "llama")
    writer.add_tensor("output.weight", blocks, raw_dtype=GGMLQuantizationType[type_name])
    write(writer)
    return open_checkpoint(folder / "model.gguf")


def test_an_unsupported_type_is_named_with_the_supported_ones(tmp_path: Path) -> None:
    checkpoint = one_tensor(tmp_path, numpy.zeros((2, 66), numpy.uint8), "IQ2_XXS")
    with pytest.raises(UnsupportedError) as caught:
        WeightReader.of(checkpoint).locate("output.weight", (2, 256))
    message = str(caught.value)
    assert "model.gguf" in message
    assert "'output.weight'" in message
    assert "IQ2_XXS" in message
    for name in FORMATS:
        assert name in message


@pytest.mark.parametrize("type_name", [*HALVES, *NOT_A_NUMBER])
def test_scales_that_are_no_numbers_are_refused_by_the_tensors_name(type_name: str, tmp_path: Path) -> None:
    _, block_bytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type_name]]
    blocks = numpy.frombuffer(bytes(random_bytes(type_name, 2, 256)), numpy.uint8)
    blocks = blocks.reshape(-1, block_bytes).copy()
    if type_name in NOT_A_NUMBER:
        blocks[-1, 0] = 255
    else:
        place = HALVES[type_name][-1]
        blocks[-1, place : place + 2] = numpy.array([numpy.inf], numpy.float16).view(numpy.uint8)
    checkpoint = one_tensor(tmp_path, blocks.reshape(2, -1), type_name)
    with pytest.raises(
        CheckpointError, match=r"model\.gguf: the scales of 'output\.weight' are not all finite"
    ):
        WeightReader.of(checkpoint).locate("output.weight", (2, 256)).load()


def test_every_file_is_listed() -> None:
    found = {
        value.type_name
        for module in pkgutil.iter_modules(pascaline.formats.__path__, "pascaline.formats.")
        for value in vars(importlib.import_module(module.name)).values()
        if isinstance(value, Format)
    }
    assert found == set(FORMATS)
    assert all(item.type_name == name for name, item in FORMATS.items())


@pytest.mark.parametrize("type_name", sorted(FORMATS))
@pytest.mark.parametrize("heads", [None, 4])
def test_what_is_brought_to_a_device_and_packed_there_is_the_same(type_name: str, heads: int | None) -> None:
    """A card's way, by pieces of a file through buffers, with memory of this machine in the card's place."""
    elements = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[type_name]][0]
    rows, columns = 4096, 1280
    data = memoryview(random_bytes(type_name, rows, columns))
    cut = len(data) // rows * 1024
    parts = [
        StoredRows(lambda: data[:cut], (1024, columns), heads),
        StoredRows(lambda: data[cut:], (rows - 1024, columns)),
    ]
    assert columns % elements == 0
    card = Card(torch.device("cpu"))
    card.CHUNK_BYTES = 1_000_003  # several pieces, of which the last is short
    there, here = (FORMATS[type_name].load(parts, to) for to in (card, IN_MEMORY))
    card.close()
    assert type(there) is type(here)
    assert_same(there, here)


def assert_same(one: object, other: object) -> None:
    """All tensors of two weights, whose numbers may be NaN, in bits."""
    if isinstance(one, torch.Tensor):
        assert isinstance(other, torch.Tensor)
        assert one.dtype == other.dtype
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    elif isinstance(one, tuple):
        assert isinstance(other, tuple)
        for item, its_other in zip(one, other, strict=True):
            assert_same(item, its_other)
    elif isinstance(one, Dense | Packed | Codes | Plane):
        for name, value in vars(one).items():
            assert_same(value, getattr(other, name))
    else:
        assert one == other
