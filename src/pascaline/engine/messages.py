"""The one protocol between an engine and its clients: typed messages, no pickles.

The same messages are used in-process (passed as objects) and across the process boundary
(MessagePack behind a four-byte little-endian length; `encode` and `FrameBuffer`).

    client -> engine   Start, then any of Submit, Abort; Shutdown ends
    engine -> client   StartProgress …, then Ready or Failed; then StepOutputs …, Failed at a crash
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pascaline.core.errors import EngineError, PascalineError
from pascaline.core.progress import Progress
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.sampling_params import SamplingParams

TopLogprobs = list[tuple[int, float]]
"""(token id, log-probability), most likely first."""


class Start(msgspec.Struct, tag=True, frozen=True):
    """First message: load this model."""

    config: EngineConfig


class Submit(msgspec.Struct, tag=True, frozen=True):
    """A new request; `request_id` is the client's to choose and unique among live requests."""

    request_id: int
    prompt_token_ids: list[int]
    params: SamplingParams


class Abort(msgspec.Struct, tag=True, frozen=True):
    """Drop a request, or one of its continuations. No answer; nothing more is sent for it."""

    request_id: int
    index: int | None = None


class Shutdown(msgspec.Struct, tag=True, frozen=True):
    """End the engine now."""


class StartProgress(msgspec.Struct, tag=True, frozen=True):
    """How far start-up is."""

    progress: Progress


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The engine serves. Bytes are what it allocated; `load_s` from Start to here, of which `stages` are
    the long ones: (name, expected_s before any work of it was done, seconds)."""

    device: str
    max_model_len: int
    vocab_size: int
    eos_token_ids: list[int]
    page_size: int
    pages: int
    max_sequences: int
    max_batch_tokens: int
    weights_bytes: int
    kv_bytes: int
    load_s: float
    stages: list[tuple[str, float | None, float]]
    notes: list[str]


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Start-up or the running engine failed; the connection ends after it."""

    kind: str
    seen: str
    expected: str
    remedy: str

    @classmethod
    def of(cls, error: PascalineError) -> Failed:
        return cls(type(error).__name__, error.seen, error.expected, error.remedy)

    def error(self) -> PascalineError:
        """The exception that this message carries."""
        by_name = {kind.__name__: kind for kind in PascalineError.__subclasses__()}
        kind = by_name.get(self.kind, EngineError)
        return kind(self.seen, expected=self.expected, remedy=self.remedy)


class TokenOutput(msgspec.Struct, frozen=True):
    """One token of one continuation. `finish_reason` ("stop" or "length") is set on the last."""

    request_id: int
    index: int
    token_id: int
    finish_reason: str | None = None
    logprob: float | None = None
    top_logprobs: TopLogprobs | None = None


class PromptLogprob(msgspec.Struct, frozen=True):
    """Log-probability of one prompt token given those before it."""

    token_id: int
    logprob: float
    top_logprobs: TopLogprobs


class PromptOutput(msgspec.Struct, frozen=True):
    """A continuation's prompt has been computed. The first token has no log-probability."""

    request_id: int
    index: int
    cached_tokens: int
    logprobs: list[PromptLogprob] | None = None


class RequestFailed(msgspec.Struct, frozen=True):
    """A request that the engine will not run, or not go on with, and why. Nothing follows for it."""

    request_id: int
    failure: Failed


class EngineStatus(msgspec.Struct, frozen=True):
    """The engine after a step. Pages in use by requests = total − free − cached. Drafted are tokens that were
    computed ahead, of which those that are accepted are generated ones."""

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    pages_cached: int
    preemptions: int
    prompt_tokens: int
    cached_prompt_tokens: int
    generated_tokens: int
    steps: int
    drafted_tokens: int
    accepted_tokens: int
    step_s: float


class StepOutputs(msgspec.Struct, tag=True, frozen=True):
    """What one step produced."""

    status: EngineStatus
    tokens: list[TokenOutput] = []
    prompts: list[PromptOutput] = []
    failed: list[RequestFailed] = []


ToEngine = Start | Submit | Abort | Shutdown
FromEngine = StartProgress | Ready | Failed | StepOutputs

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)

LENGTH_BYTES = 4
MAX_MESSAGE_BYTES = 1 << 30


def encode(message: ToEngine | FromEngine) -> bytes:
    """The message with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


class FrameBuffer:
    """Cuts a byte stream into message bodies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Bodies that are complete after `data`."""
        self._data += data
        while len(self._data) >= LENGTH_BYTES:
            length = int.from_bytes(self._data[:LENGTH_BYTES], "little")
            if length > MAX_MESSAGE_BYTES:
                raise EngineError(f"a message of {length} bytes on the engine's connection")
            end = LENGTH_BYTES + length
            if len(self._data) < end:
                return
            body = bytes(self._data[LENGTH_BYTES:end])
            del self._data[:end]
            yield body


def decode_to_engine(body: bytes) -> ToEngine:
    return _to_engine.decode(body)


def decode_from_engine(body: bytes) -> FromEngine:
    return _from_engine.decode(body)
