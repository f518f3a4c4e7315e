"""What a user's MODEL argument means: `demo`, a folder, a .gguf file, or a hub id."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.demo import fetch_demo
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_ACCEPTED = "`demo`, a model folder, a .gguf file, or a Hugging Face id (owner/name)"


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model is, and the name that the server answers to."""

    path: Path
    served_name: str


def resolve(model: str, report: ProgressCallback) -> ResolvedModel:
    """Find a model, downloading it when it is not on this machine yet.

    Raises
    ------
    CheckpointError : there is no such model, or it cannot be fetched.
    """
    if model == "demo":
        return ResolvedModel(fetch_demo(report), "demo")
    try:
        path = Path(model).expanduser()
        if model and path.is_dir():
            return ResolvedModel(path, path.resolve().name)
        if model and path.exists():
            return ResolvedModel(path, path.stem)
    except (OSError, RuntimeError) as error:  # a name that is too long; ~user without such a user
        raise CheckpointError(f"no such model: {model!r} ({error})", expected=_ACCEPTED) from error
    if _HUB_ID.fullmatch(model) and path.suffix not in (".gguf", ".safetensors"):
        from pascaline.checkpoint.hub import fetch_snapshot  # its library takes 0.2 s to import

        return ResolvedModel(fetch_snapshot(model, report), model)
    raise CheckpointError(f"no such model: {model!r}", expected=_ACCEPTED)
