"""No pickle is ever opened, whatever it is called and wherever it lies."""

from __future__ import annotations

import ast
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import seeds
import torch

import pascaline
from pascaline.checkpoint.opening import open_checkpoint
from pascaline.core.errors import CheckpointError

CONVERT = "save_pretrained\\(NEW_FOLDER, safe_serialization=True\\)"
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "_pickle"}


class _Trap:
    """Makes a folder where it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.mkdir, (self.folder,)


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """What must not be there at the end."""
    return tmp_path / "sprung"


def _raw(trap: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(_Trap(trap), protocol)


def _archive(path: Path, trap: Path) -> None:
    """As torch.save writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _raw(trap))


def _folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    files = json.loads(seeds.folders()[0])
    (folder / "config.json").write_text(json.dumps(files["config.json"]))
    return folder


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.ckpt", "a.gguf", "a", "a.weights"])
@pytest.mark.parametrize("kind", ["archive", "2", "3", "4", "5"])
def test_a_file(tmp_path: Path, trap: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "archive":
        _archive(path, trap)
    else:
        path.write_bytes(_raw(trap, int(kind)))
    with pytest.raises(CheckpointError, match=CONVERT):
        open_checkpoint(path)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_a_folder_with_pickles_only(tmp_path: Path, trap: Path, name: str) -> None:
    folder = _folder(tmp_path)
    _archive(folder / name, trap)
    with pytest.raises(CheckpointError, match=CONVERT):
        open_checkpoint(folder)
    assert not trap.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
@pytest.mark.parametrize("kind", ["archive", "raw"])
def test_a_pickle_that_is_called_safetensors(tmp_path: Path, trap: Path, name: str, kind: str) -> None:
    folder = _folder(tmp_path)
    if kind == "archive":
        _archive(folder / name, trap)
    else:
        (folder / name).write_bytes(_raw(trap))
    with pytest.raises(CheckpointError, match=CONVERT):
        open_checkpoint(folder)
    assert not trap.exists()


def test_an_index_that_names_pickles(tmp_path: Path, trap: Path) -> None:
    folder = _folder(tmp_path)
    weight_map = {"model.norm.weight": "pytorch_model-00001-of-00001.bin"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    pickled = {"model.norm.weight": torch.ones(2), "trap": _Trap(trap)}
    torch.save(pickled, folder / weight_map["model.norm.weight"])
    with pytest.raises(CheckpointError, match=CONVERT):
        open_checkpoint(folder)
    assert not trap.exists()


def test_the_trap_works(trap: Path) -> None:
    pickle.loads(_raw(trap))
    assert trap.is_dir()


def test_nothing_in_the_package_could_unpickle() -> None:
    """No module imports a pickler, or calls torch.load, numpy.load, eval or exec."""
    found = []
    for path in sorted(Path(pascaline.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            found += [f"{path.name}:{getattr(node, 'lineno', 0)} {what}" for what in _dangers(node)]
    assert found == []


def _dangers(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name.split(".")[0] in LOADERS]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if (node.module or "").split(".")[0] in LOADERS else []
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        return [name] if name in {"torch.load", "numpy.load", "np.load", "torch.jit", "torch.hub"} else []
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return [node.func.id] if node.func.id in {"eval", "exec", "__import__"} else []
    return [node.arg] if isinstance(node, ast.keyword) and node.arg == "allow_pickle" else []
