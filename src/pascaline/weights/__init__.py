"""What a linear or an embedding multiplies by: `Weight = Dense | Packed | Tiled | Slabbed`."""

from pascaline.weights.dense import Dense
from pascaline.weights.packed import Packed
from pascaline.weights.slabbed import Slabbed
from pascaline.weights.tiled import Tiled

Weight = Dense | Packed | Tiled | Slabbed

__all__ = ["Dense", "Packed", "Slabbed", "Tiled", "Weight"]
