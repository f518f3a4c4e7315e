"""Machine code of kernels for one architecture: from memory, else from disk, else compiled. Needs no card."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed

from pascaline.core.progress import ProgressCallback, Stage
from pascaline.core.threads import compute_threads
from pascaline.kernels.cuda.compiler import Compiler
from pascaline.kernels.cuda.cubin_cache import CubinCache
from pascaline.kernels.cuda.specialisation import Specialisation

_COMPILE_S = 0.3
"""Of one kernel on one core, until some have been measured."""
_MOST_THREADS = 16
"""Each compilation takes up to 30 MB."""


class Cubins:
    """What `compiler` makes, each made once. Not thread-safe: an engine has one."""

    def __init__(self, compiler: Compiler, cache: CubinCache) -> None:
        self.architecture = compiler.architecture
        self._compiler = compiler
        self._cache = cache
        self._ready: dict[str, bytes] = {}
        self._keys: dict[Specialisation, str] = {}

    @property
    def notes(self) -> list[str]:
        """What went otherwise than it should, for the user."""
        if self._cache.trouble is None:
            return []
        return [
            f"kernels are compiled anew at every start: {self._cache.trouble}; PASCALINE_CACHE can name "
            "another folder to keep them in"
        ]

    def key(self, specialisation: Specialisation) -> str:
        """Equal for kernels that are in one cubin."""
        if specialisation not in self._keys:
            self._keys[specialisation] = self._compiler.key(specialisation)
        return self._keys[specialisation]

    def cubin(self, specialisation: Specialisation) -> bytes:
        """Its machine code.

        Raises
        ------
        CompileError : it does not compile.
        """
        key = self.key(specialisation)
        found = self._known(key)
        if found is None:
            found = self._ready[key] = self._make(key, specialisation)
        return found

    def build(self, specialisations: Iterable[Specialisation], report: ProgressCallback) -> None:
        """Have the machine code of all, compiling at once what no disk has.

        Raises
        ------
        CompileError : one does not compile; what was compiled before is kept.
        """
        missing: dict[str, Specialisation] = {}
        for each in specialisations:
            key = self.key(each)
            if self._known(key) is None:
                missing[key] = each
        if not missing:
            return
        threads = min(compute_threads(), _MOST_THREADS, len(missing))
        expected_s = _COMPILE_S * len(missing) / threads
        # NVRTC compiles in the threads that call it, and ctypes lets go of Python's lock meanwhile.
        pool = ThreadPoolExecutor(threads, thread_name_prefix="nvrtc")
        with Stage(report, "compiling CUDA kernels", len(missing), "kernels", expected_s) as stage, pool:
            making = {pool.submit(self._make, key, each): key for key, each in missing.items()}
            try:
                for made in as_completed(making):
                    self._ready[making[made]] = made.result()
                    stage.advance(1)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self._cache.prune()

    def _known(self, key: str) -> bytes | None:
        found = self._ready.get(key)
        if found is None:
            found = self._cache.get(key)
            if found is not None:
                self._ready[key] = found
        return found

    def _make(self, key: str, specialisation: Specialisation) -> bytes:
        cubin = self._compiler.compile(specialisation)
        self._cache.put(key, cubin)
        return cubin
