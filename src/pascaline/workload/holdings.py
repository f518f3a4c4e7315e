"""The weights that a model holds, and their bytes, from a checkpoint's directory alone.

Exact, but for what only tensors' data says: whether the zeros of a GPTQ checkpoint that calls itself
symmetric are all the same (presumed: they take no memory then), whether a stored act-order is
another than the inputs' own (presumed where the settings say so, and of q, k and v, and of gate and
up, that it is one order: 4 bytes an input), and whether a head beside a tied embedding differs from it
(presumed: not).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.checkpoint.model_config import ModelConfig
from pascaline.core.errors import CheckpointError
from pascaline.models import Family, family_of
from pascaline.workload.directory import WeightDirectory
from pascaline.workload.places import Place, WeightPart, weight_places
from pascaline.workload.slab_form import slabbed_bytes
from pascaline.workload.stored_weight import StoredWeightEntry
from pascaline.workload.weight_form import VECTOR_FORM, WeightForm

# Tables that are computed here, scales of a quantised KV cache or of quantised inputs, and shapes.
_NEEDLESS = (".inv_freq", ".masked_bias", ".k_scale", ".v_scale", ".input_scale", ".weight_shape")
_FOLDED_ORDER = re.compile(r"\.mlp\.down_proj$")


Layout = Literal["packed", "tiled", "slabbed"]
"""As plain torch, the CPU's native kernels and CUDA kernels hold packed weights."""


@dataclass(frozen=True)
class HeldWeight:
    """One weight as it is held: a tensor of the model, or several below each other.

    Parameters
    ----------
    module : the path of the module that multiplies by it.
    parts : the tensors, as Hugging Face names them.
    form : how it is held.
    rows, columns : of all parts together, a vector being one row.
    """

    module: str
    parts: tuple[WeightPart, ...]
    form: WeightForm
    rows: int
    columns: int

    @property
    def packed_bytes(self) -> int:
        """Resident as it is loaded: where plain torch computes."""
        return self.form.packed_bytes(self.rows, self.columns)

    @property
    def slabbed_bytes(self) -> int:
        """Resident on a card."""
        return slabbed_bytes(self.form, self.rows, self.columns)

    @property
    def tiled_bytes(self) -> int:
        """Resident where the CPU's native kernels compute."""
        return self.form.tiled_bytes(self.rows, self.columns)


def held_weights(checkpoint: Checkpoint, config: ModelConfig) -> list[HeldWeight]:
    """All weights, in the order of the model's modules; `config` as `settled_tying` gives it.

    Raises
    ------
    CheckpointError : a tensor is missing, has another shape, or nobody would read it.
    UnsupportedError : a weight is stored in a way that we do not read.
    """
    directory, family = WeightDirectory.of(checkpoint), family_of(config)
    held: list[HeldWeight] = []
    read: set[str] = set()
    for place in weight_places(config):
        stored = [
            directory.locate(family.file_name(checkpoint, part.name), part.shape) for part in place.parts
        ]
        read.update(name for entry in stored for name in entry.names)
        held += _held(place, stored)
    for name in unread_tensors(checkpoint, family, read):
        if len(checkpoint.tensors[name].shape) != 1:  # which may be zeros, as some tools add
            raise no_place_for(checkpoint, family, name)
    return held


def resident_bytes(held: Iterable[HeldWeight], layout: Layout) -> int:
    """What weights take in memory."""
    if layout == "tiled":
        return sum(item.tiled_bytes for item in held)
    return sum(item.slabbed_bytes if layout == "slabbed" else item.packed_bytes for item in held)


def _held(place: Place, stored: list[StoredWeightEntry]) -> Iterator[HeldWeight]:
    if place.is_vector:
        yield held_vector(place.module, place.parts)
        return
    start = 0
    for stop in range(1, len(stored) + 1):
        if stop == len(stored) or not stored[start].joins(stored[stop]):
            yield held_matrix(place.module, place.parts[start:stop], stored[start].form)
            start = stop


def held_vector(module: str, parts: tuple[WeightPart, ...]) -> HeldWeight:
    """Gains and biases, widened to fp32 when they are loaded."""
    return HeldWeight(module, parts, VECTOR_FORM, 1, sum(part.shape[0] for part in parts))


def held_matrix(module: str, parts: tuple[WeightPart, ...], form: WeightForm) -> HeldWeight:
    """A matrix of tensors of one form.

    `down_proj` needs no order of its inputs: gate and up give them in its order (`layers.mlp`).
    """
    if _FOLDED_ORDER.search(module):
        form = form.in_order()
    return HeldWeight(module, parts, form, sum(part.shape[0] for part in parts), parts[0].shape[1])


def settled_tying(config: ModelConfig, checkpoint: Checkpoint) -> ModelConfig:
    """The config with its head untied where a folder's head cannot be its embedding.

    Where both are stored alike, only their data says whether they are one.
    """
    if heads_alike(config, checkpoint) is not False:
        return config
    return replace(config, tie_word_embeddings=False)


def heads_alike(config: ModelConfig, checkpoint: Checkpoint) -> bool | None:
    """Whether embedding and head, of a folder that has both and should have one, are stored alike."""
    embedding, head = (checkpoint.tensors.get(name) for name in head_names(config, checkpoint))
    if not config.tie_word_embeddings or checkpoint.container == "gguf" or not embedding or not head:
        return None
    return (embedding.type_name, embedding.shape) == (head.type_name, head.shape)


def head_names(config: ModelConfig, checkpoint: Checkpoint) -> list[str]:
    """The checkpoint's names of embedding and head."""
    family = family_of(config)
    return [family.file_name(checkpoint, name) for name in ("model.embed_tokens.weight", "lm_head.weight")]


def unread_tensors(checkpoint: Checkpoint, family: Family, read: set[str]) -> list[str]:
    """Names of the layers' tensors that are not in `read` and mean something."""
    layers = "blk."
    if checkpoint.container == "safetensors":
        layers = family.file_name(checkpoint, "model.layers.")
    return [
        name
        for name in sorted(set(checkpoint.tensors) - read)
        if name.startswith(layers) and not name.endswith(_NEEDLESS)
    ]


def no_place_for(checkpoint: Checkpoint, family: Family, name: str) -> CheckpointError:
    """Without such a tensor the text would be wrong, and nobody would know."""
    return CheckpointError(
        f"{checkpoint.path.name} has the tensor {name!r}, which a model of type "
        f"{family.model_type!r} with these settings has no place for",
        remedy="The settings may be another model's: fetch the files again, or take the model's own",
    )
