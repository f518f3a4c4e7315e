"""The engine as a process of its own: answers, ends and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from pascaline.core.errors import CheckpointError, ConfigError, EngineError, PascalineError, UnsupportedError
from pascaline.core.progress import Progress, ignore_progress
from pascaline.engine.client import EngineProcess
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Abort, EngineStatus, StepOutputs, Submit
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.model_text import ModelText
from pascaline.llm.online import AsyncLLM

PROMPT = "The capital of France is"
GONE_S = 30.0
"""How long a process may take to end on a busy machine."""


def greedy(max_tokens: int | None = None) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


def config_of(path: Path) -> EngineConfig:
    return EngineConfig(str(path), device="cpu", max_model_len=256)


@contextlib.asynccontextmanager
async def started(path: Path, report: object = ignore_progress) -> AsyncIterator[AsyncLLM]:
    llm = AsyncLLM(ModelText.load(path))
    try:
        await llm.start(config_of(path), report)  # type: ignore[arg-type]
        yield llm
    finally:
        await llm.stop()


def engines() -> list[psutil.Process]:
    """Engines that this process started itself; the shared server, whose engine is its own, is none."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "pascaline.engine.process" in child.cmdline()
    ]


async def text_of(llm: AsyncLLM, prompt: str, params: SamplingParams) -> str:
    async with llm.requests([llm.text.encode(prompt)], params) as running:
        return "".join([delta.text async for _, delta in running.deltas()])


async def idle_status(llm: AsyncLLM) -> EngineStatus:
    """The engine's status once it says that nothing runs."""
    async with asyncio.timeout(GONE_S):
        while llm.status is None or llm.status.running or llm.status.waiting:
            await asyncio.sleep(0.01)
    return llm.status


def test_a_life(demo_path: Path) -> None:
    """Start with progress, stream, two at once, leave early, refuse, stop; nothing is left behind."""
    # The first event loop of a process keeps some descriptors: make one before counting.
    asyncio.run(asyncio.sleep(0))
    before = psutil.Process().num_fds(), len(engines())
    reports: list[Progress] = []

    async def live() -> None:
        async with started(demo_path, reports.append) as llm:
            assert len(engines()) == before[1] + 1
            assert llm.ready.max_model_len == 256
            # The status comes without being asked for.
            assert (await idle_status(llm)).pages_total == llm.ready.pages
            texts = await asyncio.gather(
                text_of(llm, PROMPT, greedy(4)), text_of(llm, "1, 2, 3, 4,", greedy(3))
            )
            assert texts == [" Paris.\n\n", " 5,"]
            async with llm.requests([llm.text.encode(PROMPT)], greedy()) as running:
                async for _ in running.deltas():
                    break
            assert llm.live_requests == 0
            status = await idle_status(llm)
            assert status.pages_free + status.pages_cached == status.pages_total
            with pytest.raises(ConfigError, match="256 tokens"):
                async with llm.requests([[1] * 256], greedy(1)):
                    pass
            assert await text_of(llm, PROMPT, greedy(1)) == " Paris"
        with pytest.raises(EngineError, match="shutting down"):
            await text_of(llm, PROMPT, greedy(1))

    asyncio.run(live())
    assert (psutil.Process().num_fds(), len(engines())) == before
    assert reports[-1].finished
    assert reports[-1].done == reports[-1].total > 0


def test_a_killed_engine_is_reported_to_everyone_who_waits(demo_path: Path) -> None:
    async def live() -> None:
        async with started(demo_path) as llm:
            waiting = [asyncio.create_task(text_of(llm, PROMPT, greedy())) for _ in range(3)]
            async with llm.requests([llm.text.encode(PROMPT)], greedy()) as running:
                await anext(running.deltas())
                [engine] = engines()
                engine.kill()
                with pytest.raises(EngineError, match="SIGKILL"):
                    async for _ in running.deltas():
                        pass
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, EngineError)
                assert "SIGKILL" in str(outcome)
            # Whoever comes later is told, too.
            with pytest.raises(EngineError, match="SIGKILL"):
                await text_of(llm, PROMPT, greedy(1))

    asyncio.run(live())
    assert not engines()


def test_stopping_ends_requests_with_an_error(demo_path: Path) -> None:
    async def live() -> None:
        async with (
            started(demo_path) as llm,
            llm.requests([llm.text.encode(PROMPT)], greedy()) as running,
        ):
            await anext(running.deltas())
            await llm.stop()
            with pytest.raises(EngineError, match="shutting down"):
                async for _ in running.deltas():
                    pass

    asyncio.run(live())
    assert not engines()


PARENT = """
import asyncio, os, sys
from pascaline.core.progress import ignore_progress
from pascaline.engine.client import EngineProcess
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import Submit
from pascaline.engine.sampling_params import SamplingParams

async def main():
    loading = sys.argv[2] == "loading"
    first = asyncio.Event()
    engine = EngineProcess(lambda step: step.tokens and first.set(), print)
    starting = asyncio.create_task(engine.start(EngineConfig(sys.argv[1], device="cpu", max_model_len=256),
                                                lambda progress: None))
    if not loading:
        await starting
        engine.send(Submit(1, [1, 2, 3], SamplingParams(ignore_eos=True)))
        await first.wait()
    else:
        await asyncio.sleep(0)
    print(engine._process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("moment", ["loading", "decoding"])
def test_the_engine_does_not_outlive_its_client(demo_path: Path, moment: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(demo_path), moment], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
        engine.wait(GONE_S)
        assert not engine.is_running()


def start_failure(path: Path, **settings: object) -> PascalineError:
    async def live() -> PascalineError:
        engine = EngineProcess(lambda _: None, lambda _: None)
        config = EngineConfig(str(path), device="cpu", **settings)  # type: ignore[arg-type]
        with pytest.raises(PascalineError) as caught:
            await engine.start(config, ignore_progress)
        return caught.value

    error = asyncio.run(live())
    assert not engines()
    return error


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    error = start_failure(tmp_path / "nowhere.gguf")
    assert type(error) is CheckpointError
    assert "nowhere.gguf" in str(error)


def test_an_unsupported_architecture_is_named(tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba", "vocab_size": 10}))
    error = start_failure(tmp_path)
    assert type(error) is UnsupportedError
    assert "mamba" in str(error)


def test_too_long_a_context_is_a_config_error(demo_path: Path) -> None:
    error = start_failure(demo_path, max_model_len=8193)
    assert type(error) is ConfigError
    assert "8192" in str(error)


def test_what_is_no_message_ends_the_engine_with_words(demo_path: Path) -> None:
    async def live() -> PascalineError:
        failed: asyncio.Future[PascalineError] = asyncio.get_running_loop().create_future()
        engine = EngineProcess(lambda _: None, failed.set_result)
        try:
            await engine.start(config_of(demo_path), ignore_progress)
            assert engine._writer is not None
            engine._writer.write(b"\x03\x00\x00\x00abc")
            return await asyncio.wait_for(failed, GONE_S)
        finally:
            await engine.stop()

    error = asyncio.run(live())
    assert type(error) is EngineError
    assert "no message" in str(error)
    assert not engines()


def test_a_file_in_the_users_folder_is_not_imported(
    demo_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')")
    monkeypatch.chdir(tmp_path)

    async def live() -> None:
        steps: list[StepOutputs] = []
        answered = asyncio.Event()

        def on_step(step: StepOutputs) -> None:
            steps.append(step)
            if step.tokens:
                answered.set()

        engine = EngineProcess(on_step, lambda _: None)
        try:
            await engine.start(config_of(demo_path), ignore_progress)
            engine.send(Submit(9, [1, 2, 3], greedy(2)))
            await asyncio.wait_for(answered.wait(), GONE_S)
            engine.send(Abort(9))
        finally:
            await engine.stop()
        assert steps[-1].status.pages_total > 0

    asyncio.run(live())
    assert not [name for name in os.listdir(tmp_path) if name != "queue.py"]
