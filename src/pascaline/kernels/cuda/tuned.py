"""Which geometries were found to be the fastest on a card, and how long they take.

A file is of one card: {"schema", "card", "linears": [{"way", "stored", "outputs", "columns", "rows",
"geometry", "seconds", "source", "digest"}]}. `source` is a digest of the kernel's text: what was found for
another is passed over. `digest` is that of the entry's other fields: a number that was changed since might be
one that the kernel does not compile for. Files that come with the package are read first; what was found on
this machine replaces them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pascaline.core.env import cache_dir
from pascaline.core.errors import printable
from pascaline.core.files import writable_folder, write_atomically
from pascaline.kernels.cuda.compiler import source_of
from pascaline.kernels.cuda.linear_product import Product, row_step
from pascaline.kernels.cuda.linear_way import LinearWay
from pascaline.kernels.cuda.linear_ways import LINEAR_WAYS
from pascaline.weights.slabbed import SlabbedForm

SCHEMA = 2
SHIPPED = Path(__file__).parent / "tuned"
"""Of the files that come with the package."""

Key = tuple[str, str, int, int, int]
"""A way, the form of the weight, N, K and the step of rows."""


@dataclass(frozen=True)
class Found:
    """The fastest geometry, a value of the kernel's own (None where there is no choice), and its time."""

    geometry: object
    seconds: float


class TunedLinears:
    """What was found on one card; empty where nothing was."""

    def __init__(self, found: Mapping[Key, Found] | None = None) -> None:
        self._found = dict(found or {})

    def __len__(self) -> int:
        return len(self._found)

    @classmethod
    def of(cls, card: str, tell: Callable[[str], None]) -> TunedLinears:
        """What is known of the card that its driver calls so.

        Parameters
        ----------
        tell : receives a sentence for each file that is passed over, or some of whose entries are, because it
            is damaged: kernels' own choice of geometry takes their place.
        """
        found: dict[Key, Found] = {}
        for folder in (SHIPPED, tuned_folder()):
            found |= _read(folder / file_name(card), tell)
        return cls(found)

    def get(self, way: LinearWay, product: Product) -> Found | None:
        """For the step that the product's rows belong to."""
        return self._found.get(_key(way, product))

    def geometry(self, way: LinearWay, product: Product) -> object:
        """None where nothing was found: the kernel's own choice."""
        found = self.get(way, product)
        return None if found is None else found.geometry

    def with_found(self, way: LinearWay, product: Product, found: Found) -> TunedLinears:
        """And this, for the product's step of rows."""
        return TunedLinears({**self._found, _key(way, product): found})

    def write(self, card: str, folder: Path | None = None) -> Path:
        """Keep it, for this machine by default; returns the file.

        Raises
        ------
        ConfigError : the folder cannot be made or written.
        """
        path = writable_folder(folder or tuned_folder()) / file_name(card)
        linears = [_entry(key, found) for key, found in sorted(self._found.items(), key=lambda item: item[0])]
        text = json.dumps({"schema": SCHEMA, "card": card, "linears": linears}, indent=1)
        write_atomically(path, (text + "\n").encode())
        return path


def tuned_folder() -> Path:
    """Of what was found on this machine."""
    return cache_dir() / "tuned"


def file_name(card: str) -> str:
    """ "NVIDIA TITAN X (Pascal)" -> "titan-x-pascal.json"."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower().removeprefix("nvidia ")).strip("-") + ".json"


def _key(way: LinearWay, product: Product) -> Key:
    call = product.call
    return way.name, _described(product.stored), call.outputs, call.columns, row_step(call.rows)


@functools.lru_cache(maxsize=256)
def _described(stored: SlabbedForm | torch.dtype) -> str:
    """ "float16", or the definitions of a form in slabs that are not 0."""
    if isinstance(stored, torch.dtype):
        return str(stored).removeprefix("torch.")
    definitions = stored.definitions
    return " ".join(f"{name}={value}" for name, value in definitions if value and not _is_entry(name))


def _is_entry(definition: str) -> bool:
    """Of a table, whose values take as long as others."""
    return definition.startswith("TABLE_")


def _entry(key: Key, found: Found) -> dict[str, Any]:
    way, stored, outputs, columns, rows = key
    geometry = None if found.geometry is None else asdict(found.geometry)  # type: ignore[call-overload]  # a dataclass
    entry = {
        "way": way,
        "stored": stored,
        "outputs": outputs,
        "columns": columns,
        "rows": rows,
        "geometry": geometry,
        "seconds": found.seconds,
        "source": _source(_WAYS[way]),
    }
    return entry | {"digest": _digest(entry)}


def _read(path: Path, tell: Callable[[str], None]) -> dict[Key, Found]:
    found: dict[Key, Found] = {}
    damaged: list[str] = []
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            return {}
        if file_name(data["card"]) != path.name:
            raise ValueError(f"it is of {data['card']!r:.80}")
        for index, entry in enumerate(data["linears"]):
            way = _WAYS.get(entry["way"])
            if way is None or entry["source"] != _source(way):
                continue
            if entry["digest"] == _digest(entry):
                found |= _found(way, entry)
            else:
                damaged.append("entry {}, {way} of {outputs}×{columns}, {rows} rows".format(index, **entry))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        tell(printable(f"{path} is passed over, it cannot be read ({error!r:.200}). {_instead(path)}"))
        return {}
    if damaged:
        which = damaged[0] if len(damaged) == 1 else f"{len(damaged)} entries, the first of them {damaged[0]}"
        tell(printable(f"{path}: {which}: changed since it was written, and passed over. {_instead(path)}"))
    return found


def _instead(path: Path) -> str:
    mended = "Installing Pascaline anew" if path.parent == SHIPPED else "Deleting the file"
    return f"Kernels choose their geometry themselves there, which may be slower. {mended} ends this message"


def _found(way: LinearWay, entry: Mapping[str, Any]) -> dict[Key, Found]:
    """Nothing where the geometry has other fields than its class by now, as if it were of another kernel."""
    values = entry["geometry"]
    try:
        geometry = None if values is None or way.geometry is None else way.geometry(**values)
    except TypeError:
        return {}
    key = way.name, entry["stored"], entry["outputs"], entry["columns"], entry["rows"]
    return {key: Found(geometry, entry["seconds"])}


def _digest(entry: Mapping[str, Any]) -> str:
    """Of all but the digest itself."""
    fields = {name: value for name, value in entry.items() if name != "digest"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _source(way: LinearWay) -> str:
    return source_of(way.file).digest.hex()[:16]


_WAYS = {way.name: way for way in LINEAR_WAYS}
