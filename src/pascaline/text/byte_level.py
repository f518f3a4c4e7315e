"""The alphabet of byte-level BPE: one printable character for each byte.

Bytes that are printable in Latin-1 stand for themselves; the others take the characters from U+0100
on, in order. SOURCE: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
"""

from __future__ import annotations

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = sorted(set(range(256)) - set(_PRINTABLE))
_BYTE_OF_CHARACTER: dict[str, int] = {
    **{chr(byte): byte for byte in _PRINTABLE},
    **{chr(0x100 + rank): byte for rank, byte in enumerate(_OTHERS)},
}


def bytes_of_byte_level_token(token: str) -> bytes:
    """The bytes that `token` spells; a token with a character outside the alphabet is plain text."""
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return token.encode()
