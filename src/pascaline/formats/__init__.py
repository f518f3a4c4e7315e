"""One file a format: tensors on disk -> Weight. A new format is a file and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pascaline.checkpoint.checkpoint import Checkpoint
from pascaline.core.errors import CheckpointError, ConfigError, UnsupportedError
from pascaline.formats import awq, compressed_tensors, gptq
from pascaline.formats.dense import BF16, F16, F32
from pascaline.formats.format import Format, Scheme, SchemeParser, StoredRows, StoredTensors, StoredWeight
from pascaline.formats.gguf_iq4_nl import IQ4_NL
from pascaline.formats.gguf_iq4_xs import IQ4_XS
from pascaline.formats.gguf_mxfp4 import MXFP4
from pascaline.formats.gguf_q2_k import Q2_K
from pascaline.formats.gguf_q3_k import Q3_K
from pascaline.formats.gguf_q4_0 import Q4_0
from pascaline.formats.gguf_q4_1 import Q4_1
from pascaline.formats.gguf_q4_k import Q4_K
from pascaline.formats.gguf_q5_0 import Q5_0
from pascaline.formats.gguf_q5_1 import Q5_1
from pascaline.formats.gguf_q5_k import Q5_K
from pascaline.formats.gguf_q6_k import Q6_K
from pascaline.formats.gguf_q8_0 import Q8_0

FORMATS: dict[str, Format] = {
    item.type_name: item
    for item in (
        *(F32, F16, BF16),
        *(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0),
        *(Q2_K, Q3_K, Q4_K, Q5_K, Q6_K),
        *(IQ4_NL, IQ4_XS, MXFP4),
    )
}
"""By the element type in a file's directory."""

SCHEMES: dict[str, SchemeParser] = {
    "gptq": gptq.parse,
    "awq": awq.parse,
    "compressed-tensors": compressed_tensors.parse,
}
"""By quantization_config.quant_method in config.json."""


@dataclass(frozen=True)
class WeightReader:
    """Finds a model's weights in a checkpoint, whatever form each is stored in."""

    checkpoint: Checkpoint
    scheme: Scheme | None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> WeightReader:
        """A reader for the scheme that the checkpoint declares, if it declares one.

        Raises
        ------
        ConfigError : quantization_config is malformed.
        UnsupportedError : its method, or a variant of it, is none of ours.
        """
        return cls(checkpoint, _scheme_of(checkpoint))

    def locate(self, name: str, shape: tuple[int, ...], interleaved_heads: int | None = None) -> StoredWeight:
        """The weight that the checkpoint knows as `name` ("….q_proj.weight", "blk.0.attn_q.weight").

        `interleaved_heads` is described at `StoredRows`; only GGUF files need it.

        Raises
        ------
        CheckpointError : it is missing, or its tensors contradict the shape that the model wants.
        UnsupportedError : it is stored in a way that we do not read.
        """
        module, _, attribute = name.rpartition(".")
        stored = None
        if self.scheme is not None and attribute == "weight" and len(shape) == 2:
            stored = self.scheme.locate(self.checkpoint, module, (shape[0], shape[1]))
        if stored is None:
            stored = self._one_tensor(name, shape, interleaved_heads)
        return stored

    def _one_tensor(self, name: str, shape: tuple[int, ...], interleaved_heads: int | None) -> StoredWeight:
        checkpoint = self.checkpoint
        entry = checkpoint.tensors.get(name)
        if entry is None:
            raise CheckpointError(
                f"{checkpoint.path.name} has no tensor {name!r}",
                expected="every tensor of the layers that the model's configuration counts",
                remedy="The file may be incomplete: fetch it again",
            )
        if entry.shape != shape:
            raise CheckpointError(
                f"{checkpoint.path.name}: tensor {name!r} has shape {list(entry.shape)}",
                expected=f"{list(shape)} from the model's configuration",
            )
        if entry.type_name not in FORMATS:
            raise UnsupportedError(
                f"{checkpoint.path.name}: tensor {name!r} is stored as {entry.type_name}",
                expected=", ".join(FORMATS),
                remedy="Use a file in one of these formats",
            )
        rows = StoredRows(lambda: checkpoint.read(name), shape, interleaved_heads)
        return StoredTensors.of(checkpoint.path.name, (name,), FORMATS[entry.type_name], (rows,))


def _scheme_of(checkpoint: Checkpoint) -> Scheme | None:
    config = checkpoint.hf_config.get("quantization_config")
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"config.json's quantization_config is {config!r:.60}", expected="a group of settings"
        )
    method = config.get("quant_method")
    method = method.lower() if isinstance(method, str) else method
    if not isinstance(method, str) or method not in SCHEMES:
        raise UnsupportedError(
            f"{checkpoint.path.name} holds weights quantised with {method!r:.60} "
            "(quantization_config.quant_method in config.json)",
            expected=f"one of {', '.join(SCHEMES)}, dense weights, or a GGUF file",
            remedy="Use the original model, or one of these forms of it",
        )
    return SCHEMES[method](config)


__all__ = ["FORMATS", "SCHEMES", "Format", "StoredRows", "StoredTensors", "StoredWeight", "WeightReader"]
