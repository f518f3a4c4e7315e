"""What a linear or an embedding multiplies by: `Weight = Dense | Packed`."""

from pascaline.weights.dense import Dense
from pascaline.weights.packed import Packed

Weight = Dense | Packed


def concatenate(first: Weight, second: Weight) -> Weight | None:
    """Both weights' rows in one, or None where they are packed differently."""
    if isinstance(first, Dense) and isinstance(second, Dense):
        return first.concatenate(second)
    if isinstance(first, Packed) and isinstance(second, Packed):
        return first.concatenate(second)
    return None


__all__ = ["Dense", "Packed", "Weight", "concatenate"]
