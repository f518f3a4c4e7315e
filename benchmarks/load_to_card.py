"""Loading Qwen2.5-7B in GPTQ-Int4 to a card, stage by stage, and the same model made up there.

    PYTHONPATH=src python benchmarks/load_to_card.py [--layers 28] [--folder FOLDER] [--output FILE.json]

Writes a checkpoint with random weights (5.5 GB of 28 layers) and times, from the page cache: reading it;
filling pinned memory; copying that to the card, which is what the bus allows; both together; unpacking beside
them; and the whole, with weights laid out in slabs. Compares a layer's weights on the card with those that
memory gets, bit for bit. A part that fails says why, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.cli.ending import run
from pascaline.core.progress import ignore_progress
from pascaline.core.threads import compute_threads
from pascaline.engine.device import settle_device
from pascaline.engine.loader import find_weights, load_weights
from pascaline.formats import loading_to
from pascaline.formats.destination import Card
from pascaline.kernels import KERNELS, Chip, Launcher, Policy
from pascaline.kernels.cuda_linear import in_slabs
from pascaline.layers.decoder import Decoder, build
from pascaline.models import read_config
from pascaline.weights import Dense, Packed, Weight
from pascaline.workload.told_directory import open_dummy

GROUP_SIZE = 128
SETTINGS: dict[str, Any] = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "hidden_act": "silu",
    "eos_token_id": 151645,
    "quantization_config": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP_SIZE,
        "sym": True,
        "desc_act": False,
    },
}
PIECE_BYTES = 64 << 20


def write_checkpoint(folder: Path, layers: int) -> int:
    """A folder with the model's settings and random weights; returns the bytes of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SETTINGS | {"num_hidden_layers": layers}))
    file = folder / "model.safetensors"
    file.unlink(missing_ok=True)
    tensors = open_dummy(folder).tensors
    header, start = {}, 0
    for name, entry in tensors.items():
        offsets = [start, start + entry.nbytes]
        header[name] = {"dtype": entry.type_name, "shape": entry.shape, "data_offsets": offsets}
        start += entry.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = numpy.random.default_rng(0).integers(0, 256, PIECE_BYTES, numpy.uint8)
    halves = numpy.full(PIECE_BYTES // 2, 0.01, numpy.float16).view(numpy.uint8)
    zeros = numpy.full(PIECE_BYTES, 0x77, numpy.uint8)
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, entry in tensors.items():
            if name.endswith(".g_idx"):
                out.write((numpy.arange(entry.shape[0], dtype=numpy.int32) // GROUP_SIZE).tobytes())
                continue
            source = halves if entry.type_name == "F16" else zeros if name.endswith("qzeros") else random
            for first in range(0, entry.nbytes, PIECE_BYTES):
                out.write(source[: min(PIECE_BYTES, entry.nbytes - first)].data)
    return start


def read_file(file: Path) -> None:
    memory = numpy.empty(PIECE_BYTES, numpy.uint8).data
    with file.open("rb", buffering=0) as opened:
        while opened.readinto(memory):
            pass


def fill_alone(card: Card, checkpoint: Checkpoint) -> None:
    buffer, _ = next(card._buffers)
    for name in checkpoint.tensors:
        data = numpy.frombuffer(checkpoint.read(name), numpy.uint8)
        for start in range(0, len(data), card.CHUNK_BYTES):
            piece = data[start : start + card.CHUNK_BYTES]
            card._fill(buffer.numpy()[: len(piece)], piece)


def copy_alone(device: torch.device, nbytes: int) -> None:
    """As many bytes over the bus from pinned memory."""
    buffer = torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(PIECE_BYTES, dtype=torch.uint8, device=device)
    for _ in range(-(-nbytes // PIECE_BYTES)):
        there.copy_(buffer, non_blocking=True)
    torch.cuda.synchronize(device)


def model_of(checkpoint: Checkpoint, device: torch.device) -> Decoder:
    config = read_config(checkpoint.hf_config, checkpoint.container)
    return build(config, Launcher(Policy(Chip(device), KERNELS)))


def bring_all(checkpoint: Checkpoint, device: torch.device) -> None:
    with loading_to(device) as to:
        for name in checkpoint.tensors:
            to.bring(checkpoint.read(name))


def unpack_all(checkpoint: Checkpoint, device: torch.device) -> None:
    found = find_weights(model_of(checkpoint, device), checkpoint)
    with loading_to(device) as to:
        for item in found:
            for stored, _ in item.stored:
                stored.load(to)


def load_all(checkpoint: Checkpoint, device: torch.device) -> None:
    model = model_of(checkpoint, device)
    load_weights(model, checkpoint, find_weights(model, checkpoint), device, in_slabs, ignore_progress)
    torch.cuda.synchronize(device)


def alike(checkpoint: Checkpoint, device: torch.device) -> dict[str, bool]:
    """Whether the first layer's weights are the same on the card and in memory."""
    found = [
        item
        for item in find_weights(model_of(checkpoint, device), checkpoint)
        if "layers.0." in item.names[0]
    ]
    same = {}
    for item in found:
        for stored, _ in item.stored:
            here = stored.load()
            with loading_to(device) as to:
                there = stored.load(to)
            same[stored.names[0]] = _values(here, here.shape) == _values(there, here.shape)
    return same


def _values(weight: Weight, shape: tuple[int, ...]) -> int:
    """A number that differs where any bit of any of its arrays does."""
    if isinstance(weight, Packed):
        parts = [weight.scales, *(plane.data for plane in weight.codes.planes)]
    else:
        assert isinstance(weight, Dense)  # as files have them
        parts = [weight.tensor]
    return hash((shape, *(part.contiguous().cpu().view(torch.uint8).numpy().tobytes() for part in parts)))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=SETTINGS["num_hidden_layers"])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(arguments.folder or Path(scratch), arguments.layers)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text)
    return 0


def measure(folder: Path, layers: int) -> dict[str, Any]:
    device, _ = settle_device("cuda")
    torch.zeros(1, device=device)  # the context is none of what is measured
    began = time.perf_counter()
    nbytes = write_checkpoint(folder, layers)
    result: dict[str, Any] = {
        "card": torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "threads": compute_threads(),
        "layers": layers,
        "bytes": nbytes,
        "written_s": time.perf_counter() - began,
    }
    whole, made_up = open_checkpoint(folder), open_dummy(folder)
    card = Card(device)
    parts: dict[str, Callable[[], object]] = {
        "read_file": lambda: read_file(folder / "model.safetensors"),
        "fill_pinned": lambda: fill_alone(card, whole),
        "copy_pinned": lambda: copy_alone(device, nbytes),
        "bring": lambda: bring_all(whole, device),
        "bring_and_unpack": lambda: unpack_all(whole, device),
        "load_and_lay_out": lambda: load_all(whole, device),
        "make_up_and_lay_out": lambda: load_all(made_up, device),
    }
    for name, part in parts.items():
        seconds = []
        try:
            for _ in range(2):  # the first may wait for a disk, for libraries or for code
                began = time.perf_counter()
                part()
                seconds.append(time.perf_counter() - began)
        except Exception:  # this part has none, and the others go on
            result[name] = {"failed": traceback.format_exc()}
            continue
        result[name] = {"first_s": seconds[0], "second_s": seconds[1], "gb_per_s": nbytes / seconds[1] / 1e9}
    try:
        result["alike"] = alike(whole, device)
    except Exception:
        result["alike"] = {"failed": traceback.format_exc()}
    result["peak_bytes"] = torch.cuda.max_memory_allocated(device)
    card.close()
    return result


if __name__ == "__main__":
    run(main)
