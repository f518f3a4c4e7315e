"""The same model in another format, and the smallest changes that make a model fit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pascaline.core.errors import ConfigError
from pascaline.core.units import format_bytes
from pascaline.hardware.gpus import Gpu, gpus
from pascaline.kv.pages import KEY_VALUE_BYTES
from pascaline.plan.placement import Device, Placement
from pascaline.workload.holdings import HeldWeight
from pascaline.workload.weight_form import TENSOR_FORMS, WeightForm

_SUFFIXES = ("_S", "_M", "_L", "_XL")
_SMALLER = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K")
"""What a model may be quantised to, the most bits first."""
_NOT_FOR_A_SLOT = re.compile(r"Laptop|Max-Q|Jetson|^G[BH]\d")
"""Parts of machines that nobody buys for another."""
DRIVER_SHARE = 0.02
"""Of a card's memory that its driver keeps: a TITAN X (Pascal) of 12 GiB states 12 196 MiB."""


@dataclass(frozen=True)
class Remedy:
    """A change that makes it fit.

    Parameters
    ----------
    change : in words; `arguments` : of the command that plans it.
    saves_bytes : less than what was asked for takes; 0 for a larger card.
    total_bytes : then.
    costs : what is lost.
    loss : from 0 to 1, by which changes are sorted: the least taken away first.
    """

    change: str
    arguments: str
    saves_bytes: int
    total_bytes: int
    costs: str
    loss: float


def form_named(name: str) -> WeightForm:
    """The form of linears in files of a quantisation ("Q4_K_M" is Q4_K for most of them).

    Raises
    ------
    ConfigError : there is no such type, or none that is read here.
    """
    wanted = name.upper()
    for suffix in ("", *_SUFFIXES):
        if wanted.endswith(suffix) and (form := TENSOR_FORMS.get(wanted.removesuffix(suffix))):
            return form
    raise ConfigError(f"no format is called {name!r:.40}", expected=", ".join(TENSOR_FORMS))


def in_format(held: Sequence[HeldWeight], form: WeightForm) -> list[HeldWeight]:
    """Linears of the layers in another form, where their inputs divide into its blocks; all else as it is."""

    def changes(item: HeldWeight) -> bool:
        is_linear = item.module.startswith("model.layers.") and len(item.parts[0].shape) == 2
        return is_linear and item.columns % max(form.super_size, 1) == 0

    return [replace(item, form=form) if changes(item) else item for item in held]


def remedies(placement: Placement, context: int) -> list[Remedy]:
    """What makes it fit, the least loss first; `context` is what every sequence is to have."""
    shorter = list(_shorter(placement, context))
    found = [
        *shorter,
        *_fewer(placement, context),
        *_narrower_cache(placement, context),
        *_formats(placement, context, at_any_context=not shorter),
        *_larger_cards(placement, context),
    ]
    return sorted(found, key=lambda each: each.loss)


def _remedy(
    before: Placement, after: Placement, contexts: tuple[int, int], words: tuple[str, str, str], loss: float
) -> Remedy:
    asked, then = before.at(contexts[0]).total_bytes, after.at(contexts[1]).total_bytes
    change, arguments, costs = words
    return Remedy(change, arguments, asked - then, then, costs, loss)


def _shorter(placement: Placement, context: int) -> Iterator[Remedy]:
    shorter = min(placement.longest_context(), context)
    if 0 < shorter < context:
        words = (
            f"a context of {shorter} tokens instead of {context}",
            f"--context {shorter}",
            f"{1 - shorter / context:.0%} of the context",
        )
        yield _remedy(placement, placement, (context, shorter), words, 1 - shorter / context)


def _fewer(placement: Placement, context: int) -> Iterator[Remedy]:
    fewer = placement.most_sequences(context, placement.sequences)
    if 0 < fewer < placement.sequences:
        words = (
            f"{fewer} sequences at once instead of {placement.sequences}",
            f"--concurrency {fewer}",
            "the others wait",
        )
        after = replace(placement, sequences=fewer)
        yield _remedy(placement, after, (context, context), words, 1 - fewer / placement.sequences)


def _narrower_cache(placement: Placement, context: int) -> Iterator[Remedy]:
    """The widest that fits, of those that the engine keeps there."""
    is_card = placement.device.kind == "cuda"
    for name, bits, loss, is_kept in (
        ("fp16", 11, 0.05, is_card or placement.device.is_native),
        ("int8", 8, 0.1, is_card),
    ):
        after = replace(placement, key_value_element_bytes=KEY_VALUE_BYTES[name])
        is_narrower = after.key_value_element_bytes < placement.key_value_element_bytes
        if is_kept and is_narrower and after.fits(context):
            words = f"keys and values in {name}", f"--kv-dtype {name}", f"these are rounded to {bits} bits"
            yield _remedy(placement, after, (context, context), words, loss)
            return


def _formats(placement: Placement, context: int, *, at_any_context: bool) -> Iterator[Remedy]:
    """The one with the most bits that fits as was asked; else the smallest, with the context that is left."""
    before = placement.weights_bytes
    for name in _SMALLER:
        after = replace(placement, held=in_format(placement.held, TENSOR_FORMS[name]))
        reached = context if after.fits(context) else min(after.longest_context(), context)
        is_last_hope = at_any_context and name == _SMALLER[-1]
        if after.weights_bytes >= before or reached == 0 or (reached < context and not is_last_hope):
            continue
        change, arguments = f"the linears in {name}", f"--format {name}"
        if reached < context:
            change, arguments = f"{change}, and a context of {reached}", f"{arguments} --context {reached}"
        costs = (
            f"{format_bytes(before - after.weights_bytes)} of weights; what that does to perplexity is not "
            "known before it is measured"
        )
        loss = 1 - after.weights_bytes / before * reached / context
        yield _remedy(placement, after, (context, reached), (change, arguments, costs), loss)
        return


def _larger_cards(placement: Placement, context: int) -> Iterator[Remedy]:
    if placement.device.kind != "cuda":
        return
    larger = [
        gpu
        for gpu in gpus()
        if card_bytes(gpu) > placement.device.available_bytes and not _NOT_FOR_A_SLOT.search(gpu.name)
    ]
    # The newest of a size: old ones are fast for their price, but hard to buy.
    for gpu in sorted(larger, key=lambda gpu: (gpu.memory_gib, -_capability(gpu), -gpu.bandwidth_gb_per_s)):
        device = Device(gpu.name, "cuda", card_bytes(gpu), is_free_now=False)
        after = replace(placement, device=device)
        if after.fits(context):
            words = (
                f"a card of {gpu.memory_gib:g} GB, such as {gpu.name}",
                f"--gpu '{gpu.name}'",
                "its price",
            )
            yield _remedy(placement, after, (context, context), words, 1.0)
            return


def _capability(gpu: Gpu) -> float:
    return float(gpu.compute_capability)


def card_bytes(gpu: Gpu) -> int:
    """Of a card's memory, what its driver leaves."""
    return int(gpu.memory_gib * 2**30 * (1 - DRIVER_SHARE))
