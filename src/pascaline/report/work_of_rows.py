"""FLOP and bytes of imported rows, from the model's configuration and the number of tokens.

They are what the computation needs at least: each input read and each output written once, weights as they
are stored once a call. What an engine moves beyond that (weights written back in half precision, say) is not
in them. The rows of the head are not known; attention's context is where a batch of whole prompts was run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import msgspec

from pascaline.hardware.architectures import Arithmetic
from pascaline.report.module_names import LINEAR_PARTS, place_of
from pascaline.report.run_record import Row, RunRecord
from pascaline.workload.op_costs import OP_COSTS
from pascaline.workload.step import StepShape
from pascaline.workload.weight_form import WeightForm

UNKNOWN_ARITHMETIC = "unknown"
_MAX_SIZE = 1 << 24
_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "half": 2, "float32": 4, "float": 4}
_SCALE_BYTES = 2
_COST_ELEMENT_BYTES = 4
"""The formulas of `op_costs` are for fp32 activations."""
_MAX_SEQUENCES = 1 << 16
_EMBEDDINGS = ("embed_tokens", "wte")


@dataclass(frozen=True)
class _Sizes:
    """What of config.json decides the shapes of a layer."""

    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int

    @staticmethod
    def of(model: Mapping[str, object]) -> _Sizes | None:
        hidden, inner, heads = (
            _size(model.get(name)) for name in ("hidden_size", "intermediate_size", "num_attention_heads")
        )
        if hidden is None or inner is None or heads is None:
            return None
        kv_heads = _size(model.get("num_key_value_heads")) or heads
        return _Sizes(hidden, inner, heads, kv_heads, _size(model.get("head_dim")) or hidden // heads)

    def linear(self, name: str) -> tuple[int, int] | None:
        """(outputs, inputs) of a linear of a layer; None for one that we do not know."""
        if name in LINEAR_PARTS:
            shapes = [shape for part in LINEAR_PARTS[name] if (shape := self.linear(part)) is not None]
            return sum(rows for rows, _ in shapes), shapes[0][1]
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden_size),
            "k_proj": (keys, self.hidden_size),
            "v_proj": (keys, self.hidden_size),
            "o_proj": (self.hidden_size, queries),
            "gate_proj": (self.intermediate_size, self.hidden_size),
            "up_proj": (self.intermediate_size, self.hidden_size),
            "down_proj": (self.hidden_size, self.intermediate_size),
        }.get(name)


def with_work(record: RunRecord) -> RunRecord:
    """The record with `flop_by_type` and `bytes` where they can be known; unchanged where they cannot."""
    sizes = _Sizes.of(record.model)
    phases = {row.phase for row in record.rows}
    if sizes is None or record.tokens is None or len(phases) > 1:
        return record
    work = _Work(record, sizes, record.tokens)
    return msgspec.structs.replace(record, rows=[work.of(row) for row in record.rows])


@dataclass(frozen=True)
class _Work:
    record: RunRecord
    sizes: _Sizes
    tokens: int

    def of(self, row: Row) -> Row:
        """The row with what is known of its work."""
        place = place_of(row.module)
        name = place.name.rpartition(".")[2]
        if place.stack or (place.layer is None and place.name not in _EMBEDDINGS):
            return row  # a vision tower's, say: its sizes are others
        axes = self._axes(row, name)
        if axes is None:
            return row
        cost = OP_COSTS[row.op]
        flop = sum(cost.flop(axes).values())
        element = _element_bytes(self.record.model)
        moved = None if element is None else cost.bytes_moved(axes) * element // _COST_ELEMENT_BYTES
        if row.op == "linear":
            weights = _weight_bytes(axes["N"], axes["K"], self.record.model)
            moved = None if moved is None or weights is None else moved + weights * row.calls
        if row.op == "embedding" and moved is not None:
            moved *= 2  # the rows of the table, too
        return msgspec.structs.replace(
            row, flop_by_type={_arithmetic(row): flop} if flop else {}, bytes=moved
        )

    def _axes(self, row: Row, name: str) -> dict[str, int] | None:
        """The sizes of a row's op; None where it is no op of ours, or they are not known."""
        sizes, tokens = self.sizes, self.tokens
        if row.op == "linear":
            shape = sizes.linear(name)
            return None if shape is None else {"M": tokens, "N": shape[0], "K": shape[1]}
        if row.op == "rms_norm" and name not in ("q_norm", "k_norm"):
            return {"T": tokens, "C": sizes.hidden_size}
        if row.op == "embedding":
            return {"T": tokens, "C": sizes.hidden_size}
        if row.op == "silu_and_mul" and self._has_merged_gate:
            return {"T": tokens, "C": sizes.intermediate_size}
        return self._attention_axes(row) if row.op == "paged_attention" else None

    @property
    def _has_merged_gate(self) -> bool:
        """Whether the activation multiplies, too: without a merged linear it is another module that does."""
        return any(row.module.endswith("gate_up_proj") for row in self.record.rows)

    def _attention_axes(self, row: Row) -> dict[str, int] | None:
        """Of one call over a batch of whole prompts of one length, without a window."""
        batch = self.record.batch
        if row.phase != "prefill" or row.calls != 1 or batch is None or batch > _MAX_SEQUENCES:
            return None
        if self.tokens % batch or self.record.model.get("sliding_window") is not None:
            return None
        lengths = (self.tokens // batch,) * batch
        shape = StepShape(lengths, lengths, 0)
        return {
            "T": self.tokens,
            "H": self.sizes.heads,
            "D": self.sizes.head_dim,
            "KV": self.sizes.kv_heads,
            "S": batch,
            "J": shape.visible_pairs(None),
            "L": shape.visible_tokens(None),
        }


def _arithmetic(row: Row) -> str:
    choice = None if row.decision is None else row.decision.choice
    return choice if choice is not None and choice in get_args(Arithmetic) else UNKNOWN_ARITHMETIC


def _size(value: object) -> int | None:
    is_size = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MAX_SIZE
    return value if is_size and isinstance(value, int) else None


def _quantization(model: Mapping[str, object]) -> Mapping[str, object] | None:
    quantization = model.get("quantization_config")
    return quantization if isinstance(quantization, Mapping) else None


def _element_bytes(model: Mapping[str, object]) -> int | None:
    """Of an activation: as config.json says; engines of 4-bit weights compute with half-precision ones."""
    dtype = model.get("dtype", model.get("torch_dtype"))
    if isinstance(dtype, str):
        return _DTYPE_BYTES.get(dtype.removeprefix("torch."))
    return 2 if _quantization(model) is not None else None


def _weight_bytes(rows: int, columns: int, model: Mapping[str, object]) -> int | None:
    """Of a dense weight, or of one of GPTQ or AWQ; None for other schemes."""
    quantization = _quantization(model)
    if quantization is None:
        element = _element_bytes(model)
        return None if element is None else element * rows * columns
    bits, group = quantization.get("bits"), quantization.get("group_size")
    if not isinstance(bits, int) or bits not in (2, 3, 4, 8) or not isinstance(group, int):
        return None
    size = group if 0 < group <= columns else columns
    zeros = 0 if quantization.get("sym") is True else bits
    form = WeightForm("packed", "gptq", bits, size, size, _SCALE_BYTES, zeros_bits=zeros)
    return form.packed_bytes(rows, columns)
