"""What a linear or an embedding multiplies by: `Weight = Dense | Packed`."""

from pascaline.weights.dense import Dense
from pascaline.weights.packed import Packed

Weight = Dense | Packed

__all__ = ["Dense", "Packed", "Weight"]
