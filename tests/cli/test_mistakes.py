"""Every mistake of a user ends with exit code 2 and one message that says what to do."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import numpy as np
import psutil
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from outcome import Run

from running_server import RunningServer

# Byte-level BPE's alphabet, one character a byte.
ALPHABET = [*map(chr, [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144)])]
PROMPT = ("--prompt", "Hello", "--max-tokens", "1")


def message(run: Run, *arguments: str) -> str:
    """The one message of a command that must fail."""
    outcome = run(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.stdout == ""
    assert "Traceback" not in outcome.stderr
    lines = [line for line in outcome.stderr.splitlines() if not line.startswith("loading weights:")]
    own = [line for line in lines if line.startswith("pascaline: ")]
    usage = [line for line in lines if re.search(r"─ Error ─|^Error:", line)]
    assert len(own) + len(usage) == 1, outcome.stderr
    assert not own or lines == own  # nothing besides it
    # The frame and the line ends of a usage message are those of the terminal's width.
    return " ".join("".join(lines).replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("generate", "demo", *PROMPT, "--temperature", "-1"), "--temperature"),
        (("generate", "demo", *PROMPT, "--top-p", "2"), "--top-p"),
        (("generate", "demo", *PROMPT, "--top-p", "0"), "top_p is 0"),
        (("generate", "demo", *PROMPT, "--max-tokens", "0"), "--max-tokens"),
        (("generate", "demo", *PROMPT, "--max-tokens", "many"), "--max-tokens"),
        (("generate", "demo", *PROMPT, "--device", "foo"), "--device"),
        (
            ("generate", "demo", *PROMPT, "--logprobs", "99"),
            "logprobs is 99 (expected a whole number, from 0 to 20)",
        ),
        (("generate", "demo", *PROMPT, "--gpu-memory-utilization", "1.5"), "--gpu-memory-utilization"),
        (("generate", "demo", *PROMPT, "--max-model-len", "1"), "--max-model-len"),
        (
            ("generate", "demo", *PROMPT, "--max-model-len", "9000"),
            "9000 tokens was asked for (expected at most the 8192",
        ),
        (("generate", "demo", *PROMPT, "--beams", "4"), "--beams"),
        (("generate", "demo"), "--prompt"),
        (("generate",), "MODEL"),
        (("generate", "demo", "--prompt", ""), "the prompt is empty"),
        (("generate", "demo", "--prompt", "word " * 40, "--max-model-len", "16"), "context of 16 tokens"),
        (
            ("generate", "demo", "--chat", "--prompt", "word " * 40, "--max-model-len", "16"),
            "context of 16 tokens",
        ),
        (("serve", "demo", "--port", "70000"), "--port"),
        (("serve", "demo", "--port", "0", "--host", "192.0.2.1"), "cannot listen on 192.0.2.1:0"),
        (("serve", "demo", "--port", "0", "--api-key", ""), "the API key is empty"),
        (("serve", "demo", "--max-sequences", "8", "--max-batch-tokens", "4"), "max_batch_tokens is 4"),
        (("translate", "demo"), "translate"),
        (
            ("generate", "no-such-model", *PROMPT),
            "no such model: 'no-such-model' (expected `demo`, a model folder",
        ),
        (("chat", "./missing.gguf"), "no such model: './missing.gguf'"),
        (("serve", "", "--port", "0"), "no such model: ''"),
    ],
)
def test_wrong_words(run: Run, arguments: tuple[str, ...], said: str) -> None:
    assert said in message(run, *arguments)


def test_cuda_without_a_card(run: Run) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    assert "finds no usable CUDA device" in message(run, "generate", "demo", *PROMPT, "--device", "cuda")


def test_port_in_use_is_told_before_anything_is_loaded(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        # A model that does not exist: it is not even looked for.
        said = message(run, "serve", "no-such-model", "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use by another program. Choose another: --port {port + 1}" in said


def test_port_in_use_as_a_program(server: RunningServer) -> None:
    second = RunningServer(("demo", "--port", server.url.rpartition(":")[2]))
    assert second.wait() == 2
    [line] = second.stderr
    assert line.startswith("pascaline: port ")


def test_not_enough_memory_says_what_would_fit(run: Run) -> None:
    share = ("--gpu-memory-utilization", "0.01")
    nothing = message(run, "generate", "demo", *PROMPT, *share)
    assert re.search(r"does not fit .*weights \d.* activations \d.* available", nothing)
    [amount, unit] = re.search(r"expected at least ([\d.]+) ([MGT]iB) available", nothing).groups()  # type: ignore[union-attr]
    needed = float(amount) * {"MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit] * 0.01
    # Room for half of the demo's longest context: 8192 tokens of 30 layers, 3 heads, 64 fp16 elements.
    half = 8192 * 30 * 2 * 3 * 64 * 2 // 2
    share = ("--gpu-memory-utilization", f"{(needed + half) / psutil.virtual_memory().available:.5f}")
    tight = message(run, "generate", "demo", *PROMPT, *share, "--max-model-len", "8192")
    found = re.search(r"a context of 8192 tokens needs .* of KV cache, .*--max-model-len (\d+) fits", tight)
    assert found, tight
    assert run("generate", "demo", *PROMPT, *share, "--max-model-len", str(int(found[1]) // 2)).code == 0


def test_empty_folder_and_folder_without_weights(run: Run, tmp_path: Path) -> None:
    assert f"{tmp_path}" in message(run, "generate", str(tmp_path), *PROMPT)
    settings = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert "weights" in message(run, "serve", str(tmp_path), "--port", "0")


def write_gguf(
    path: Path, architecture: str = "llama", *, feed_forward: GGMLQuantizationType | None = None
) -> None:
    """A model of one layer with a byte vocabulary; `feed_forward`, filled with zeros, in that type."""
    size, tokens = 256, [*ALPHABET, "ab", "<|end|>"]
    writer = GGUFWriter(path, architecture)
    for key, value in {
        "embedding_length": size,
        "feed_forward_length": size,
        "block_count": 1,
        "context_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 4,
    }.items():
        writer.add_uint32(f"{architecture}.{key}", value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 1) + [TokenType.CONTROL])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(len(tokens) - 1)
    square = np.zeros((size, size), np.float32)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), size), np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down"):
        writer.add_tensor(f"blk.0.{name}.weight", square)
    if feed_forward is None:
        writer.add_tensor("blk.0.ffn_up.weight", square)
    else:
        quantised = np.zeros((size, 66), np.uint8)  # 66 bytes a block of 256 IQ2_XXS elements
        writer.add_tensor("blk.0.ffn_up.weight", quantised, raw_dtype=feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_unsupported_architecture_is_named(run: Run, tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", "mamba")
    assert re.search(
        r"'?mamba.* \(expected .*llama", message(run, "generate", str(tmp_path / "m.gguf"), *PROMPT)
    )


def test_unsupported_format_is_named(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path)
    assert run("generate", str(path), *PROMPT).code == 0  # nothing else is wrong with it
    write_gguf(path, feed_forward=GGMLQuantizationType.IQ2_XXS)
    said = message(run, "generate", str(path), *PROMPT)
    assert "m.gguf: tensor 'blk.0.ffn_up.weight' is stored as IQ2_XXS (expected F32, F16," in said


def test_file_that_is_cut_short_or_no_model(run: Run, tmp_path: Path, demo_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with demo_path.open("rb") as whole:
        cut.write_bytes(whole.read(5_000_000))
    assert str(cut) in message(run, "generate", str(cut), *PROMPT)
    cut.write_bytes(cut.read_bytes()[:1000])
    assert str(cut) in message(run, "serve", str(cut), "--port", "0")
    other = tmp_path / "notes.txt"
    other.write_text("no model at all")
    assert "is not a model" in message(run, "generate", str(other), *PROMPT)
