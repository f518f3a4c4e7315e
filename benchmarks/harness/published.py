"""Speeds that others published (published_figures.toml), checked as they are read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pascaline.checkpoint.model_config import ModelConfig
from pascaline.hardware.architectures import Arithmetic
from pascaline.hardware.gpus import Gpu, find_gpu

FIGURES = Path(__file__).resolve().parents[1] / "published_figures.toml"


@dataclass(frozen=True)
class PublishedModel:
    """A model's shape, and how many parameters its authors say that it has."""

    name: str
    config: ModelConfig
    parameters: float


@dataclass(frozen=True)
class PublishedFormat:
    """Bits a weight takes with its scales, in the layers and in the output matrix."""

    name: str
    bits: float
    head_bits: float


@dataclass(frozen=True)
class Figure:
    """One published speed, of one sequence.

    Parameters
    ----------
    tokens : of the prompt, or tokens in the cache when one is decoded (the mean of the run).
    microbatch : most tokens that a pass over the prompt takes.
    arithmetic : the unit that multiplies the weights; `half_accumulation` : tensor cores add in half
        precision, for which GeForce cards have twice the rate.
    computes_logits : whether a decoded token's logits are computed; llama-bench leaves them out of a
        prompt that it takes token by token.
    launches : whether kernels were launched one by one or from a recording, in decoding.
    not_counted : why it is held against the roof only; empty for all others.
    read : the piece of the source that holds the number.
    """

    card: Gpu
    model: PublishedModel
    format: PublishedFormat
    phase: Literal["prefill", "decode"]
    tokens: int
    microbatch: int
    tokens_per_s: float
    arithmetic: Arithmetic
    half_accumulation: bool
    computes_logits: bool
    launches: Literal["separate", "recorded"]
    not_counted: str
    engine: str
    url: str
    read: str

    @property
    def name(self) -> str:
        detail = f"{self.tokens} tokens" if self.phase == "prefill" else f"at {self.tokens}"
        return f"{self.card.name}, {self.model.name} {self.format.name}, {self.phase} {detail}"


@dataclass(frozen=True)
class LibraryFigure:
    """What the vendor's matrix products reached on a card, in operations a second."""

    card: Gpu
    arithmetic: Arithmetic
    operations_per_s: float
    url: str

    @property
    def share(self) -> float:
        """Of the card's limit at its maximum clock."""
        return self.operations_per_s / self.card.operations_per_s(self.arithmetic, self.card.max_mhz)


def read_figures(path: Path = FIGURES) -> tuple[Figure, ...]:
    """All published speeds of engines, in the file's order. An unknown key raises."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    models = {row["name"]: _model(row) for row in data["model"]}
    formats = {row["name"]: PublishedFormat(**row) for row in data["format"]}
    return tuple(
        _figure(row, source, models, formats) for source in data["source"] for row in source["figures"]
    )


def read_library_figures(path: Path = FIGURES) -> tuple[LibraryFigure, ...]:
    """All published rates of matrix products, in the file's order."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return tuple(
        LibraryFigure(find_gpu(row["card"]), cast(Arithmetic, unit), tflops * 1e12, source["url"])
        for source in data["library"]
        for row in source["figures"]
        for unit, tflops in row["tflops"].items()
    )


def _figure(
    row: Mapping[str, Any],
    source: Mapping[str, Any],
    models: Mapping[str, PublishedModel],
    formats: Mapping[str, PublishedFormat],
) -> Figure:
    row = dict(row)
    phase = row.pop("phase")
    tokens = row.pop("tokens" if phase == "prefill" else "context")
    figure = Figure(
        card=find_gpu(row.pop("card")),
        model=models[row.pop("model")],
        format=formats[row.pop("format")],
        phase=phase,
        tokens=tokens,
        microbatch=row.pop("microbatch", tokens) if phase == "prefill" else 1,
        half_accumulation=row.pop("accumulate", "fp32") == "fp16",
        computes_logits=row.pop("logits", True),
        launches=row.pop("launches", source["launches"]),
        not_counted=row.pop("counted", ""),
        engine=source["engine"],
        url=source["url"],
        **{name: row.pop(name) for name in ("tokens_per_s", "arithmetic", "read")},
    )
    if row:
        raise ValueError(f"{figure.name}: unknown keys {sorted(row)}")
    return figure


def _model(row: Mapping[str, Any]) -> PublishedModel:
    row = dict(row)
    config = ModelConfig(
        rms_norm_eps=1e-6,
        rope_theta=1e4,
        rope_scaling=None,
        max_position_embeddings=1 << 17,
        attention_bias=False,
        mlp_bias=False,
        hidden_act=row.pop("hidden_act", "silu"),
        bos_token_id=None,
        eos_token_ids=(),
        tie_word_embeddings=row.pop("tie_word_embeddings", False),
        **{name: value for name, value in row.items() if name not in ("name", "parameters")},
    )
    return PublishedModel(row["name"], config, row["parameters"])
