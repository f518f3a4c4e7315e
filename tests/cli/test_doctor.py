"""`pascaline doctor` on the real machine."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from outcome import Run

from pascaline.doctor.checks import CHECKS

FIELDS = {"name", "status", "seen", "expected", "remedy"}


@pytest.fixture
def refusing_hub() -> Iterator[str]:
    """A hub that knows no token; its address."""

    class Refusal(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = "Authorization" not in self.headers
            self.send_response(200 if known else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def doctor(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's address is read when its library is imported."""
    command = [sys.executable, "-m", "pascaline.cli.app", "doctor", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environ, timeout=120
    )


def failures(checks: list[dict[str, str]]) -> list[str]:
    return [check["name"] for check in checks if check["status"] == "fail"]


def test_json_is_one_object_and_the_exit_code_follows_it(refusing_hub: str) -> None:
    ran = doctor("--json", HF_ENDPOINT=refusing_hub, HF_TOKEN="", HF_HUB_DISABLE_IMPLICIT_TOKEN="1")
    [line] = ran.stdout.splitlines()
    checks = json.loads(line)["checks"]
    assert [check["name"] for check in checks] == [check.name for check in CHECKS]
    for check in checks:
        assert set(check) == FIELDS
        assert check["status"] in ("ok", "warn", "fail")
        assert bool(check["remedy"]) == (check["status"] != "ok")
    assert ran.returncode == (1 if failures(checks) else 0)
    hub = next(check for check in checks if check["name"] == "hub")
    assert (hub["status"], hub["seen"]) == ("ok", f"{refusing_hub} answers, no token is set")


def test_a_check_that_fails_ends_with_1(refusing_hub: str) -> None:
    ran = doctor("--json", HF_ENDPOINT=refusing_hub, HF_TOKEN="hf_revoked", HF_HUB_DISABLE_IMPLICIT_TOKEN="0")
    checks = json.loads(ran.stdout)["checks"]
    assert "hub" in failures(checks)
    assert "hf_revoked" not in ran.stdout + ran.stderr
    assert ran.returncode == 1


def test_a_person_reads_marks_expectations_and_commands(refusing_hub: str) -> None:
    ran = doctor(HF_ENDPOINT=refusing_hub, HF_TOKEN="hf_revoked", HF_HUB_DISABLE_IMPLICIT_TOKEN="0")
    lines = ran.stdout.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("✗ hub "))
    assert "refuses the token (401 Unauthorized)" in lines[at]
    assert [line.strip() for line in lines[at + 1 : at + 4]] == [
        "expected: a valid token",
        "unset HF_TOKEN",
        "hf auth login",
    ]
    assert any(line.startswith("✓ python ") for line in lines)
    assert lines[-1].startswith(f"{len(CHECKS)} checks: ")
    assert "1 failed" in lines[-1]


def test_a_hub_that_never_answers_is_not_waited_for() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as mute:
        # It accepts, as its system does for it, and nobody reads.
        ran = doctor("--json", HF_ENDPOINT=f"http://127.0.0.1:{mute.server_port}")
    hub = next(check for check in json.loads(ran.stdout)["checks"] if check["name"] == "hub")
    assert hub["status"] == "warn"
    assert "does not answer" in hub["seen"]


def test_this_process_does_not_import_torch() -> None:
    code = (
        "import sys; from pascaline.cli.app import main; sys.argv = ['pascaline', 'doctor', '--json']\n"
        "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_unknown_arguments_are_a_users_mistake(run: Run) -> None:
    assert run("doctor", "everything").code == 2
