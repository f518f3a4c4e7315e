"""Models from the Hugging Face hub, through its own client and cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from pascaline.core.errors import CheckpointError
from pascaline.core.progress import ProgressCallback, Stage

_WANTED = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]
_UNWANTED = ["*/*", "consolidated*"]  # other libraries' copies of the same weights


def fetch_snapshot(model_id: str, report: ProgressCallback) -> Path:
    """The folder of a hub model, downloaded or from the hub's cache.

    Raises
    ------
    CheckpointError : no such model, no access to it, no network, or no room.
    """
    with Stage(report, f"fetching {model_id}", 0, "bytes") as stage:
        try:
            folder = snapshot_download(
                model_id,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                tqdm_class=_reporting_bar(stage),
            )
        except GatedRepoError as error:
            raise CheckpointError(
                f"the model {model_id} is gated: its owner must let you in",
                remedy=f"Ask for access at https://huggingface.co/{model_id}, then run `hf auth login`",
            ) from error
        except (RepositoryNotFoundError, HFValidationError) as error:
            raise CheckpointError(
                f"no such model: {model_id} is neither a folder or file here nor a model on the hub",
                remedy="Check the spelling; for a private model run `hf auth login` first",
            ) from error
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            raise CheckpointError(
                f"the model {model_id} is not on this machine and cannot be fetched: {_first_line(error)}",
                remedy="Check the network (HF_HUB_OFFLINE, HF_ENDPOINT and proxy settings too), "
                "or give a local folder or .gguf file",
            ) from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].removesuffix(".") if lines else type(error).__name__


def _reporting_bar(stage: Stage) -> Any:
    """A tqdm class that draws nothing and counts the bytes of all files into `stage`."""

    class ReportingBar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of the client's two byte counters one is of what compression leaves to transfer.
            self.counts = kwargs.get("unit") == "B" and kwargs.get("desc") != "Downloading bytes"
            super().__init__(*args, **(kwargs | {"disable": True}))

        def update(self, n: float | None = 1) -> None:
            if self.counts:
                stage.total = self.total or 0
                stage.advance(n or 0)

    return ReportingBar
