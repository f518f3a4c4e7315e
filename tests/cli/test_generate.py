"""pascaline generate: its JSON, its text, and how it ends early."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from outcome import Outcome, Run

from running_server import command

PARIS = ("generate", "demo", "--prompt", "The capital of France is", "--max-tokens", "3")


def described(outcome: Outcome) -> dict[str, Any]:
    """The one JSON object on stdout."""
    assert outcome.code == 0, outcome
    assert outcome.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(outcome.stdout)
    return found


def test_json_has_all_that_the_contract_names(run: Run, demo_path: Path) -> None:
    found = described(run(*PARIS, "--json"))
    assert list(found) == [
        "model",
        "device",
        "prompt_token_ids",
        "token_ids",
        "text",
        "finish_reason",
        "logprobs",
        "timing",
        "memory",
    ]
    assert (found["model"], found["device"]) == ("demo", "cpu")
    assert found["prompt_token_ids"] == [504, 3575, 282, 4649, 314]
    assert (found["token_ids"], found["text"]) == ([7042, 30, 198], " Paris.\n")
    assert (found["finish_reason"], found["logprobs"]) == ("length", None)
    timing, memory = found["timing"], found["memory"]
    assert list(timing) == ["load_s", "prefill_s", "decode_s", "prefill_tokens_per_s", "decode_tokens_per_s"]
    assert all(value > 0 for value in timing.values())
    assert timing["prefill_tokens_per_s"] == pytest.approx(5 / timing["prefill_s"])
    assert timing["decode_tokens_per_s"] == pytest.approx(2 / timing["decode_s"])
    assert list(memory) == ["weights_bytes", "kv_bytes", "peak_bytes"]
    # Kept packed: no more than the file, which also holds the vocabulary.
    assert 0.9 * demo_path.stat().st_size < memory["weights_bytes"] <= demo_path.stat().st_size
    assert memory["peak_bytes"] > memory["weights_bytes"] + 1


def test_memory_is_what_is_planned(run: Run) -> None:
    taken = described(run(*PARIS, "--json"))["memory"]
    planned = json.loads(run("plan", "demo", "--gpu", "cpu", "--json").stdout)
    assert taken["weights_bytes"] == planned["weights_bytes"]
    assert taken["kv_bytes"] % (16 * planned["kv_bytes_per_token"]) == 0


def test_one_token_has_no_decode_rate(run: Run) -> None:
    found = described(run(*PARIS[:-1], "1", "--json"))
    assert (found["timing"]["decode_s"], found["timing"]["decode_tokens_per_s"]) == (0.0, None)


def test_logprobs(run: Run) -> None:
    found = described(run(*PARIS, "--json", "--logprobs", "2"))
    assert [entry["token_id"] for entry in found["logprobs"]] == found["token_ids"]
    for entry in found["logprobs"]:
        (best, likeliest), (second, less) = entry["top"]
        assert (best, likeliest) == (entry["token_id"], entry["logprob"])
        assert second != best
        assert less < likeliest < 0
        assert math.exp(likeliest) + math.exp(less) <= 1 + 1e-6
    chosen_alone = described(run(*PARIS, "--json", "--logprobs", "0"))["logprobs"]
    assert [entry["top"] for entry in chosen_alone] == [[], [], []]


def test_seed_repeats(run: Run) -> None:
    sampled = (*PARIS, "--json", "--temperature", "1.5")
    texts = [described(run(*sampled, "--seed", seed))["token_ids"] for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]


def test_chat_ends_with_the_turn_unless_told_to_go_on(run: Run) -> None:
    asked = ("generate", "demo", "--chat", "--prompt", "Say only: yes", "--max-tokens", "6", "--json")
    found = described(run(*asked))
    assert (found["finish_reason"], found["text"]) == ("stop", "Yes.")
    assert (len(found["token_ids"]), found["token_ids"][-1]) == (3, 2)  # <|im_end|> is not in the text
    plain = described(run(*asked[:2], *asked[3:]))
    assert len(found["prompt_token_ids"]) > len(plain["prompt_token_ids"])
    longer = described(run(*asked, "--ignore-eos"))
    assert (longer["finish_reason"], len(longer["token_ids"])) == ("length", 6)
    assert longer["token_ids"][:3] == found["token_ids"]


def test_text_alone_on_stdout(run: Run) -> None:
    outcome = run(*PARIS)
    assert (outcome.code, outcome.stdout) == (0, " Paris.\n\n")
    assert all(line.startswith("loading weights:") for line in outcome.stderr.splitlines())


def start_long_answer() -> subprocess.Popen[bytes]:
    """A generation that writes as it goes and would take minutes."""
    arguments = ("generate", "demo", "--prompt", "Once upon a time", "--max-tokens", "8000", "--ignore-eos")
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_ctrl_c_ends_it_cleanly() -> None:
    with start_long_answer() as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"Exception" not in errors


def test_reader_that_goes_away_ends_it_cleanly() -> None:
    with start_long_answer() as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(1)
        process.stdout.close()
        process.wait(60)
        errors = process.stderr.read()
    assert process.returncode == 1
    assert b"Traceback" not in errors
    assert b"Broken" not in errors


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules that a command has imported."""
    script = (
        "import sys; from pascaline.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return set(ran.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("verb", [(), ("generate",), ("chat",), ("serve",)], ids=" ".join)
def test_help_imports_nothing_slow(verb: tuple[str, ...]) -> None:
    slow = {"torch", "numpy", "fastapi", "uvicorn", "huggingface_hub", "tokenizers", "transformers"}
    assert not modules_after(*verb, "--help") & slow


def test_running_needs_neither_transformers_nor_the_web_framework() -> None:
    modules = modules_after(*PARIS)
    assert "torch" in modules
    assert not modules & {"transformers", "fastapi", "uvicorn", "gguf", "huggingface_hub"}
