"""How families of byte-level BPE cut a text into words before they merge: GGUF's `tokenizer.ggml.pre`.

The expressions are those that the families publish in their tokenizer.json files; names, defaults and what
they have in common are llama.cpp's. SOURCE: llama.cpp, src/llama-vocab.cpp. For tekken and gpt-4o llama.cpp
approximates what its own engine cannot say (upper and lower case and combining marks outside ASCII); here
stands the published expression, so that a GGUF gives the ids that the model was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PreTokenization:
    """How one family of byte-level BPE cuts a text into words before merging.

    `patterns` apply one after another, each to the pieces that the earlier ones left; what lies
    between two matches is a piece too. `ignore_merges` takes a word that is a token as it is.
    `adds_bos` is the default where the file names a BOS token and does not say.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False


_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_ONE_DIGIT, _THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}"
_GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORDS_AROUND_DIGITS = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35_WORDS = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED_CODER_WORDS = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
)
# A new word begins where lower case is followed by upper case.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS_BY_CASE = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
    rf"|%s| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_DEEPSEEK3_WORDS = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_DEEPSEEK_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛ"
    "ὝὟ-ώᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗ"
    "Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK_IDEOGRAPHS = "[一-龥ࠀ-一가-\ud7ff]+"

_GPT2 = PreTokenization((_GPT2_WORDS,))
_SMOLLM = PreTokenization((_ONE_DIGIT, _GPT2_WORDS))
_QWEN2 = PreTokenization((f"{_CONTRACTIONS}|{_WORDS_AROUND_DIGITS % _ONE_DIGIT}",))
_DBRX = PreTokenization((f"{_CONTRACTIONS}|{_WORDS_AROUND_DIGITS % _THREE_DIGITS}",))
_LLAMA3 = replace(_DBRX, ignore_merges=True, adds_bos=True)
_TEKKEN = PreTokenization((_WORDS_BY_CASE % ("", "", _ONE_DIGIT),), ignore_merges=True, adds_bos=True)
_GPT4O = PreTokenization((_WORDS_BY_CASE % (f"{_CONTRACTIONS}?", f"{_CONTRACTIONS}?", _THREE_DIGITS),))
_DEEPSEEK_LLM = PreTokenization(
    (
        r"[\r\n]",
        rf"\s?[{_DEEPSEEK_LETTERS}]+",
        "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        # Published as \s+$, which looks at a run of spaces once for each of them.
        r"(?<!\s)\s+$",
        _DEEPSEEK_IDEOGRAPHS,
        r"\p{N}+",
    )
)
_DEEPSEEK_CODER = PreTokenization((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_IDEOGRAPHS, _ONE_DIGIT))
_DEEPSEEK3 = PreTokenization((_THREE_DIGITS, "[一-龥぀-ゟ゠-ヿ]+", _DEEPSEEK3_WORDS))
_BLOOM = PreTokenization((r" ?[^(\s|.,!?…。，、।۔،)]+",))
# What files get that were made before `tokenizer.ggml.pre` existed.
_DEFAULT = PreTokenization((r"[\p{P}\$\+<=>\^~\|]+", _GPT2_WORDS, r"\p{N}+", "[0-9][0-9][0-9]"))

PRE_TOKENIZATIONS: Mapping[str, PreTokenization] = {
    "a.x-4.0": _GPT2,
    "bloom": _BLOOM,
    "codeshell": _SMOLLM,
    "command-r": _SMOLLM,
    "dbrx": _DBRX,
    "deepseek-coder": _DEEPSEEK_CODER,
    "deepseek-llm": _DEEPSEEK_LLM,
    "deepseek-r1-qwen": _QWEN2,
    "deepseek-v3": _DEEPSEEK3,
    "default": _DEFAULT,
    "exaone": _SMOLLM,
    "exaone4": _GPT2,
    "falcon-h1": _LLAMA3,
    "falcon3": _LLAMA3,
    "gigachat": _GPT2,
    "gpt-2": _GPT2,
    "gpt-4o": _GPT4O,
    "gpt3-finnish": _BLOOM,
    "granite-docling": _GPT2,
    "grok-2": _QWEN2,
    "hunyuan": _QWEN2,
    "hunyuan-dense": _DEEPSEEK3,
    "jais": _GPT2,
    "joyai-llm": _DEEPSEEK3,
    "kanana2": _GPT4O,
    "kormo": _QWEN2,
    "lfm2": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "llama4": _GPT4O,
    "megrez": _QWEN2,
    "mellum": _GPT2,
    "mellum2": _SMOLLM,
    "midm-2.0": _LLAMA3,
    "minerva-7b": _SMOLLM,
    "minimax-m2": _GPT4O,
    "mpt": _GPT2,
    "olmo": _GPT2,
    "phi-2": _GPT2,
    "pixtral": _LLAMA3,
    "poro-chat": _BLOOM,
    "qwen2": _QWEN2,
    "qwen35": PreTokenization((_QWEN35_WORDS,)),
    "refact": _SMOLLM,
    "seed-coder": PreTokenization((_SEED_CODER_WORDS,)),
    "smaug-bpe": _DBRX,
    "smollm": _SMOLLM,
    "solar-open": _QWEN2,
    "stablelm2": _QWEN2,
    "starcoder": _SMOLLM,
    "tekken": _TEKKEN,
    "trillion": _GPT2,
    "ufakzeka": PreTokenization((_WORDS_AROUND_DIGITS % _ONE_DIGIT,)),
    "viking": PreTokenization((*_BLOOM.patterns, _ONE_DIGIT)),
}
"""By the file's `tokenizer.ggml.pre`."""
