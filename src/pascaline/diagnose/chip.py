"""The chip that ran, as far as it is known, and what it and its library can do."""

from __future__ import annotations

from dataclasses import dataclass

from pascaline.core.errors import UnknownGpuError, UnsupportedError
from pascaline.hardware.architectures import Architecture, Arithmetic, architectures
from pascaline.hardware.efficiency import Efficiency, efficiency_of, library_efficiency
from pascaline.hardware.gpus import Gpu, find_gpu, gpus
from pascaline.report.run_record import Gpu as RecordedGpu
from pascaline.report.run_record import RunRecord

_MOST_CANDIDATES = 4
_LAUNCH_S = 5e-6
_CLOCKS_MHZ = (50.0, 10_000.0)
"""What a card can have been measured at while it computed."""


@dataclass(frozen=True)
class Rate:
    """Operations a second, and how one knows."""

    operations_per_s: float
    source: str


@dataclass(frozen=True)
class Chip:
    """A card, or as much of it as a record tells.

    Parameters
    ----------
    architecture : known whenever the compute capability is.
    gpu : the card of the table; None if only its capability is known.
    measured_clock_mhz : of the run, where it was recorded.
    """

    architecture: Architecture
    gpu: Gpu | None
    measured_clock_mhz: float | None = None

    @property
    def name(self) -> str:
        return self.gpu.name if self.gpu else f"a card of compute capability {self.capability}"

    @property
    def capability(self) -> str:
        return self.architecture.compute_capability

    @property
    def sm(self) -> str:
        """sm_61, as compilers call it."""
        return "sm_" + self.capability.replace(".", "")

    @property
    def version(self) -> tuple[int, int]:
        """The compute capability, comparable: (6, 1)."""
        major, _, minor = self.capability.partition(".")
        return int(major), int(minor)

    def ratio(self, arithmetic: Arithmetic, to: Arithmetic = "fp32") -> float:
        """Operations of one kind in the time of one of the other; 0 where there is no such unit."""
        rates = self.architecture.operations_per_clock_per_sm
        if self.gpu is not None:
            clock = self.gpu.max_mhz
            other = self.gpu.operations_per_s(to, clock)
            return self.gpu.operations_per_s(arithmetic, clock) / other if other else 0.0
        return rates.get(arithmetic, 0.0) / rates[to] if rates.get(to) else 0.0

    @property
    def has_tensor_cores(self) -> bool:
        return self.ratio("tensor_fp16") > 0

    def roof(self, arithmetic: Arithmetic) -> float | None:
        """Operations a second at the measured clock, else at the maximum; None for an unknown card."""
        if self.gpu is None:
            return None
        return self.gpu.operations_per_s(arithmetic, self.measured_clock_mhz or self.gpu.max_mhz)

    def library(self, arithmetic: Arithmetic) -> Rate | None:
        """What the vendor's large matrix products reach."""
        share = library_share(self.capability, arithmetic)
        if self.gpu is None or share is None:
            return None
        roof = self.gpu.operations_per_s(arithmetic, self.gpu.max_mhz)
        source = f"{share.operations_per_s:.3g} of the roof: {share.source}"
        return Rate(roof * share.operations_per_s, source) if roof else None

    def engine(self, arithmetic: Arithmetic) -> Rate | None:
        """What a good engine's own kernels reach in a prompt's linears."""
        if self.gpu is None:
            return None
        try:
            known = efficiency_of(self.capability, arithmetic)
        except UnsupportedError:
            return None
        roof = self.gpu.operations_per_s(arithmetic, self.gpu.max_mhz)
        return Rate(roof * known.compute, known.source) if roof else None

    @property
    def bytes_per_s(self) -> float | None:
        """Of its memory."""
        return self.gpu.bandwidth_gb_per_s * 1e9 if self.gpu else None

    @property
    def reached_bytes_per_s(self) -> float | None:
        """What engines' linears reach of it."""
        known = _engines(self.capability)
        return self.bytes_per_s * known.bandwidth if self.bytes_per_s and known else None

    @property
    def launch_s(self) -> float:
        """What a launch from the processor takes."""
        known = _engines(self.capability)
        return known.launch_s if known else _LAUNCH_S


def _engines(capability: str) -> Efficiency | None:
    """Bandwidth and launches, which are the same for every arithmetic."""
    try:
        return efficiency_of(capability, "int8")
    except UnsupportedError:
        return None


def library_share(capability: str, arithmetic: Arithmetic) -> Rate | None:
    """The share of the limit at maximum clock (as a rate of 1) that a vendor's matrix product reaches."""
    try:
        fraction, source = library_efficiency(capability, arithmetic)
    except UnsupportedError:
        return None
    return Rate(fraction, source)


def _in_table(recorded: RecordedGpu) -> Gpu | None:
    try:
        return find_gpu(recorded.name, memory_gib=recorded.memory_gib)
    except UnknownGpuError:
        return None


def _candidates(recorded: RecordedGpu) -> str:
    """The cards of the table that have the record's compute capability and memory."""
    same = [
        gpu.name
        for gpu in gpus()
        if gpu.compute_capability == recorded.compute_capability and gpu.memory_gib == recorded.memory_gib
    ]
    return f" ({', '.join(same)}?)" if 0 < len(same) <= _MOST_CANDIDATES else ""


def chip_of(record: RunRecord, gpu_name: str | None) -> tuple[Chip | None, list[str]]:
    """The chip that `gpu_name` or else the record names, and notes on what could not be told.

    Raises
    ------
    UnknownGpuError : `gpu_name` is in no table. A record's own name may be unknown.
    """
    recorded = record.gpu
    clock = recorded.clock_mhz_measured if recorded else None
    if clock is not None and not _CLOCKS_MHZ[0] <= clock <= _CLOCKS_MHZ[1]:
        clock = None
    if gpu_name is not None:
        gpu = find_gpu(gpu_name)
        notes = []
        if recorded and recorded.compute_capability not in (None, gpu.compute_capability):
            notes.append(
                f"The record is of compute capability {recorded.compute_capability}; diagnosed as asked,"
                f" for {gpu.name} with {gpu.compute_capability}."
            )
        return Chip(gpu.architecture, gpu, clock), notes
    if recorded is None and record.cpu is not None:
        return None, []
    if recorded is None:
        return None, [
            "The record names no GPU: rules that depend on the chip say nothing. Name it with --gpu."
        ]
    card = _in_table(recorded)
    if card is not None and recorded.compute_capability in (None, card.compute_capability):
        return Chip(card.architecture, card, clock), []
    architecture = architectures().get(recorded.compute_capability or "")
    note = f"The record's GPU, {recorded.name!r}, is not one card of the table"
    if architecture is None:
        return None, [f"{note}: rules that depend on the chip say nothing. Name it with --gpu."]
    known = f"only its compute capability, {architecture.compute_capability}, is used"
    return Chip(architecture, None, clock), [f"{note}: {known}. Name it with --gpu{_candidates(recorded)}."]
