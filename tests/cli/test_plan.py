"""pascaline plan, as users run it: fits or not, its JSON, mistakes, and that torch is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from outcome import Run

from pascaline.core.units import format_bytes
from pascaline.llm.offline import LLM
from pascaline.report.run_record import Row

FIELDS = {
    "model": str,
    "gpu": str,
    "fits": bool,
    "weights_bytes": int,
    "kv_bytes_per_token": int,
    "activation_bytes": int,
    "runtime_bytes": int,
    "total_bytes": int,
    "max_context": int,
    "predicted": dict,
    "decisions": list,
    "rows": list,
}


def plan(run: Run, *arguments: str, code: int = 0) -> dict[str, Any]:
    outcome = run("plan", *arguments, "--json")
    assert outcome.code == code, outcome
    said: dict[str, Any] = json.loads(outcome.stdout)
    return said


@pytest.mark.parametrize("gpu", ["cpu", "Tesla P40", "TITAN X (Pascal)", "RTX 4090"])
def test_the_fields_of_the_contract(run: Run, demo_path: Path, gpu: str) -> None:
    said = plan(run, "demo", "--gpu", gpu)
    for name, kind in FIELDS.items():
        assert isinstance(said[name], kind), name
    parts = ("weights_bytes", "kv_bytes", "activation_bytes", "runtime_bytes")
    assert said["total_bytes"] == sum(said[part] for part in parts)
    assert said["kv_bytes"] == said["kv_bytes_per_token"] * said["context"]
    assert said["fits"]
    assert said["total_bytes"] <= said["usable_bytes"]
    assert said["max_context"] == 8192
    # 30 layers of 3 M parameters: a card has read them before the next kernel can start.
    assert said["predicted"]["bound_by"] == ("memory" if gpu == "cpu" else "latency")
    # The planner's own roofs are never exceeded.
    for phase in ("decode", "prefill"):
        predicted, bound = (said["predicted"][f"{which}{phase}_tokens_per_s"] for which in ("", "bound_"))
        assert predicted > 0
        assert predicted <= bound
    assert {row.phase for row in msgspec.convert(said["rows"], list[Row])} == {"prefill", "decode"}
    for decision in said["decisions"]:
        assert decision["choice"]
        assert decision["reason"]


def test_memory_is_what_the_engine_allocates(run: Run, demo_path: Path) -> None:
    said = plan(run, "demo", "--gpu", "cpu", "--context", "1024")
    outcome = run(
        *("generate", "demo", "--prompt", "x", "--max-tokens", "1", "--device", "cpu"),
        *("--max-model-len", "1024", "--json"),
    )
    memory = json.loads(outcome.stdout)["memory"]
    assert (said["weights_bytes"], said["kv_bytes"]) == (memory["weights_bytes"], memory["kv_bytes"])


def test_the_unit_that_a_card_has_is_chosen(run: Run, demo_path: Path) -> None:
    def prefill(gpu: str) -> dict[str, Any]:
        decisions = plan(run, "demo", "--gpu", gpu)["decisions"]
        [found] = [
            each
            for each in decisions
            if (each["op"], each["phase"], each["weights"]) == ("linear", "prefill", "Q4_1")
        ]
        return dict(found)

    pascal = prefill("TITAN X (Pascal)")
    assert pascal["choice"] == "dp4a int8"
    assert "1/64 of the fp32 rate" in pascal["reason"]
    seconds = {each["choice"]: each["predicted_s"] for each in pascal["alternatives"]}
    assert pascal["predicted_s"] < seconds["fp32"] < seconds["half arithmetic"] / 20
    maxwell = prefill("GTX TITAN X")
    assert (maxwell["choice"], maxwell["alternatives"]) == ("fp32", [])
    assert "tensor cores" in prefill("V100")["choice"]


def test_a_card_that_is_too_small_is_told_what_would_fit(run: Run, demo_path: Path) -> None:
    asked = ("demo", "--gpu", "GTX 1050", "--context", "8192", "--concurrency", "8")
    said = plan(run, *asked, code=1)
    assert not said["fits"]
    assert said["total_bytes"] > said["usable_bytes"]
    assert said["concurrent_users"] < 8
    assert said["what_would_fit"]
    for each in said["what_would_fit"]:
        given = dict(zip(asked[1::2], asked[2::2], strict=True))
        words = each["arguments"].replace("'", "").split(" --")
        given |= {f"--{word.removeprefix('--').split(' ', 1)[0]}": word.split(" ", 1)[1] for word in words}
        changed = plan(run, "demo", *(item for pair in given.items() for item in pair))
        assert changed["fits"], each
        assert changed["total_bytes"] == each["total_bytes"]
        assert each["saves_bytes"] == said["total_bytes"] - changed["total_bytes"]
    shown = run("plan", *asked)
    assert shown.code == 1
    assert "does not fit on GeForce GTX 1050" in shown.stdout
    assert "The smallest changes that make it fit" in shown.stdout


def test_what_ifs(run: Run, demo_path: Path) -> None:
    now = plan(run, "demo", "--gpu", "p40", "--context", "2048")
    larger = plan(run, "demo", "--gpu", "p40", "--context", "2048", "--format", "F16")
    wide, brain, narrow = (
        plan(run, "demo", "--gpu", "p40", "--context", "2048", "--kv-dtype", name)
        for name in ("fp32", "bf16", "int8")
    )
    four = plan(run, "demo", "--gpu", "p40", "--context", "2048", "--concurrency", "4")
    linears = 30 * (576 * (576 + 2 * 192) + 576 * 576 + 3 * 576 * 1536)
    # Cards hold packed weights in slabs of 128 inputs: 640 of the 576.
    held = 30 * (640 * (576 + 2 * 192) + 640 * 576 + 2 * 640 * 1536 + 1536 * 576)
    assert larger["weights_bytes"] - now["weights_bytes"] == linears * 2 - held * 5 // 8
    assert now["kv_bytes_per_token"] == brain["kv_bytes_per_token"] == 2 * 2 * 30 * 3 * 64
    assert wide["kv_bytes_per_token"] == 4 * 2 * 30 * 3 * 64
    assert narrow["kv_bytes_per_token"] == 2 * 30 * 3 * (64 + 4)
    assert four["kv_bytes"] == 4 * now["kv_bytes"]
    each = four["predicted"]["decode_tokens_per_s_of_one_sequence"]
    assert four["predicted"]["decode_tokens_per_s"] == pytest.approx(4 * each)
    assert each < now["predicted"]["decode_tokens_per_s"] < four["predicted"]["decode_tokens_per_s"]


def test_the_pool_of_a_server_is_told(run: Run, demo_path: Path) -> None:
    asked = ("demo", "--gpu", "cpu", "--context", "512")
    one, eight = plan(run, *asked), plan(run, *asked, "--concurrency", "8")
    [note] = [each for each in one["notes"] if "serve" in each]
    assert f"up to 8 contexts where memory allows, {format_bytes(eight['kv_bytes'])} at 512 tokens" in note
    assert not [each for each in eight["notes"] if "contexts" in each]
    assert eight["kv_bytes"] == 8 * one["kv_bytes"]


def test_one_screen(run: Run, demo_path: Path) -> None:
    outcome = run("plan", "demo", "--gpu", "p40")
    assert outcome.code == 0
    assert len(outcome.stdout.splitlines()) <= 30
    for part in ("demo fits on Tesla P40", "weights", "Context  8192", "Decode", "Prompt", "modelled, ±"):
        assert part in outcome.stdout
    assert "measured" not in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "--gpu", "GTX 1080 Tj"), "no card is called 'GTX 1080 Tj' (expected a name such as"),
        (("demo", "--gpu", ""), "no card is called ''"),
        (("demo", "--context", "8193"), "8193 tokens was asked for (expected at most the 8192"),
        (("demo", "--context", "0"), "context is 0 (expected at least 2)"),
        (("demo", "--concurrency", "0"), "concurrency is 0 (expected at least 1)"),
        (("demo", "--concurrency", "-1"), "concurrency is -1"),
        (("demo", "--concurrency", "1000000000000"), "expected at most 4096"),
        (("demo", "--format", "Q9_K"), "no format is called 'Q9_K'"),
        (("no-such-model",), "no such model: 'no-such-model'"),
        (("/dev/zero",), "is a pipe or a device, not a file"),
    ],
)
def test_mistakes(run: Run, demo_path: Path, arguments: tuple[str, ...], said: str) -> None:
    outcome = run("plan", *arguments)
    assert (outcome.code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("pascaline: ")
    assert said in outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1


def test_damaged_and_strange_models(run: Run, tmp_path: Path, demo_path: Path) -> None:
    experts = {"model_type": "mixtral", "num_local_experts": 8, "eos_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps(experts))
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    outcome = run("plan", str(tmp_path), "--gpu", "p40")
    assert outcome.code == 2
    assert "the model's architecture is 'mixtral'" in outcome.stderr
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(demo_path.read_bytes()[:5000])
    outcome = run("plan", str(cut))
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "damaged or cut short" in outcome.stderr


def test_without_torch(demo_path: Path) -> None:
    code = (
        "import sys; from pascaline.cli.app import main\n"
        "sys.argv = ['pascaline', 'plan', 'demo', '--gpu', GPU]\n"
        "try: main()\nexcept SystemExit as ended: assert not ended.code, ended.code\n"
        "assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules"
    )
    for gpu in ("cpu", "p40"):
        done = subprocess.run(
            [sys.executable, "-c", code.replace("GPU", repr(gpu))],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_terminal_and_any_folder_name(tmp_path: Path, demo_path: Path, encoding: str) -> None:
    folder = os.fsencode(tmp_path) + b"/n\xff\x1b[31m\xc3\xa9"
    os.mkdir(folder)
    os.symlink(demo_path, folder + b"/demo.gguf")
    command = (sys.executable, "-m", "pascaline.cli.app", "plan", folder + b"/demo.gguf", "--gpu", "p40")
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    for options in ((), ("--json",)):
        done = subprocess.run([*command, *options], capture_output=True, check=False, env=environment)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"\x1b" not in done.stdout
        if options:
            assert os.fsencode(json.loads(done.stdout)["model"]) == folder + b"/demo.gguf"


def test_a_reader_that_leaves(demo_path: Path) -> None:
    command = f"{sys.executable} -m pascaline.cli.app plan demo --gpu p40 | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""


SETTINGS = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
}


def test_settings_alone_are_planned_and_said_to_be(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    said = plan(run, str(tmp_path), "--gpu", "Tesla P40")
    # Embedding and head in bf16; per layer q, k, v, o, gate, up and down in 4 bits with a bf16 scale for
    # 128 inputs; gains in fp32.
    linears = 256 * (256 + 2 * 128 + 256) + 3 * 256 * 512
    expected = 2 * 2 * 512 * 256 + 2 * (linears // 2 + linears // 128 * 2) + 4 * 5 * 256
    assert said["weights_bytes"] == expected
    assert any("has no weights: planned as its config.json tells" in note for note in said["notes"])


def test_made_up_weights_take_what_is_planned(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS))
    planned = plan(run, str(tmp_path), "--gpu", "cpu")["weights_bytes"]
    llm = LLM(tmp_path, device="cpu", load_format="dummy", max_sequences=1)
    assert llm.ready.weights_bytes == planned
    outcome = run("generate", str(tmp_path), "--prompt", "x", "--device", "cpu", "--load-format", "dummy")
    assert outcome.code == 2
    assert outcome.stdout == ""
    assert "token ids alone" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    outcome = run("generate", str(tmp_path), "--prompt", "x", "--device", "cpu")
    assert outcome.code == 2
    assert "has no weights in safetensors format" in outcome.stderr
