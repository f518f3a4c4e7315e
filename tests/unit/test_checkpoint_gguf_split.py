"""GGUF models in several files, written by the gguf package."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy
import pytest
from gguf import GGUFWriter

from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.checkpoint.gguf_split import SplitName
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError

TENSORS = {
    name: numpy.random.default_rng(seed).standard_normal((4, 32)).astype(numpy.float32)
    for seed, name in enumerate(["token_embd.weight", "output.weight", "blk.0.attn_q.bias", "a", "b"])
}


def _write(path: Path, **split: object) -> list[Path]:
    """A model of five tensors; the files that it became."""
    writer = GGUFWriter(path, "llama", **split)  # type: ignore[arg-type]
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_token_list(["<s>", "</s>", "a"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages }}")
    for name, values in TENSORS.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(path.parent.glob(f"{path.stem}*.gguf"))


def _part(
    path: Path, number: int | None, count: int | None, total: int | None, tensors: tuple[str, ...]
) -> None:
    """One part that says of itself what is asked for."""
    writer = GGUFWriter(path, "llama")
    if number is not None:
        writer.add_uint16("split.no", number)
    if count is not None:
        writer.add_uint16("split.count", count)
    if total is not None:
        writer.add_int32("split.tensors.count", total)
    for name in tensors:
        writer.add_tensor(name, TENSORS["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("small_first_shard", [False, True])
@pytest.mark.parametrize("given", [0, -1])
def test_any_part_opens_the_whole(tmp_path: Path, small_first_shard: bool, given: int) -> None:
    [whole_path] = _write(tmp_path / "whole.gguf")
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2, small_first_shard=small_first_shard)
    assert len(parts) == 3 + small_first_shard
    whole, split = open_checkpoint(whole_path), open_checkpoint(parts[given])
    assert split.path == parts[0]
    assert split.hf_config == whole.hf_config
    assert split.hf_config["attention_bias"] is True
    assert split.hf_config["tie_word_embeddings"] is False
    assert split.chat_template == whole.chat_template == "{{ messages }}"
    assert split.tokenizer_source().gguf_metadata == whole.tokenizer_source().gguf_metadata
    assert split.tensors == whole.tensors
    for name, values in TENSORS.items():
        assert bytes(split.read(name)) == values.tobytes()
        split.release(name)
        assert bytes(split.read(name)) == values.tobytes()
    for checkpoint in (whole, split):
        checkpoint.close()


def test_links_in_another_folder(tmp_path: Path) -> None:
    """As the hub's cache keeps them."""
    (tmp_path / "blobs").mkdir()
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2)
    for number, part in enumerate(parts):
        part.rename(tmp_path / "blobs" / str(number))
        part.symlink_to(Path("blobs") / str(number))
    checkpoint = GgufCheckpoint(parts[1])
    assert set(checkpoint.tensors) == set(TENSORS)
    checkpoint.close()


def test_opening_reads_no_tensors(tmp_path: Path) -> None:
    """1.3 GB in 20 files, whose tensors are holes, open at once."""
    rows = 64 << 18
    for number in range(20):
        path = tmp_path / f"m-{number + 1:05d}-of-00020.gguf"
        writer = GGUFWriter(path, "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 20)
        writer.add_tensor_info(f"blk.{number}", (rows, 1), numpy.dtype("float32"), 4 * rows)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        os.truncate(path, path.stat().st_size + 4 * rows + 32)
    start = time.process_time()
    checkpoint = GgufCheckpoint(path)
    assert time.process_time() - start < 0.25
    assert sum(entry.nbytes for entry in checkpoint.tensors.values()) == 20 * 4 * rows
    checkpoint.close()


def test_missing_parts_are_named(tmp_path: Path) -> None:
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2)
    parts[1].unlink()
    for part in (parts[0], parts[2]):
        with pytest.raises(CheckpointError, match=r"lacks 1 of the 3 parts of m: m-00002-of-00003\.gguf"):
            open_checkpoint(part)


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2)
    parts[1].write_bytes(parts[1].read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"m-00002-of-00003\.gguf is damaged or cut short"):
        open_checkpoint(parts[0])


def test_parts_by_other_names(tmp_path: Path) -> None:
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2)
    shutil.copy(parts[1], tmp_path / "renamed.gguf")
    with pytest.raises(CheckpointError, match=r"one of 3 parts .*expected NAME-00002-of-00003\.gguf"):
        open_checkpoint(tmp_path / "renamed.gguf")
    first = parts[0].read_bytes()
    parts[0].write_bytes(parts[1].read_bytes())
    parts[1].write_bytes(first)
    with pytest.raises(
        CheckpointError, match=r"is part 2 of 3 by what it says itself \(expected part 1 of 3"
    ):
        open_checkpoint(parts[0])


def test_a_part_too_many(tmp_path: Path) -> None:
    parts = _write(tmp_path / "m.gguf", split_max_tensors=2)
    extra = tmp_path / "m-00004-of-00003.gguf"
    shutil.copy(parts[1], extra)
    with pytest.raises(CheckpointError, match=r"m-00004-of-00003\.gguf is a part too many"):
        open_checkpoint(parts[0])
    with pytest.raises(CheckpointError, match="is one of 3 parts of a model, by another name"):
        open_checkpoint(extra)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((0, 2, 2, ("a",)), (1, 2, 2, ("a",)), r"'a' is in m-00001-of-00002\.gguf and in m-00002-of-00002"),
        ((0, 2, 3, ("a",)), (1, 2, 3, ("b",)), r"have 2 tensors together \(expected 3, as the first says"),
        ((0, 2, 1, ("a",)), (1, 2, 1, ("b",)), r"have 2 tensors together \(expected 1, as the first says"),
        ((0, 2, 2, ("a",)), (1, 3, 2, ("b",)), r"is part 2 of 3 by what it says"),
        ((0, 2, 2, ("a",)), (0, 2, 2, ("b",)), r"is part 1 of 2 by what it says itself \(expected part 2"),
        (
            (None, None, None, ("a",)),
            (1, 2, 2, ("b",)),
            r"m-00001-of-00002\.gguf is no part of a split model",
        ),
    ],
)
def test_parts_that_do_not_belong_together(
    tmp_path: Path,
    first: tuple[int | None, int | None, int | None, tuple[str, ...]],
    second: tuple[int | None, int | None, int | None, tuple[str, ...]],
    message: str,
) -> None:
    _part(tmp_path / "m-00001-of-00002.gguf", *first)
    _part(tmp_path / "m-00002-of-00002.gguf", *second)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/m-00002-of-00003.gguf", SplitName("a/m", 2, 3)),
        ("m-00001-of-00001.gguf", None),
        ("m-00004-of-00003.gguf", None),
        ("m-00000-of-00003.gguf", None),
        ("m-1-of-3.gguf", None),
        ("m.gguf", None),
        ("-00001-of-00003.gguf", None),
    ],
)
def test_names_of_parts(name: str, expected: SplitName | None) -> None:
    assert SplitName.parse(name) == expected
    if expected is not None:
        assert expected.part(expected.number) == name
