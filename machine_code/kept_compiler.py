"""A compiler for those who look at all kernels: what was compiled before on this machine comes from disk."""

from __future__ import annotations

import functools
from pathlib import Path

from pascaline.core.env import cache_dir
from pascaline.hardware.nvrtc import Compiled, Nvrtc
from pascaline.kernels.cuda.compiler import FOLDER, Compiler
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.specialisation import Specialisation

_LENGTH_BYTES = 4


class KeptCompiler(Compiler):
    """As `Compiler`, with machine code and warnings kept under `key`: the digest of all that they depend on.

    Not for what measures the compiler.
    """

    def __init__(self, nvrtc: Nvrtc, architecture: str, folder: Path = FOLDER) -> None:
        super().__init__(nvrtc, architecture, folder)
        self._kept = _kept(cache_dir() / "examined-cubins")

    def compiled(self, specialisation: Specialisation) -> Compiled:
        """As of `Compiler`; what does not compile is not kept.

        Raises
        ------
        CompileError : as there.
        """
        key = self.key(specialisation)
        entry = self._kept.get(key)
        if entry is not None:
            start = _LENGTH_BYTES + int.from_bytes(entry[:_LENGTH_BYTES], "little")
            return Compiled(entry[start:], entry[_LENGTH_BYTES:start].decode())
        made = super().compiled(specialisation)
        log = made.log.encode()
        self._kept.put(key, len(log).to_bytes(_LENGTH_BYTES, "little") + log + made.cubin)
        return made


@functools.cache
def _kept(folder: Path) -> CubinCache:
    """Without what was not used for long."""
    cache = CubinCache(folder)
    cache.prune()
    return cache
