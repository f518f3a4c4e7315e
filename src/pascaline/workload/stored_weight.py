"""What a checkpoint's directory says of one weight: found and checked, not read."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.workload.weight_form import TENSOR_FORMS, WeightForm

SCALE_BYTES = {"F16": 2, "BF16": 2, "F32": 4}
"""Element types of quantised linears' scales."""


@dataclass(frozen=True)
class StoredTensor:
    """A weight that is one tensor, of one of `TENSOR_FORMS`."""

    name: str
    type_name: str
    shape: tuple[int, ...]

    @property
    def form(self) -> WeightForm:
        return TENSOR_FORMS[self.type_name]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def joins(self, other: StoredWeightEntry) -> bool:
        """Whether the other's rows below these are one weight of the same form."""
        alike = isinstance(other, StoredTensor) and self.type_name == other.type_name
        return alike and self.shape[1:] == other.shape[1:]


@dataclass(frozen=True)
class StoredLinear:
    """A quantised linear of several tensors.

    Parameters
    ----------
    method : the scheme's name, by which `formats` finds its reader.
    rows, columns, bits, group_size : N, K, bits of a code, elements of K that share a scale.
    words, scales : names of the tensors of codes and scales.
    scale_type : the scales' element type, in which they are kept.
    zeros : the tensor of stored zeros, None where there are none.
    zero : what is taken off every code, beside stored zeros.
    symmetric : the stored zeros should all be the same, and take no memory then.
    group_index : the tensor of each input's group, None where inputs are in the order of their groups.
    presumed_order : what is presumed of that order before the tensor is read: True where it is another
        than the inputs'.
    """

    method: str
    rows: int
    columns: int
    bits: int
    group_size: int
    words: str
    scales: str
    scale_type: str
    zeros: str | None
    zero: int
    symmetric: bool
    group_index: str | None
    presumed_order: bool

    @property
    def form(self) -> WeightForm:
        """Presumed, until zeros and groups are read."""
        return WeightForm(
            "packed",
            self.method,
            self.bits,
            self.group_size,
            self.group_size,
            SCALE_BYTES[self.scale_type],
            zeros_bits=0 if self.zeros is None or self.symmetric else self.bits,
            is_permuted=self.presumed_order,
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows, self.columns

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(
            name for name in (self.words, self.scales, self.zeros, self.group_index) if name is not None
        )

    def joins(self, other: StoredWeightEntry) -> bool:
        """Whether the other's rows below these are one weight of the same form, orders aside."""
        if not isinstance(other, StoredLinear):
            return False
        settings = (self.form, self.scale_type, self.zero, self.symmetric, self.zeros is None)
        others = (other.form, other.scale_type, other.zero, other.symmetric, other.zeros is None)
        return self.columns == other.columns and settings == others


StoredWeightEntry = StoredTensor | StoredLinear
