"""What torch and our kernels say of themselves, as JSON: run with `python -m`, in a process of its own.

Importing torch can fail in many ways, end the process, or wait for a card that is lost. Whoever asks is none
of it: they read one line from a process that they can give up on.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def describe() -> dict[str, object]:
    """Versions, architectures, cards tried, and the libraries that were loaded.

    `error` says why torch does not import; `device_error` why CUDA does not work.
    """
    try:
        import torch
    except Exception as error:  # torch's own imports fail with nearly anything
        return {"error": f"{type(error).__name__}: {error}", "libstdcxx": _loaded("libstdc++.so")}
    facts: dict[str, object] = {
        "version": torch.__version__,
        "folder": str(Path(torch.__file__).parent),
        "cuda": torch.version.cuda,
        "architectures": _architectures(),
    }
    if torch.version.cuda is not None:
        facts |= _devices()
    facts |= _native_kernels()
    return facts | {"libstdcxx": _loaded("libstdc++.so")}


def _architectures() -> list[str]:
    """As built. torch.cuda.get_arch_list() tells them only where it can use a card."""
    import torch

    flags = getattr(torch._C, "_cuda_getArchFlags", lambda: None)()
    return flags.split() if flags else []


def _devices() -> dict[str, object]:
    import torch

    with warnings.catch_warnings(record=True) as caught:  # "The NVIDIA driver on your system is too old"
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    said = [str(each.message).split(" (Triggered internally")[0] for each in caught]
    tried = []
    for index in range(torch.cuda.device_count() if available else 0):
        try:
            works = torch.ones(8, device=f"cuda:{index}").mul(2).sum().item() == 16
            tried.append("ok" if works else "wrong result")
        except RuntimeError as error:
            tried.append(str(error).strip().splitlines()[0])
    return {"available": available, "device_error": "; ".join(said) or None, "tried": tried}


def _native_kernels() -> dict[str, object]:
    try:
        from pascaline.core.threads import compute_threads
        from pascaline.kernels.cpu.native import library

        found = library()
        threads = compute_threads()
    except Exception as error:  # it is for the reader to say what is wrong with the installation
        return {"native": None, "native_reason": str(error)}
    facts: dict[str, object] = {"threads": threads, "checkout": _checkout()}
    if isinstance(found, str):
        return facts | {"native": None, "native_reason": found}
    return facts | {"native": found.name, "native_reason": "; ".join(found.passed_over) or None}


def _checkout() -> str | None:
    """The repository that this runs from, where the kernels can be built; None in an installed wheel."""
    root = Path(__file__).resolve().parents[3]
    return str(root) if (root / "scripts" / "build_native.py").is_file() else None


def _loaded(library: str) -> str | None:
    """The file that this process has mapped for a library."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if library in line)
    return next(paths, None)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(describe()) + "\n")
