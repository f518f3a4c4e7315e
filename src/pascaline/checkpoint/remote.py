"""A model's settings and directory without its weights, wherever it is.

Of a model of the hub the small files that describe it are fetched into the hub's cache, and of each weight
file its header is read over ranged requests; files that are in the cache already are read there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.checkpoint.mapped_file import FileBytes, MappedFile
from pascaline.checkpoint.opening import open_settings
from pascaline.checkpoint.reference import ResolvedModel, locate
from pascaline.checkpoint.safetensors_file import SafetensorsFile
from pascaline.checkpoint.safetensors_folder import INDEX, SafetensorsFolder, files_by_tensor, read_weight_map
from pascaline.core.progress import ProgressCallback, Stage

if TYPE_CHECKING:
    from pascaline.checkpoint.hub import HubModel

_CONNECTIONS = 8
File = TypeVar("File")


def open_described(model: str, report: ProgressCallback) -> Checkpoint:
    """Open a model, named as a user does, as far as its directory; `read` gives small tensors only.

    A folder here may have settings alone: its directory is empty then.

    Raises
    ------
    CheckpointError, UnsupportedError : as `resolve` and `open_checkpoint` do.
    """
    found = locate(model, report)
    if isinstance(found, ResolvedModel):
        return open_settings(found.path)
    from pascaline.checkpoint.hub import HubModel  # its library takes 0.2 s to import
    from pascaline.checkpoint.hub_selection import description_names, gguf_names, weight_names

    hub = HubModel(found, report)
    with hub.complete():
        ggufs = gguf_names(found, hub.listing)
        if ggufs is not None:
            return GgufCheckpoint(Path(ggufs[0]), _open_all(hub, ggufs, report, lambda file: file))
        hub.bring(description_names(hub.listing), f"fetching the settings of {found.name}")
        names = weight_names(hub.listing, hub.snapshot)
        files = _open_all(hub, names, report, lambda file: SafetensorsFile(file.path, file))
        opened = dict(zip(names, files, strict=True))
        if len(names) == 1 and not (hub.snapshot / INDEX).is_file():
            [single] = opened.values()
            return SafetensorsFolder(hub.snapshot, dict.fromkeys(single.tensors, single))
        index = hub.snapshot / INDEX
        return SafetensorsFolder(hub.snapshot, files_by_tensor(index, read_weight_map(index), opened))


def _open_all(
    hub: HubModel, names: Sequence[str], report: ProgressCallback, read: Callable[[FileBytes], File]
) -> list[File]:
    """Weight files, in order: those that are here, and the headers of the others."""
    with (
        Stage(report, f"reading the headers of {hub.wanted.name}", len(names), "files") as stage,
        ThreadPoolExecutor(_CONNECTIONS) as connections,
    ):
        opened = []
        for file in connections.map(lambda name: read(_open_one(hub, name)), names):
            opened.append(file)
            stage.advance(1)
        return opened


def _open_one(hub: HubModel, name: str) -> FileBytes:
    from pascaline.checkpoint.hub_listing import explain_refusal, file_url
    from pascaline.checkpoint.remote_file import RemoteFile

    if hub.has(name):
        return MappedFile(hub.snapshot / name)
    hub.refuse_unreachable(name)
    return RemoteFile(
        file_url(hub.wanted, hub.listing.commit, name),
        Path(hub.wanted.repository) / name,
        hub.listing.files[name].nbytes,
        lambda error: explain_refusal(error, hub.wanted),
    )
