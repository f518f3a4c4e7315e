"""What a user's MODEL argument means: `demo`, a folder, a .gguf file, or a hub id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pascaline.checkpoint.demo import fetch_demo
from pascaline.checkpoint.gguf_split import SplitName
from pascaline.checkpoint.hub_reference import HubReference
from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback

_ACCEPTED = "`demo`, a model folder, a .gguf file, or a Hugging Face id (owner/name)"


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model is, and the name that the server answers to.

    `served_name` is `demo`; a folder's name; a GGUF's name without .gguf and, where it is split, without
    its part's number; for a model of the hub what was typed, without the revision.
    """

    path: Path
    served_name: str


def resolve(model: str, report: ProgressCallback, *, with_weights: bool = True) -> ResolvedModel:
    """Find a model, downloading it when it is not on this machine yet, or all of it but its weights.

    Raises
    ------
    CheckpointError : there is no such model, or it cannot be fetched.
    """
    found = locate(model, report)
    if isinstance(found, ResolvedModel):
        return found
    from pascaline.checkpoint.hub import fetch_model  # its library takes 0.2 s to import

    return ResolvedModel(fetch_model(found, report, with_weights=with_weights), found.name)


def locate(model: str, report: ProgressCallback) -> ResolvedModel | HubReference:
    """What a model's name means; of what is not on this machine, only the demo is fetched.

    Raises
    ------
    CheckpointError : there is no such model, or the demo cannot be fetched.
    """
    if model == "demo":
        return ResolvedModel(fetch_demo(report), "demo")
    try:
        path = Path(model).expanduser()
        if model and path.is_dir():
            return ResolvedModel(path, path.resolve().name)
        if model and path.exists():
            split = SplitName.parse(path.name)
            return ResolvedModel(path, path.stem if split is None else split.stem)
    except (OSError, RuntimeError) as error:  # a name that is too long; ~user without such a user
        raise CheckpointError(f"no such model: {model!r} ({error})", expected=_ACCEPTED) from error
    wanted = HubReference.parse(model)
    if wanted is None:
        raise CheckpointError(f"no such model: {model!r}", expected=_ACCEPTED)
    return wanted
