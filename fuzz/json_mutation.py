"""Random changes to JSON documents: types, numbers, sizes, keys, nesting, and the text itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

NUMBERS: Sequence[Any] = (
    *(0, -0.0, 1, -1, 2, 3, 7, 8, 31, 32, 33, 64, 127, 128, 255, 256, 65535, 65536, 10**6),
    *(2**24, 2**24 + 1, 2**30, 2**31 - 1, 2**31, 2**32, 2**53, 2**60, 2**63 - 1, 2**63, 2**64, 10**30),
    *(-(2**31), -(2**63), -(10**30), 0.5, 1.5, 1e-5, 1e-38, 1e-320, 5e-324, 1e38, 1.7e308, -1.7e308),
    *(float("nan"), float("inf"), float("-inf")),
)
TEXTS: Sequence[str] = (
    *("", " ", "\0", "a\0b", "\ud800", "\x1b[2J", "😀", "🇦🇧", "../../etc/passwd", "/etc/passwd", "a/b", "."),
    *("..", "C:\\x", "%s%n", "{0}", "'", '"', "true", "null", "0", "-1", "1e9", "x" * 300, "y" * 70_000),
    *("Linear", "default", "yarn", "llama3", "longrope", "linear", "su", "model.bin", "gptq_v2", "silu"),
)
OTHERS: Sequence[Any] = (None, True, False, [], {}, [[]], [{}], {"": None}, [None], [0], ["a"], {"a": 0})
_DEEP = (40, 120, 500, 980, 5000, 100_000)


def mutate_json(value: Any, random: Random, keys: Sequence[str] = ()) -> Any:
    """A copy of `value` with one to four changes; `keys` are names that the reader knows."""
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 2, 4))):
        value = _changed(value, random, keys)
    return value


def mutate_text(text: str, random: Random) -> str:
    """A change that no JSON tree can have: doubled keys, deep nesting, cuts, stray characters."""
    start = random.randrange(len(text) + 1)
    kind = random.randrange(6)
    if kind == 0:
        return text[:start]
    if kind == 1:
        depth = random.choice(_DEEP)
        opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
        hole = text.find(":", start) + 1
        return text[:hole] + opening * depth + "0" + closing * depth + text[hole:].lstrip("0123456789")
    if kind == 2:
        stop = text.find(",", start)
        return text[:stop] + text[text.rfind(",", 0, stop) : stop] + text[stop:] if stop > 0 else text
    if kind == 3:
        return text[:start] + random.choice(("\ufeff", "\0", ",", "]", "}", '"', "9" * 5000, "\\ud800"))
    if kind == 4:
        stop = min(len(text), start + random.choice((1, 3, 20)))
        return text[:start] + text[stop:]
    return text[:start] + text[start : start + 40] * random.choice((2, 50)) + text[start:]


def _changed(value: Any, random: Random, keys: Sequence[str]) -> Any:
    """Descend a random way, and change what is there."""
    if isinstance(value, dict) and value and random.random() < 0.85:
        key = random.choice(list(value))
        if random.random() < 0.8:
            value[key] = _changed(value[key], random, keys)
        else:
            _change_keys(value, key, random, keys)
        return value
    if isinstance(value, list) and value and random.random() < 0.7:
        index = random.randrange(len(value))
        kind = random.randrange(6)
        if kind == 0:
            del value[index]
        elif kind == 1:
            value = value[:index] + [value[index]] * random.choice((2, 3, 100, 3000)) + value[index:]
        elif kind == 2:
            value[index] = value[random.randrange(len(value))]
        else:
            value[index] = _changed(value[index], random, keys)
        return value
    return _replacement(value, random)


def _change_keys(value: dict[str, Any], key: str, random: Random, keys: Sequence[str]) -> None:
    kind = random.randrange(5)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[random.choice([*TEXTS, *keys])] = value.pop(key)
    elif kind == 2:
        value[random.choice([*TEXTS[:20], *keys])] = _replacement(value[key], random)
    elif kind == 3:
        other = random.choice(list(value))
        value[key], value[other] = value[other], value[key]
    else:
        for number in range(random.choice((10, 1000))):
            value[f"{key}{number}"] = value[key] if isinstance(value[key], int | str) else number


def _replacement(value: Any, random: Random) -> Any:
    kind = random.randrange(10)
    if kind < 4 and isinstance(value, int | float) and not isinstance(value, bool):
        if kind < 2:
            return value + random.choice((-1, 1, -2, 2, 8, -8))
        return value * random.choice((-1, 2, 3, 1000, 2**20)) if kind == 2 else value // 2
    if kind < 4 and isinstance(value, str) and value:
        start = random.randrange(len(value))
        return random.choice(
            (value[:start], value[start:], value + value, value.upper(), value + TEXTS[kind])
        )
    if kind < 7:
        return random.choice(NUMBERS)
    return random.choice(TEXTS) if kind < 8 else json.loads(json.dumps(random.choice(OTHERS)))
