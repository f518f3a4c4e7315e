"""One way of computing a linear on a card, and how long it takes.

That is as long as its arithmetic or its memory traffic at the shares of the chip's limits that it reaches,
whichever is longer, and a launch for each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pascaline.hardware.architectures import Arithmetic as Unit
from pascaline.hardware.roofline import Roofline
from pascaline.kernels.cuda.linear_bounds import Arithmetic
from pascaline.kernels.cuda.linear_product import Product
from pascaline.kernels.cuda.recipe import Recipe
from pascaline.kernels.cuda.specialisation import ChipLimits, LaunchPlan
from pascaline.kernels.levels import Level


@dataclass(frozen=True)
class Shares:
    """What is reached of a chip's limits.

    Parameters
    ----------
    operations : of its unit's rate.
    bandwidth : of its memory's.
    """

    operations: float
    bandwidth: float


@dataclass(frozen=True)
class LinearWay:
    """One way.

    Parameters
    ----------
    name : "decode_two_planes".
    file : of its kernel.
    geometry : what it has a choice of; None if it has none.
    unit : of the chip, that multiplies.
    level : what it errs by.
    products : multiply-adds of `unit` for each of the linear's.
    rows_at_a_time : rows are padded to a multiple of it.
    unpacking : operations, at the unit's rate, that a weight takes whatever the rows.
    launches : steps, of a weight that is not taken in pieces.
    copied_bytes : of a weight that is written dense before it is multiplied, which takes a time of its own.
    shares : by compute capability, from which on they count; those of the newest that is no newer.
    refusal : why it cannot, None if it can.
    recipe : `recipe(product, geometry)`; None for the kernel's own choice of geometry.
    candidates : plans whose geometries are worth measuring, the default first; empty if there is no choice.
    arithmetic : what its error follows from.
    gates : a product whose outputs' first half are gates of the second is computed by the same launches.
    """

    name: str
    file: str
    geometry: type | None
    unit: Unit
    level: Level
    refusal: Callable[[Product], str | None]
    recipe: Callable[[Product, object], Recipe]
    shares: tuple[tuple[tuple[int, int], Shares], ...]
    arithmetic: Callable[[Product], Arithmetic]
    candidates: Callable[[Product], list[LaunchPlan]] = lambda _: []
    products: int = 1
    unpacking: float = 0.0
    launches: int = 1
    rows_at_a_time: int = 1
    copied_bytes: float = 0.0
    gates: bool = False
    needs: Callable[[ChipLimits], str | None] = field(default=lambda _: None)

    def predicted_s(self, product: Product, weight_bytes: int, roofline: Roofline) -> float:
        """Seconds of a product by a weight of so many bytes."""
        call = product.call
        capability = product.chip.compute_capability
        shares = next(
            (shares for since, shares in reversed(self.shares) if since <= capability), self.shares[0][1]
        )
        rows = -(-call.rows // self.rows_at_a_time) * self.rows_at_a_time
        weights = call.outputs * call.columns
        operations = (2.0 * rows * self.products + self.unpacking) * weights
        activations = call.rows * (
            call.columns * call.input_dtype.itemsize + call.outputs * call.output_dtype.itemsize
        )
        compute_s = operations / (roofline.operations_per_s[self.unit] * shares.operations)
        rate = roofline.bytes_per_s * shares.bandwidth
        dense_bytes = self.copied_bytes * weights
        copy_s = (weight_bytes + dense_bytes) / rate if dense_bytes else 0.0
        memory_s = ((dense_bytes or weight_bytes) + activations) / rate
        return copy_s + max(compute_s, memory_s) + self.launches * roofline.launch_s
