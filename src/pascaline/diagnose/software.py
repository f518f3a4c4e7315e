"""What a record says of the software that ran: driver, CUDA and torch's architectures."""

from __future__ import annotations

import re

from pascaline.report.run_record import RunRecord

_ARCHITECTURE = re.compile(r"\b(sm|compute)_(\d{2,3})[af]?\b")
_CUDA = re.compile(r"(?:\+cu|^)(\d{2})(?:\.?\d)")


def driver_branch(record: RunRecord) -> int | None:
    """ "580.65.06" -> 580."""
    driver = (record.gpu.driver if record.gpu else None) or record.software.get("driver", "")
    branch = driver.partition(".")[0]
    return int(branch) if branch.isascii() and branch.isdigit() and len(branch) <= 4 else None


def cuda_major(record: RunRecord) -> int | None:
    """Of the CUDA that the software was built with: "2.11.0+cu130" or "13.0" -> 13."""
    for name in ("cuda", "torch"):
        text = record.software.get(name, "")
        found = _CUDA.search(text) if name == "cuda" else re.search(r"\+cu(\d{2})\d", text)
        if found:
            return int(found[1])
    return None


def binaries(record: RunRecord) -> list[tuple[str, int, int]]:
    """What torch holds machine code or PTX for: ("sm", 8, 6), as `torch.cuda.get_arch_list` says."""
    listed = " ".join(text for name, text in sorted(record.software.items()) if "arch" in name.lower())
    return [(kind, int(version[:-1]), int(version[-1])) for kind, version in _ARCHITECTURE.findall(listed)]
