"""The checks. A new one is a file here and a line in `CHECKS`."""

from __future__ import annotations

from pascaline.doctor.check import Check
from pascaline.doctor.checks import (
    build_architectures,
    build_cmake,
    build_compiler,
    build_cudnn,
    build_nvcc,
    card,
    disk,
    driver,
    gpu_memory,
    hub,
    kernel,
    libstdcxx,
    memory,
    native_kernels,
    nvrtc,
    packages,
    pcie_link,
    power,
    processor,
    python,
    torch,
    visible_cards,
)

CHECKS: tuple[Check, ...] = (
    card.CHECK,
    driver.CHECK,
    visible_cards.CHECK,
    gpu_memory.CHECK,
    pcie_link.CHECK,
    power.CHECK,
    python.CHECK,
    packages.CHECK,
    torch.CHECK,
    libstdcxx.CHECK,
    nvrtc.CHECK,
    kernel.CHECK,
    processor.CHECK,
    native_kernels.CHECK,
    memory.CHECK,
    disk.CHECK,
    hub.CHECK,
    build_architectures.CHECK,
    build_nvcc.CHECK,
    build_compiler.CHECK,
    build_cudnn.CHECK,
    build_cmake.CHECK,
)
"""In the order in which they are told: the card first, then what runs on it, then what is beside it."""
