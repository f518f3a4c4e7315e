"""`LLM`: the engine in this process."""

from __future__ import annotations

import resource
import threading
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from pascaline.checkpoint.reference import resolve
from pascaline.core.errors import ConfigError, PascalineError
from pascaline.core.progress import ProgressCallback, ignore_progress
from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig, LoadFormat, Speculation
from pascaline.engine.messages import Abort, Ready, Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.kernels.policy import Arithmetic
from pascaline.kv.pages import KeyValueDtype
from pascaline.llm.model_text import ModelText, Prompt, check_prompt, check_token_ids
from pascaline.llm.output_processor import RequestOutput
from pascaline.llm.outputs import Delta, RequestResult

Conversation = Sequence[Mapping[str, object]]


@dataclass(frozen=True)
class _Live:
    """A request under way, with the deltas that nobody has taken yet."""

    request_id: int
    output: RequestOutput
    deltas: deque[Delta] = field(default_factory=deque)
    errors: list[PascalineError] = field(default_factory=list)

    def check(self) -> None:
        """Raise what ended the request, if anything did."""
        for error in self.errors:
            raise error


class LLM:
    """A model, loaded in this process.

    >>> llm = LLM("demo")
    >>> [result] = llm.generate("The capital of France is", SamplingParams(temperature=0.0, max_tokens=5))
    >>> result.completions[0].text
    ' Paris.'

    Parameters
    ----------
    model : `demo`, a folder, a .gguf file or a hub id.
    device, max_model_len, gpu_memory_utilization, max_batch_tokens, max_sequences, pages, arithmetic,
    key_value_dtype, load_format, speculation :
        see `EngineConfig`.
    report : receives `Progress` while the model is fetched and loaded.

    Raises
    ------
    PascalineError : the model cannot be found, read, or fitted into memory.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        max_model_len: int | None = None,
        gpu_memory_utilization: float = 0.9,
        max_batch_tokens: int = 512,
        max_sequences: int = 64,
        pages: int | None = None,
        arithmetic: Arithmetic = "auto",
        key_value_dtype: KeyValueDtype = "auto",
        load_format: LoadFormat = "auto",
        speculation: Speculation = "auto",
        report: ProgressCallback = ignore_progress,
    ) -> None:
        resolved = resolve(str(model), report, with_weights=load_format != "dummy")
        self.text = ModelText.load(resolved.path, load_format)
        self._core = EngineCore(
            EngineConfig(
                model_path=str(resolved.path),
                device=device,
                max_model_len=max_model_len,
                gpu_memory_utilization=gpu_memory_utilization,
                max_batch_tokens=max_batch_tokens,
                max_sequences=max_sequences,
                pages=pages,
                arithmetic=arithmetic,
                key_value_dtype=key_value_dtype,
                load_format=load_format,
                speculation=speculation,
            ),
            report,
        )
        self._next_request_id = 0
        self._live: dict[int, _Live] = {}
        self._lock = threading.Lock()  # threads that generate at once share the steps

    @property
    def ready(self) -> Ready:
        """What the engine settled at start-up: device, context length, pages, memory."""
        return self._core.ready

    @property
    def core(self) -> EngineCore:
        """The engine itself, for callers that drive it step by step."""
        return self._core

    def peak_bytes(self) -> int:
        """Most memory held so far: of this process on the CPU, of the device's allocator on CUDA."""
        if self.ready.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestResult]:
        """Continue prompts (texts or token ids), all at once; results in the prompts' order.

        Raises
        ------
        ConfigError : a prompt is empty or too long, a token id is none, or the numbers of prompts and
            params differ.
        """
        listed = _as_list(prompts)
        settings = _as_params(params, len(listed))
        ids = [self.text.encode(prompt) for prompt in listed]
        for token_ids, setting in zip(ids, settings, strict=True):
            self._check(token_ids, setting)
        live = [self._submit(token_ids, setting) for token_ids, setting in zip(ids, settings, strict=True)]
        try:
            while not all(request.output.finished for request in live):
                with self._lock:
                    self._step()
                for request in live:
                    request.check()
        finally:
            self._drop(live)
        return [request.output.result for request in live]

    def chat(
        self, conversations: Sequence[Conversation], params: SamplingParams | None = None
    ) -> list[RequestResult]:
        """Answer conversations, each a list of {"role": …, "content": …}."""
        return self.generate([self.text.encode_chat(item) for item in conversations], params)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Generator[Delta, None, None]:
        """Continue one prompt and give out each token's text as it comes.

        The request starts with the first token asked for; leaving the loop early drops it.
        """
        params = params or SamplingParams()
        token_ids = self.text.encode(prompt)
        self._check(token_ids, params)
        return self._stream(token_ids, params)

    def _stream(self, token_ids: list[int], params: SamplingParams) -> Generator[Delta, None, None]:
        request = self._submit(token_ids, params)
        try:
            while request.deltas or not request.output.finished:
                while request.deltas:
                    yield request.deltas.popleft()
                request.check()
                with self._lock:
                    if not request.output.finished:
                        self._step()
        finally:
            self._drop([request])

    def _check(self, token_ids: list[int], params: SamplingParams) -> None:
        check_prompt(token_ids, self.ready.max_model_len)
        check_token_ids([*token_ids, *params.logit_bias], self.ready.vocab_size)

    def _submit(self, token_ids: list[int], params: SamplingParams) -> _Live:
        params = params.seeded()
        with self._lock:
            self._next_request_id += 1
            request = _Live(self._next_request_id, RequestOutput(self.text.tokenizer, token_ids, params))
            self._live[request.request_id] = request
            self._core.submit(Submit(request.request_id, token_ids, params))
        return request

    def _drop(self, requests: list[_Live]) -> None:
        """Forget requests; the engine stops those that are not finished."""
        with self._lock:
            for request in requests:
                self._live.pop(request.request_id, None)
                self._core.abort(Abort(request.request_id))

    def _step(self) -> None:
        """One step of the engine; its tokens go to whichever request they belong to."""
        step = self._core.step()
        for failed in step.failed:
            if failed.request_id in self._live:
                self._live[failed.request_id].errors.append(failed.failure.error())
        for prompt in step.prompts:
            if prompt.request_id in self._live:
                self._live[prompt.request_id].output.on_prompt(prompt)
        for token in step.tokens:
            request = self._live.get(token.request_id)
            if request is None:
                continue
            delta, abort = request.output.on_token(token)
            if abort:
                self._core.abort(Abort(token.request_id, token.index))
            if delta is not None:
                request.deltas.append(delta)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt given bare, a text or token ids, means itself."""
    if isinstance(prompts, str):
        return [prompts]
    items = list(prompts)  # an iterator can be read only once
    ids = [item for item in items if isinstance(item, int)]
    several = [item for item in items if not isinstance(item, int)]
    if ids and several:
        raise ConfigError("the prompts mix bare token ids with prompts", expected="one or the other")
    return [ids] if ids else several


def _as_params(params: SamplingParams | Sequence[SamplingParams] | None, count: int) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    if len(params) != count:
        raise ConfigError(f"{len(params)} sampling params for {count} prompts", expected="one each")
    return list(params)
