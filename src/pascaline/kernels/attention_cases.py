"""What attention over pages is tested with."""

from __future__ import annotations

import torch

from pascaline.kernels.op import Case

CASES = (
    Case(
        "decode, unequal contexts",
        {"T": 5, "S": 5, "H": 6, "KV": 2, "D": 16, "P": 24, "B": 8, "W": 4},
        {"scale": 0.25},
    ),
    Case(
        "prefill and decode together",
        {"T": 14, "S": 3, "H": 9, "KV": 3, "D": 64, "P": 12, "B": 16, "W": 2},
        {"scale": 0.125},
    ),
    Case(
        "prefill after history",
        {"T": 9, "S": 1, "H": 4, "KV": 4, "D": 8, "P": 6, "B": 4, "W": 6},
        {"scale": 0.35},
    ),
    Case(
        "decode in a window",
        {"T": 6, "S": 6, "H": 4, "KV": 2, "D": 16, "P": 40, "B": 8, "W": 6},
        {"scale": 0.25, "window": 11},
    ),
    Case(
        "decode in a window of one",
        {"T": 2, "S": 2, "H": 2, "KV": 1, "D": 8, "P": 8, "B": 4, "W": 3},
        {"scale": 0.25, "window": 1},
    ),
    Case(
        "prefill and decode in a window",
        {"T": 33, "S": 3, "H": 6, "KV": 3, "D": 16, "P": 30, "B": 8, "W": 6},
        {"scale": 0.25, "window": 9},
    ),
    Case(
        "prefill in a window after history",
        {"T": 12, "S": 1, "H": 4, "KV": 2, "D": 8, "P": 8, "B": 4, "W": 6},
        {"scale": 0.35, "window": 6},
    ),
    Case(
        "decode with a soft cap",
        {"T": 5, "S": 5, "H": 6, "KV": 2, "D": 16, "P": 24, "B": 8, "W": 4},
        {"scale": 1.0, "softcap": 3.0},
    ),
    Case(
        "prefill with a soft cap, in a window, after history",
        {"T": 21, "S": 2, "H": 4, "KV": 2, "D": 8, "P": 20, "B": 4, "W": 8},
        {"scale": 1.0, "softcap": 2.0, "window": 7},
    ),
    Case(
        "decode with a soft cap in a window",
        {"T": 3, "S": 3, "H": 4, "KV": 1, "D": 8, "P": 30, "B": 4, "W": 8},
        {"scale": 1.0, "softcap": 2.0, "window": 5},
    ),
    Case(
        "prefill with a soft cap in several blocks",
        {"T": 300, "S": 1, "H": 64, "KV": 2, "D": 2, "P": 20, "B": 16, "W": 20},
        {"scale": 1.0, "softcap": 2.0},
    ),
    Case(
        "decode in a window over int8",
        {"T": 6, "S": 6, "H": 4, "KV": 2, "D": 16, "P": 40, "B": 8, "W": 6},
        {"scale": 0.25, "window": 11},
    ),
    Case(
        "prefill and decode together over int8",
        {"T": 14, "S": 3, "H": 9, "KV": 3, "D": 64, "P": 12, "B": 16, "W": 2},
        {"scale": 0.125},
    ),
)


def make_inputs(case: Case, generator: torch.Generator) -> tuple[object, ...]:
    sizes = case.axes
    contexts = torch.randint(1, sizes["B"] * sizes["W"] + 1, (sizes["S"],), generator=generator)
    if case.name.startswith("decode"):
        queries = torch.ones(sizes["S"], dtype=torch.int64)
    else:
        contexts[0] = sizes["T"] - (sizes["S"] - 1)
        queries = torch.tensor([sizes["T"] - (sizes["S"] - 1)] + [1] * (sizes["S"] - 1))
        if "history" in case.name:
            contexts[0] = min(int(contexts[0]) + 5, sizes["B"] * sizes["W"])
    cache = (sizes["P"], sizes["B"], sizes["KV"], sizes["D"])
    table = torch.randperm(sizes["P"], generator=generator)[: sizes["S"] * sizes["W"]]
    table = table.view(sizes["S"], sizes["W"])
    # Whatever nobody wrote is NaN: other pages, the rest of a last page.
    own = torch.zeros(sizes["P"], sizes["B"], dtype=torch.bool)
    own[table] = (torch.arange(sizes["W"] * sizes["B"]) < contexts[:, None]).view(*table.shape, -1)
    stale = ~own[:, :, None, None]
    query = torch.randn(sizes["T"], sizes["H"], sizes["D"], generator=generator)
    caches, scales = [], []
    for _ in ("keys", "values"):
        if "int8" in case.name:
            caches.append(torch.randint(-127, 128, cache, generator=generator, dtype=torch.int8))
            of_heads = torch.rand(sizes["P"], sizes["KV"], sizes["B"], generator=generator) / 64
            scales.append(of_heads.masked_fill(~own[:, None], float("nan")))
        else:
            caches.append(torch.randn(cache, generator=generator).masked_fill(stale, float("nan")))
    return (
        *(query, *caches, table.int()),
        torch.cat((torch.zeros(1, dtype=torch.int64), queries.cumsum(0))).int(),
        contexts.int(),
        *(scales or (None, None)),
    )
