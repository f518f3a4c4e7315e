"""One file a cause. A new rule is a file, a line in `RULES`, and its two fixtures."""

from __future__ import annotations

import sys

from pascaline.diagnose.rule import Rule
from pascaline.diagnose.rules import (
    act_order_gather,
    at_the_library_rate,
    clock_sag,
    dequantised_to_half,
    double_precision,
    driver_too_new,
    driver_too_old,
    far_below_the_library_rate,
    half_arithmetic_without_units,
    half_conversions,
    host_device_copies,
    launch_bound,
    layers_on_cpu,
    no_kernel_image,
    page_pool_starved,
    tensor_cores_absent,
    tensor_cores_unused,
)

RULES: tuple[Rule, ...] = (
    half_arithmetic_without_units.RULE,
    dequantised_to_half.RULE,
    half_conversions.RULE,
    tensor_cores_unused.RULE,
    tensor_cores_absent.RULE,
    double_precision.RULE,
    launch_bound.RULE,
    layers_on_cpu.RULE,
    host_device_copies.RULE,
    no_kernel_image.RULE,
    driver_too_old.RULE,
    driver_too_new.RULE,
    act_order_gather.RULE,
    page_pool_starved.RULE,
    clock_sag.RULE,
    at_the_library_rate.RULE,
    far_below_the_library_rate.RULE,
)


def page_of(rule: Rule) -> str:
    """The rule's page: its file's docstring, Markdown."""
    return sys.modules[rule.check.__module__].__doc__ or ""


def title_of(rule: Rule) -> str:
    """The page's first line."""
    return page_of(rule).partition("\n")[0].rstrip(".")


__all__ = ["RULES", "page_of", "title_of"]
