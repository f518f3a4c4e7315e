"""GGUF files taken apart, changed, and put together again, whatever their fields then say."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from random import Random

STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_WIDTHS = {kind: struct.calcsize("<" + code) for kind, code in _SCALARS.items()}
INTEGERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 255, 256, 257, 1000, 4096, 65535, 65536, 10**6, 2**24),
    *(2**30, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**53, 2**60, 2**61, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 32, 2**64 - 8, 2**64 - 1),
)
_FLOATS = (0.0, -1.0, 1e-45, 1e-300, 5e-324, 1e300, 1.0, 10000.0, 1e38, float("nan"), float("inf"))
_NAMES = (
    *(
        b"",
        b"\0",
        b"a\0b",
        b"../../x",
        b"/etc/passwd",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\x1b[2J",
        b"a" * 65535,
    ),
    *(
        b"output.weight",
        b"token_embd.weight",
        b"rope_freqs.weight",
        b"blk.0.attn_q.bias",
        b"blk.999.ffn_up.weight",
    ),
    *(
        b"rope_factors_long.weight",
        b"rope_factors_short.weight",
        b"blk.0.attn_q.weight",
        b"output_norm.weight",
    ),
)
KEYS = (
    *("general.architecture", "general.alignment", "split.no", "split.count", "split.tensors.count"),
    *("llama.vocab_size", "llama.embedding_length", "llama.feed_forward_length", "llama.block_count"),
    *("llama.context_length", "llama.attention.head_count", "llama.attention.head_count_kv"),
    *("llama.attention.key_length", "llama.attention.value_length", "llama.rope.freq_base"),
    *("llama.attention.layer_norm_rms_epsilon", "llama.rope.dimension_count", "llama.rope.scaling.type"),
    *("llama.rope.scaling.factor", "llama.rope.scaling.original_context_length", "llama.expert_count"),
    *("llama.rope.scaling.yarn_beta_fast", "llama.rope.scaling.yarn_beta_slow", "llama.attention.scale"),
    *("llama.rope.scaling.attn_factor", "llama.attention.sliding_window", "llama.final_logit_softcapping"),
    *("llama.attention.sliding_window_pattern", "llama.attn_logit_softcapping", "llama.rope.freq_base_swa"),
    *("tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.merges"),
    *("tokenizer.ggml.token_type", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"),
    *("tokenizer.ggml.pre", "tokenizer.chat_template", "tokenizer.ggml.eot_token_id"),
)
_ARCHITECTURES = (b"llama", b"qwen2", b"qwen3", b"phi3", b"gemma2", b"gemma3", b"", b"\0", b"mamba")


@dataclass
class Tensor:
    """An entry of the directory; `axes` is the written number of axes where it is not len(shape)."""

    name: bytes
    shape: list[int]
    kind: int
    offset: int
    axes: int | None = None


@dataclass
class GgufParts:
    """A file's parts; `tensor_count` and `key_count` are what is written where that is a lie.

    `keys` holds (key, type, the value's bytes: for an array item type, length and items).
    """

    version: int = 3
    keys: list[tuple[bytes, int, bytes]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    alignment: int = 32
    tensor_count: int | None = None
    key_count: int | None = None

    @classmethod
    def parse(cls, raw: bytes) -> GgufParts:
        """Raises ValueError or struct.error for what has not this shape."""
        magic, version, tensor_count, key_count = struct.unpack_from("<4sIQQ", raw)
        if magic != b"GGUF" or tensor_count > 10_000 or key_count > 10_000:
            raise ValueError("no such file")
        parts, position = cls(version), 24
        for _ in range(key_count):
            key, position = _text(raw, position)
            kind = struct.unpack_from("<I", raw, position)[0]
            stop = _value_end(raw, position + 4, kind)
            parts.keys.append((key, kind, raw[position + 4 : stop]))
            position = stop
        for _ in range(tensor_count):
            name, position = _text(raw, position)
            axes = struct.unpack_from("<I", raw, position)[0]
            if axes > 16:
                raise ValueError("too many axes")
            *shape, kind, offset = struct.unpack_from(f"<{axes}QIQ", raw, position + 4)
            position += 16 + 8 * axes
            parts.tensors.append(Tensor(name, shape, kind, offset))
        parts.data = raw[-(-position // 32) * 32 :]
        return parts

    def to_bytes(self) -> bytes:
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.keys) if self.key_count is None else self.key_count
        pieces = [struct.pack("<4sIQQ", b"GGUF", self.version, tensor_count, key_count)]
        for key, kind, value in self.keys:
            pieces += [_packed(key), struct.pack("<I", kind), value]
        for tensor in self.tensors:
            axes = len(tensor.shape) if tensor.axes is None else tensor.axes
            pieces += [_packed(tensor.name), struct.pack("<I", axes)]
            pieces.append(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.kind, tensor.offset))
        head = b"".join(pieces)
        return head + bytes(-len(head) % self.alignment) + self.data


def mutate_gguf(raw: bytes, random: Random) -> bytes | None:
    """The file with one to four changes; None where it has not a GGUF's shape any more."""
    try:
        parts = GgufParts.parse(raw)
    except (ValueError, struct.error):
        return None
    for _ in range(random.choice((1, 1, 2, 4))):
        kind = random.randrange(10)
        if kind < 5 and parts.keys:
            _change_key(parts, random)
        elif kind < 9 and parts.tensors:
            _change_tensor(parts, random)
        else:
            _change_frame(parts, random)
    changed = parts.to_bytes()
    if random.random() < 0.05:
        return changed[: random.randrange(len(changed))]
    return changed


def _change_key(parts: GgufParts, random: Random) -> None:
    index = random.randrange(len(parts.keys))
    key, kind, value = parts.keys[index]
    choice = random.randrange(9)
    if choice == 0:
        del parts.keys[index]
    elif choice == 1:
        parts.keys.insert(random.randrange(len(parts.keys)), parts.keys[index])
    elif choice == 2:
        parts.keys[index] = (random.choice((*_NAMES, *(name.encode() for name in KEYS))), kind, value)
    elif choice == 3:
        parts.keys[index] = (key, random.choice((*range(14), 2**32 - 1)), value)
    elif choice == 4 and key == b"general.architecture":
        parts.keys[index] = (key, kind, _packed(random.choice(_ARCHITECTURES)))
    elif choice <= 5:
        parts.keys[index] = (key, *_random_value(random))
    elif choice == 6:
        parts.keys.append((random.choice(KEYS).encode(), *_random_value(random)))
    elif kind == ARRAY and len(value) >= 12:
        count = random.choice((*INTEGERS, len(value) // 8, len(value)))
        parts.keys[index] = (key, kind, value[:4] + struct.pack("<Q", count) + value[12:])
    elif kind == STRING:
        parts.keys[index] = (key, kind, struct.pack("<Q", random.choice(INTEGERS)) + value[8:])
    elif kind in _SCALARS:
        parts.keys[index] = (key, kind, _scalar(kind, random))


def _random_value(random: Random) -> tuple[int, bytes]:
    kind = random.choice((*_SCALARS, STRING, ARRAY, ARRAY))
    if kind == STRING:
        return kind, _packed(
            random.choice((*_NAMES, b"yarn", b"linear", b"longrope", b"none", b"gpt2", b"llama"))
        )
    if kind != ARRAY:
        return kind, _scalar(kind, random)
    item, count = random.choice((*_SCALARS, STRING, ARRAY)), random.choice((0, 1, 2, 3, 8, 40, 3000))
    if item == STRING:
        items = b"".join(_packed(random.choice(_NAMES[:8])) for _ in range(count))
    elif item == ARRAY:
        items = struct.pack("<IQ", random.choice(tuple(_SCALARS)), count) * count
    else:
        items = _scalar(item, random) * count
    return kind, struct.pack("<IQ", item, count) + items


def _scalar(kind: int, random: Random) -> bytes:
    code = "<" + _SCALARS[kind]
    if _SCALARS[kind] in "fd":
        number = random.choice(_FLOATS)
        packed: bytes = struct.pack(code, number if kind == 12 or number != 1e300 else 3e38)
        return packed
    width = _WIDTHS[kind]
    return int(random.choice(INTEGERS) % 2 ** (8 * width)).to_bytes(width, "little")


def _change_tensor(parts: GgufParts, random: Random) -> None:
    index = random.randrange(len(parts.tensors))
    tensor = parts.tensors[index]
    choice = random.randrange(9)
    if choice == 0:
        del parts.tensors[index]
    elif choice == 1:
        copy = Tensor(random.choice((tensor.name, *_NAMES)), list(tensor.shape), tensor.kind, tensor.offset)
        parts.tensors.append(copy)
    elif choice == 2:
        tensor.name = random.choice(_NAMES)
    elif choice == 3:
        tensor.kind = random.choice((*range(45), 2**31, 2**32 - 1))
    elif choice == 4:
        tensor.offset = random.choice((*INTEGERS, (tensor.offset + 32) % 2**64, max(tensor.offset - 32, 0)))
    elif choice == 5:
        tensor.axes = random.choice((0, 1, 2, 3, 4, 5, 255, 2**32 - 1))
    elif choice == 6:
        tensor.shape = [random.choice(INTEGERS) for _ in range(random.randrange(6))]
    elif tensor.shape:
        axis = random.randrange(len(tensor.shape))
        tensor.shape[axis] = random.choice((*INTEGERS, (tensor.shape[axis] * 2) % 2**64))


def _change_frame(parts: GgufParts, random: Random) -> None:
    choice = random.randrange(6)
    if choice == 0:
        parts.version = random.choice((0, 1, 2, 3, 4, 0x02000000, 0x03000000, 2**32 - 1))
    elif choice == 1:
        parts.tensor_count = random.choice(INTEGERS)
    elif choice == 2:
        parts.key_count = random.choice(INTEGERS)
    elif choice == 3:
        parts.alignment = random.choice((1, 8, 64, 4096))
    elif choice == 4:
        parts.data = parts.data[: random.randrange(len(parts.data) + 1)]
    elif parts.data:
        position = random.randrange(len(parts.data))
        noise = random.randbytes(random.choice((1, 2, 64)))
        parts.data = parts.data[:position] + noise + parts.data[position + len(noise) :]


def _packed(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _text(raw: bytes, position: int) -> tuple[bytes, int]:
    length = struct.unpack_from("<Q", raw, position)[0]
    stop = position + 8 + length
    if stop > len(raw):
        raise ValueError("a text past the end")
    return raw[position + 8 : stop], stop


def _value_end(raw: bytes, position: int, kind: int) -> int:
    if kind == STRING:
        return _text(raw, position)[1]
    if kind != ARRAY:
        return position + _WIDTHS.get(kind, 0)
    item, count = struct.unpack_from("<IQ", raw, position)
    position += 12
    if item != STRING:
        position += count * _WIDTHS.get(item, 0)
    for _ in range(min(count, len(raw)) if item == STRING else 0):
        position = _text(raw, position)[1]
    if position > len(raw):
        raise ValueError("a value past the end")
    return position
