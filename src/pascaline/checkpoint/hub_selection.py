"""Which files of a hub repository make the model that a user asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pascaline.checkpoint.gguf_split import SplitName
from pascaline.checkpoint.hub_listing import HubFile, Listing
from pascaline.checkpoint.hub_reference import HubReference
from pascaline.checkpoint.pickled import PICKLE_REMEDY, PICKLE_SUFFIXES
from pascaline.checkpoint.safetensors_folder import (
    INDEX,
    WEIGHTS,
    read_weight_map,
    single_weight_file,
)
from pascaline.core.errors import CheckpointError
from pascaline.core.units import format_bytes

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    INDEX,
)
_DESCRIPTION = ("config.json", "generation_config.json", "quantize_config.json", "quant_config.json", INDEX)
_OLDER_VOCABULARY = ("tokenizer.model", "vocab.json", "merges.txt")
"""What tokenizer.json is made of; needed where that is missing."""
_NO_MODELS = re.compile(r"mmproj|imatrix", re.IGNORECASE)
"""GGUFs that are parts of no language model: image encoders, statistics for quantising."""
_QUANTISATION = re.compile(
    r"(?<![A-Za-z0-9])((?:UD-)?(?:IQ|TQ|Q)\d[A-Za-z0-9_]*|MXFP4\w*|BF16|FP?16|FP?32)(?![A-Za-z0-9_])",
    re.IGNORECASE,
)


def gguf_names(wanted: HubReference, listing: Listing) -> list[str] | None:
    """The GGUF files of the model, the first part first; None when safetensors are meant.

    Raises
    ------
    CheckpointError : there is no such file, several that might be meant, or nothing that can be read.
    """
    if wanted.file is not None:
        if wanted.file not in listing.files:
            raise CheckpointError(
                f"{wanted.repository} has no file {wanted.file}",
                expected=_choices(wanted, _models(listing)) or "a repository with GGUF files",
            )
        return _with_parts(wanted, listing, wanted.file)
    models = _models(listing)
    if wanted.quantisation is not None:
        fitting = _of_quantisation(models, wanted.quantisation)
        if len(fitting) == 1:
            return _with_parts(wanted, listing, fitting[0])
        found = "several GGUF files" if fitting else "no GGUF file"
        raise CheckpointError(
            f"{wanted.repository} has {found} of quantisation {wanted.quantisation}",
            expected=_choices(wanted, {name: models[name] for name in fitting} or models)
            or "a repository with GGUF files",
        )
    if single_weight_file(_in_root(listing)) is not None or INDEX in listing.files:
        return None
    if len(models) == 1:
        return _with_parts(wanted, listing, next(iter(models)))
    if models:
        raise CheckpointError(
            f"{wanted.repository} has {len(models)} GGUF files", expected=_choices(wanted, models)
        )
    if any(name.endswith(PICKLE_SUFFIXES) for name in listing.files):
        raise CheckpointError(f"{wanted.repository} has pickled weights only", remedy=PICKLE_REMEDY)
    raise CheckpointError(
        f"{wanted.repository} has no weights that can be read here",
        expected=f"{WEIGHTS}, {INDEX} or GGUF files",
        remedy=f"It has {', '.join(sorted(listing.files)[:8])}" if listing.files else "It is empty",
    )


def settings_names(listing: Listing) -> list[str]:
    """The files of a safetensors model without its weights: settings, vocabulary, template, index."""
    older = () if "tokenizer.json" in listing.files else _OLDER_VOCABULARY
    return [name for name in (*_SETTINGS, *older) if name in listing.files and not _needless(name, listing)]


def description_names(listing: Listing) -> list[str]:
    """Those of the settings that say what the weights are, without the vocabulary."""
    return [name for name in _DESCRIPTION if name in listing.files and not _needless(name, listing)]


def weight_names(listing: Listing, snapshot: Path) -> list[str]:
    """The weight files of a safetensors model whose settings are in the folder `snapshot`.

    Raises
    ------
    CheckpointError : the index is damaged, or names files that the repository does not have.
    """
    single = single_weight_file(_in_root(listing))
    if single is not None:
        return [single]
    names = sorted(set(read_weight_map(snapshot / INDEX).values()))
    lacking = [name for name in names if name not in listing.files]
    if lacking:
        raise CheckpointError(
            f"{len(lacking)} of {len(names)} weight files that {INDEX} names are missing: {lacking[0]}"
        )
    return names


def _needless(name: str, listing: Listing) -> bool:
    """An index beside a single file describes another library's copy."""
    return name == INDEX and WEIGHTS in listing.files


def _in_root(listing: Listing) -> list[str]:
    return [name for name in listing.files if "/" not in name]


def _models(listing: Listing) -> dict[str, list[HubFile]]:
    """Each GGUF model by its (first) file, with all of its parts."""
    models: dict[str, list[HubFile]] = {}
    for path in sorted(listing.files):
        if not path.endswith(".gguf") or _NO_MODELS.search(path.rpartition("/")[2]):
            continue
        split = SplitName.parse(path)
        models.setdefault(path if split is None else split.part(1), []).append(listing.files[path])
    return models


def _of_quantisation(models: Iterable[str], quantisation: str) -> list[str]:
    """The models of this quantisation; "Q4_K_XL" means a "UD-Q4_K_XL" where that is the only one."""
    asked = quantisation.upper()
    labels = {name: (_label(name) or "").upper() for name in models}
    exact = [name for name in labels if labels[name] == asked]
    return exact or [name for name in labels if labels[name].removeprefix("UD-") == asked]


def _label(path: str) -> str | None:
    """The quantisation that a file's name tells, else its folder's: the last that stands there."""
    split = SplitName.parse(path)
    stem = (path if split is None else split.stem).removesuffix(".gguf")
    found = _QUANTISATION.findall(stem)
    return found[-1] if found else None


def _with_parts(wanted: HubReference, listing: Listing, name: str) -> list[str]:
    """The file, or all parts of the split model that it belongs to."""
    split = SplitName.parse(name)
    if split is None:
        return [name]
    parts = [split.part(number) for number in range(1, split.count + 1)]
    missing = [part for part in parts if part not in listing.files]
    if missing:
        raise CheckpointError(
            f"{wanted.repository} lacks {len(missing)} of the {split.count} parts of {name}: {missing[0]}"
        )
    return parts


def _choices(wanted: HubReference, models: Mapping[str, list[HubFile]]) -> str:
    """One line a model, as the user would ask for it, with its size."""
    labels = {name: _label(name) for name in models}
    spellings = []
    for name, files in models.items():
        label = labels[name]
        unique = label is not None and len(_of_quantisation(models, label)) == 1
        asked = f"{wanted.repository}:{label}" if unique else f"{wanted.repository}/{name}"
        sizes = [file.nbytes for file in files]
        known = sum(size for size in sizes if size is not None)
        spellings.append(f"{asked} ({format_bytes(known)})" if None not in sizes else asked)
    return "one of these:\n  " + "\n  ".join(spellings) + "\n" if spellings else ""
