"""Whether a model fits a device, by the formulas that the engine allocates by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.kv.pages import PAGE_SIZE, page_bytes, pages_for
from pascaline.plan.activations import DeviceKind
from pascaline.plan.memory import MIN_USEFUL_CONTEXT, MemoryPlan, MemoryRequest, divide
from pascaline.workload.holdings import HeldWeight, Layout, resident_bytes

STEP_TOKENS = 512
"""Most new tokens in one step of the engine, if it is not told otherwise."""
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Device:
    """What a model is to fit: `available_bytes` of which the engine may use the share `utilization`.

    `is_free_now` : they were found free; else they are what the card has. `native_threads` : of the CPU's
    native kernels, 0 where plain torch computes.
    """

    name: str
    kind: DeviceKind
    available_bytes: int
    is_free_now: bool
    native_threads: int = 0
    utilization: float = 0.9

    @property
    def is_native(self) -> bool:
        return self.native_threads > 0

    @property
    def layout(self) -> Layout:
        """How packed weights are held there."""
        if self.kind == "cuda":
            return "slabbed"
        return "tiled" if self.is_native else "packed"

    @property
    def usable_bytes(self) -> int:
        return int(self.available_bytes * self.utilization)


@dataclass(frozen=True)
class Placement:
    """A model on a device, with keys and values of so many bytes each, for so many sequences at once."""

    config: ModelConfig
    held: Sequence[HeldWeight]
    device: Device
    key_value_element_bytes: int
    sequences: int

    @property
    def weights_bytes(self) -> int:
        return resident_bytes(self.held, self.device.layout)

    @property
    def kv_bytes_per_token(self) -> int:
        return page_bytes(self.config, self.key_value_element_bytes) // PAGE_SIZE

    def at(self, context: int) -> MemoryPlan:
        """What the engine takes for all sequences at a context, whether it fits or not."""
        return divide(
            self.config,
            MemoryRequest(
                device_kind=self.device.kind,
                available_bytes=_UNLIMITED,
                utilization=1.0,
                weights_bytes=self.weights_bytes,
                max_batch_tokens=max(STEP_TOKENS, self.sequences),
                max_sequences=self.sequences,
                max_model_len=context,
                pages=pages_for(context) * self.sequences,
                key_value_element_bytes=self.key_value_element_bytes,
                held=self.held,
                native_threads=self.device.native_threads,
                has_card_kernels=self.device.kind == "cuda",
            ),
        )

    def fits(self, context: int) -> bool:
        return self.at(context).total_bytes <= self.device.usable_bytes

    def longest_context(self) -> int:
        """That fits for all sequences, of those that the model can; 0 where not even a useful one does."""
        own = self.config.context_length
        least = min(own, MIN_USEFUL_CONTEXT)
        if not self.fits(least):
            return 0
        if self.fits(own):
            return own
        pages = largest(lambda count: self.fits(count * PAGE_SIZE), pages_for(least), own // PAGE_SIZE)
        return max(pages * PAGE_SIZE, least)

    def most_sequences(self, context: int, most: int) -> int:
        """That fit at a context, at most `most`; 0 where not one does."""

        def fit(count: int) -> bool:
            return replace(self, sequences=count).fits(context)

        return largest(fit, 1, most) if fit(1) else 0


def largest(fits: Callable[[int], bool], low: int, high: int) -> int:
    """The largest number from `low`, which fits, to `high` that fits; larger ones take more."""
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
