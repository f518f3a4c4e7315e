"""What other processes do in the tests of CUDA kernels' machine code.

They are forked from a server that has imported the package (and with it torch) once.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from pascaline.core.progress import ignore_progress
from pascaline.hardware.nvrtc import find_nvrtc
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.cubins import Cubins
from pascaline.kernels.cuda.specialisation import Specialisation

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pascaline.kernels.cuda.cubins"])
PATIENCE_S = 120.0
ENTRY_BYTES = 300_000
ENTRIES = 8

Said = tuple[list[str], list[str]]
"""Digests of the machine code, and notes."""


def entry(index: int) -> bytes:
    """What belongs under f"key{index}"."""
    return bytes([index]) * ENTRY_BYTES


def build(to: Connection, architecture: str, folder: Path, cache: Path, before: str) -> None:
    """Compile six kernels, or read them."""
    made = Cubins(Compiler(find_nvrtc(architecture), architecture, folder), CubinCache(cache))
    wanted = [Specialisation("scale.cu", "scale", (("FACTOR", factor),)) for factor in range(1, 7)]
    if before == "without rights":
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
    elif before == "with small files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    made.build(wanted, ignore_progress)
    to.send(([hashlib.sha256(made.cubin(each)).hexdigest() for each in wanted], made.notes))


def churn(to: Connection, folder: Path, most_bytes: int, rounds: int) -> None:
    """Read, write and remove the same entries as others do."""
    cache = CubinCache(folder, most_bytes)
    to.send("begins")
    for _ in range(rounds):
        for index in range(ENTRIES):
            if cache.get(f"key{index}") not in (None, entry(index)):
                to.send(f"key{index} is damaged")
            cache.put(f"key{index}", entry(index))
        cache.prune()
    to.send(cache.trouble)


class Other:
    """A process that runs `work(connection, *arguments)`."""

    def __init__(self, work: Callable[..., None], *arguments: object) -> None:
        self._from, to = PROCESSES.Pipe(duplex=False)
        self.process = PROCESSES.Process(target=work, args=(to, *arguments))
        self.process.start()
        to.close()

    def said(self) -> object:
        """The next that it sends; EOFError if it has ended."""
        assert self._from.poll(PATIENCE_S), "it says nothing"
        return self._from.recv()

    def end(self) -> None:
        self.process.join(PATIENCE_S)
        self._from.close()
