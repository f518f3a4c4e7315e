"""A Hugging Face model folder: config.json and safetensors weights, as a `Checkpoint`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pascaline.checkpoint.checkpoint import TensorEntry, TokenizerSource
from pascaline.checkpoint.json_file import read_json_object, read_text
from pascaline.checkpoint.pickled import PICKLE_REMEDY, PICKLE_SUFFIXES
from pascaline.checkpoint.safetensors_file import SafetensorsFile
from pascaline.core.errors import CheckpointError

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MAX_END_TOKENS = 1024
# Where AutoGPTQ and AutoAWQ wrote it before config.json had a place for it.
_OLDER_QUANTIZATION_CONFIGS = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


class SafetensorsFolder:
    """One model folder; see `Checkpoint` for the members.

    `files` holds the opened file of each tensor where the weights are not in the folder.

    Raises
    ------
    CheckpointError : a file is missing, damaged, or contradicts another one.
    """

    container: Literal["gguf", "safetensors"] = "safetensors"

    def __init__(self, path: Path, files: Mapping[str, SafetensorsFile] | None = None) -> None:
        self.path = path
        self.hf_config: Mapping[str, object] = _read_config(path)
        self._tokenizer_config = _read_if_there(path / "tokenizer_config.json")
        self.chat_template = _read_chat_template(path, self._tokenizer_config)
        self._files = _open_weights(path) if files is None else files
        self.tensors: Mapping[str, TensorEntry] = {
            name: file.tensors[name] for name, file in self._files.items()
        }

    def read(self, name: str) -> memoryview:
        if name not in self._files:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        return self._files[name].read(name)

    def release(self, name: str) -> None:
        self._files[name].release(name)

    def tokenizer_source(self) -> TokenizerSource:
        tokenizer_json = self.path / "tokenizer.json"
        if not tokenizer_json.is_file():
            slow = (self.path / "tokenizer.model").is_file() or (self.path / "vocab.json").is_file()
            raise CheckpointError(
                f"{self.path} has no tokenizer.json",
                remedy="Convert its vocabulary with transformers: "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
                if slow
                else "Copy it from the model's page",
            )
        return TokenizerSource(
            tokenizer_json=tokenizer_json,
            gguf_metadata=None,
            bos_token=self._special_token("bos_token"),
            eos_token=self._special_token("eos_token"),
        )

    def close(self) -> None:
        for file in set(self._files.values()):
            file.close()

    def _special_token(self, name: str) -> str | None:
        token = self._tokenizer_config.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if token is not None and not isinstance(token, str):
            raise CheckpointError(
                f"{self.path / 'tokenizer_config.json'}: {name} is {token!r}", expected="a text"
            )
        return token


def _read_if_there(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}


def _read_config(folder: Path) -> dict[str, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no config.json",
            expected="a model folder as on the Hugging Face hub: config.json, tokenizer.json and safetensors",
            remedy=_other_files(folder),
        )
    config = read_json_object(path)
    if config.get("quantization_config") is None:
        for name, method in _OLDER_QUANTIZATION_CONFIGS.items():
            if (folder / name).is_file():
                config["quantization_config"] = {"quant_method": method} | read_json_object(folder / name)
    generation = _read_if_there(folder / "generation_config.json")
    merged: dict[str, object] = {}
    for value in (config.get("eos_token_id"), generation.get("eos_token_id")):
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if len(ids) > _MAX_END_TOKENS:
            raise CheckpointError(
                f"{folder}: eos_token_id lists {len(ids)} tokens", expected=f"at most {_MAX_END_TOKENS}"
            )
        merged |= {repr(item): item for item in ids}  # what is no number is for `parse_model_config` to name
    return config | {"eos_token_id": list(merged.values())}


def _read_chat_template(folder: Path, tokenizer_config: Mapping[str, object]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file)
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        named = [item for item in template if isinstance(item, dict) and item.get("name") == "default"]
        template = named[-1].get("template") if named else None
    if template is not None and not isinstance(template, str):
        raise CheckpointError(
            f"{folder / 'tokenizer_config.json'}: the chat template is {type(template).__name__}",
            expected="a text, or a list of {name, template}",
        )
    return template


def _open_weights(folder: Path) -> dict[str, SafetensorsFile]:
    """The file that holds each tensor, by the tensor's name."""
    names = sorted(entry.name for entry in folder.iterdir())
    single = single_weight_file(names)
    if single is not None:
        file = SafetensorsFile(folder / single)
        return dict.fromkeys(file.tensors, file)
    if (folder / INDEX).is_file():
        return _open_shards(folder)
    several = [name for name in names if name.endswith(".safetensors")]
    if several:
        raise CheckpointError(
            f"{folder} has {len(several)} weight files, {', '.join(several[:5])}, and no {INDEX}",
            expected=f"one file, or {INDEX}, which says which tensor is where",
            remedy="Fetch the index too; if the files are models of their own, give each its folder",
        )
    raise CheckpointError(
        f"{folder} has no weights in safetensors format",
        expected=f"{WEIGHTS}, {INDEX} or one file of another name",
        remedy=_other_files(folder),
    )


def has_weights(folder: Path) -> bool:
    """Whether there is any file of weights in the folder."""
    suffixes = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
    return any(entry.name.endswith(suffixes) for entry in folder.iterdir())


def single_weight_file(names: Iterable[str]) -> str | None:
    """The one file that holds all weights, among a folder's: AutoGPTQ's has a name of its own."""
    files = [name for name in names if name == INDEX or name.endswith(".safetensors")]
    if WEIGHTS in files:
        return WEIGHTS
    return files[0] if len(files) == 1 and files != [INDEX] else None


def _open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    index = folder / INDEX
    weight_map = read_weight_map(index)
    names = sorted(set(weight_map.values()))
    # Names are compared, not looked up: some are too long for the system.
    here = {entry.name for entry in folder.iterdir() if entry.is_file()}
    missing = [name for name in names if name not in here]
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing[:5])}",
            remedy="Finish the download",
        )
    files: dict[str, SafetensorsFile] = {}
    try:
        for name in names:
            files[name] = SafetensorsFile(folder / name)
        return files_by_tensor(index, weight_map, files)
    except BaseException:
        for file in files.values():
            file.close()
        raise


def files_by_tensor(
    index: Path, weight_map: Mapping[str, str], files: Mapping[str, SafetensorsFile]
) -> dict[str, SafetensorsFile]:
    """The opened file of each tensor that the index names.

    Raises
    ------
    CheckpointError : a file lacks one.
    """
    for tensor, name in weight_map.items():
        if tensor not in files[name].tensors:
            raise CheckpointError(f"{index} says that {tensor} is in {name}, but it is not")
    return {tensor: files[name] for tensor, name in weight_map.items()}


def read_weight_map(index: Path) -> dict[str, str]:
    """Tensor names with the file that holds each, which lies in the index's own folder.

    Raises
    ------
    CheckpointError : it is damaged, empty, or names a file elsewhere.
    """
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map", expected="tensor names with their files")
    for name in weight_map.values():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
            raise CheckpointError(f"{index} names the file {name!r}", expected="a file of the same folder")
    return weight_map


def _other_files(folder: Path) -> str:
    """What to do with a folder that has other model files than ours."""
    names = sorted(entry.name for entry in folder.iterdir())
    gguf = [name for name in names if name.endswith(".gguf")]
    if gguf:
        return f"Give the GGUF file itself, {folder / gguf[0]} for instance"
    if any(name.endswith(PICKLE_SUFFIXES) for name in names):
        return PICKLE_REMEDY
    return f"The folder has {', '.join(names[:8])}" if names else "The folder is empty"
