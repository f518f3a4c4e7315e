"""Pascaline: LLM inference that measures the GPU you have.

>>> from pascaline import LLM, SamplingParams
>>> LLM("demo").generate("2 + 2 =", SamplingParams(temperature=0.0, max_tokens=3))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pascaline.core.errors import PascalineError
from pascaline.core.threads import yield_when_idle

if TYPE_CHECKING:
    from pascaline.engine.sampling_params import SamplingParams
    from pascaline.llm.offline import LLM

yield_when_idle()

__version__ = "0.1.0"
__all__ = ["LLM", "PascalineError", "SamplingParams", "__version__"]


def __getattr__(name: str) -> object:
    # torch takes a second to import: `pascaline --help` and reports must not wait for it.
    if name == "LLM":
        from pascaline.llm.offline import LLM

        return LLM
    if name == "SamplingParams":
        from pascaline.engine.sampling_params import SamplingParams

        return SamplingParams
    raise AttributeError(f"module 'pascaline' has no attribute {name!r}")
