"""What a linear or an embedding multiplies by: `Weight = Dense | Packed | Tiled`."""

from pascaline.weights.dense import Dense
from pascaline.weights.packed import Packed
from pascaline.weights.tiled import Tiled

Weight = Dense | Packed | Tiled

__all__ = ["Dense", "Packed", "Tiled", "Weight"]
