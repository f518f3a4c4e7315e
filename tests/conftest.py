"""Fixtures that all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pascaline.checkpoint.reference import resolve
from pascaline.core.progress import ignore_progress
from running_server import RunningServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="run device tests on CUDA too; no card is an error")
    parser.addoption("--emulator", action="store_true", help="run CUDA kernels as machine code of sm_61 too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that takes `device` runs on the CPU, and with --gpu on CUDA as well."""
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", ["cpu", "cuda"] if metafunc.config.getoption("--gpu") else ["cpu"])


@pytest.fixture(scope="session")
def demo_path() -> Path:
    """The demo model's GGUF file, fetched as `pascaline serve demo` fetches it."""
    return resolve("demo", ignore_progress).path


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One server with the demo model, for all tests that leave it as they found it."""
    running = RunningServer(("demo", "--port", "0"))
    try:
        assert running.url
        yield running
        assert running.stop() == 0
    finally:
        running.kill()


@pytest.fixture(scope="session")
def server_url(server: RunningServer) -> str:
    """Its address, without a slash at the end."""
    return server.url
