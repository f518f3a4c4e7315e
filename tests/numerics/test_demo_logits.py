"""The demo model against transformers on the same dequantised weights, and against itself.

The reference is built without any code of ours: tensors read and dequantised by the gguf package,
the rows of q and k put back into Hugging Face's order here, the settings taken from the file's
metadata, transformers' LlamaForCausalLM run in fp32 and in fp64. How close is close is derived in
`transformers_reference`.

The same reference judges every way to run a request: alone, among 64, in chunks of any size, on
remembered pages, and after being preempted. Each is within `ALLOWED_UNITS` of the exact result, so
any two are within twice that of each other, and the greedy tokens are the exact ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGUFReader
from stepped_model import Part, SteppedModel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers_reference import ALLOWED_UNITS, reference, units_away

from pascaline.engine.core import EngineCore
from pascaline.engine.engine_config import EngineConfig
from pascaline.engine.messages import PromptOutput, Submit, TokenOutput
from pascaline.engine.sampling_params import SamplingParams
from pascaline.llm.model_text import ModelText

PROMPT = """The Pascaline (1642) added and subtracted: 计算器, 計算機の先祖. Ça coûtait cher — 🧮🎉
def carry(digits):
    return [(d + 1) % 10        for d in digits]   # 0123456789
Он был из латуни; הוא מפליז; यह था.\t\t
"""
DECODED = 12
LIKELIEST = 20


def rows_in_hugging_face_order(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's interleaving: its rows 2i and 2i + 1 of a head are i and i + D / 2 there."""
    head_dim = len(rows) // heads
    order = [
        head * head_dim + 2 * pair + half
        for head in range(heads)
        for half in range(2)
        for pair in range(head_dim // 2)
    ]
    return rows[order]


def model_of_gguf(path: Path) -> PreTrainedModel:
    reader = GGUFReader(path)

    def setting(key: str) -> float:
        field = reader.get_field(f"llama.{key}")
        assert field is not None
        return field.contents()

    layers, heads, kv_heads = (
        int(setting(key)) for key in ("block_count", "attention.head_count", "attention.head_count_kv")
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=int(setting("vocab_size")),
            hidden_size=int(setting("embedding_length")),
            intermediate_size=int(setting("feed_forward_length")),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=int(setting("context_length")),
            rms_norm_eps=setting("attention.layer_norm_rms_epsilon"),
            rope_parameters={"rope_type": "default", "rope_theta": setting("rope.freq_base")},
            tie_word_embeddings=True,
        )
    )
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            tensor = tensors.pop(str(names.get_name(name, try_suffixes=(".weight",))))
            values = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                values = rows_in_hugging_face_order(values, heads if "q_proj" in name else kv_heads)
            parameter.copy_(values)
    assert not tensors, "every tensor of the file is a parameter"
    return model


@dataclass(frozen=True)
class Demo:
    """The prompt, its exact greedy continuation, and exact logits after every token of both."""

    path: Path
    prompt: list[int]
    greedy: list[int]
    logits: torch.Tensor
    unit: float
    logprobs: torch.Tensor
    logprob_unit: float


@pytest.fixture(scope="module")
def stepped(demo_path: Path) -> SteppedModel:
    return SteppedModel(demo_path, pages=32)


@pytest.fixture(scope="module")
def demo(demo_path: Path, stepped: SteppedModel) -> Demo:
    prompt = ModelText.load(demo_path).tokenizer.encode(PROMPT)
    assert 110 <= len(prompt) <= 130
    # Teacher forcing: our own greedy tokens are fed to the reference, which then says what it would
    # have chosen in their place.
    pages = stepped.pages_for(len(prompt) + DECODED)
    greedy: list[int] = []
    logits = stepped.step(Part(prompt, pages))[0]
    while len(greedy) < DECODED:
        greedy.append(int(logits[-1].argmax()))
        logits = stepped.step(Part(greedy[-1:], pages, len(prompt) + len(greedy) - 1))[0]
    found = reference(model_of_gguf(demo_path), prompt + greedy)
    logprobs = found.exact.log_softmax(-1)
    logprob_unit = float((found.fp32.log_softmax(-1).double() - logprobs).abs().max())
    chosen = found.exact[len(prompt) - 1 : -1]
    assert chosen.argmax(-1).tolist() == greedy
    # Else the greedy tokens might differ without a mistake, and the prompt would have to be another.
    best = chosen.topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > 4 * ALLOWED_UNITS * found.unit
    return Demo(demo_path, prompt, greedy, found.exact, found.unit, logprobs, logprob_unit)


def test_prefill_and_decode_logits_equal_transformers(stepped: SteppedModel, demo: Demo) -> None:
    length = len(demo.prompt)
    pages = stepped.pages_for(length + DECODED)
    logits = stepped.step(Part(demo.prompt, pages))
    logits += [
        stepped.step(Part([token], pages, length + index))[0] for index, token in enumerate(demo.greedy)
    ]
    assert units_away(torch.cat(logits), demo.logits, demo.unit) <= ALLOWED_UNITS


def test_another_token_is_far_outside_of_the_tolerance(stepped: SteppedModel, demo: Demo) -> None:
    """That the comparison can fail: one token of the prompt is another one."""
    wrong = [*demo.prompt[:-2], demo.prompt[-2] ^ 1, demo.prompt[-1]]
    logits = stepped.step(Part(wrong, stepped.pages_for(len(wrong))))[0]
    exact = demo.logits[: len(wrong)]
    assert units_away(logits[:-2], exact[:-2], demo.unit) <= ALLOWED_UNITS
    assert units_away(logits[-1:], exact[-1:], demo.unit) > 100 * ALLOWED_UNITS


@dataclass(frozen=True)
class Outcome:
    """What an engine sent for one request; `preempted`: it was sent back to wait amid its answer."""

    prompt: PromptOutput
    tokens: list[TokenOutput]
    preempted: bool


def run(core: EngineCore, requests: list[Submit]) -> list[Outcome]:
    prompts: dict[int, PromptOutput] = {}
    tokens: dict[int, list[TokenOutput]] = {request.request_id: [] for request in requests}
    preempted: set[int] = set()
    for request in requests:
        core.submit(request)
    while core.has_work:
        outputs = core.step()
        assert not outputs.failed
        prompts |= {prompt.request_id: prompt for prompt in outputs.prompts}
        for token in outputs.tokens:
            tokens[token.request_id].append(token)
        preempted |= {item.request_id for item in core.scheduler.waiting if item.output_length}
    ids = [request.request_id for request in requests]
    return [Outcome(prompts[item], tokens[item], item in preempted) for item in ids]


def greedy_request(request_id: int, prompt: list[int], *, prompt_logprobs: bool = False) -> Submit:
    return Submit(
        request_id,
        prompt,
        SamplingParams(
            temperature=0.0,
            max_tokens=DECODED,
            ignore_eos=True,
            logprobs=LIKELIEST,
            prompt_logprobs=LIKELIEST if prompt_logprobs else None,
        ),
    )


def assert_exact(outcome: Outcome, demo: Demo) -> None:
    """Token ids are equal, and all reported log-probabilities within fp32 rounding."""
    assert [token.token_id for token in outcome.tokens] == demo.greedy
    reported = [(token.token_id, token.logprob, token.top_logprobs) for token in outcome.tokens]
    first = len(demo.prompt) - 1
    if outcome.prompt.logprobs is not None:
        assert [item.token_id for item in outcome.prompt.logprobs] == demo.prompt[1:]
        reported = [
            *((item.token_id, item.logprob, item.top_logprobs) for item in outcome.prompt.logprobs),
            *reported,
        ]
        first = 0
    ours, exact = [], []
    for logprobs, (token_id, logprob, top) in zip(demo.logprobs[first:-1], reported, strict=True):
        assert top is not None
        assert len({other for other, _ in top}) == LIKELIEST
        ours += [logprob, *(value for _, value in top)]
        exact += [logprobs[token_id], *(logprobs[other] for other, _ in top)]
        # They are the likeliest: as likely, rank by rank, as the exact ones.
        ours += [value for _, value in top]
        exact += logprobs.topk(LIKELIEST).values.unbind()
    distance = units_away(torch.tensor(ours), torch.stack(exact), demo.logprob_unit)
    assert distance <= ALLOWED_UNITS


def random_prompt(length: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1000, 40000, (length,), generator=generator).tolist()


def in_fp32(demo: Demo, **settings: int) -> EngineConfig:
    """Arithmetic like the reference's, which 8-bit activations are not."""
    return EngineConfig(str(demo.path), device="cpu", arithmetic="fp32", **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def core(demo: Demo) -> EngineCore:
    return EngineCore(in_fp32(demo, max_batch_tokens=512, max_sequences=64))


def test_alone_then_on_remembered_pages(core: EngineCore, demo: Demo) -> None:
    for expected_hit in (False, True):
        [outcome] = run(core, [greedy_request(1, demo.prompt)])
        assert (outcome.prompt.cached_tokens > len(demo.prompt) // 2) == expected_hit
        assert_exact(outcome, demo)


def test_among_64(core: EngineCore, demo: Demo) -> None:
    others = [greedy_request(index, random_prompt(3 + index % 11, index)) for index in range(63)]
    # A first token of its own: nothing that is remembered fits.
    requests = [*others[:20], greedy_request(100, demo.prompt, prompt_logprobs=True), *others[20:]]
    outcomes = run(core, requests)
    assert outcomes[20].prompt.cached_tokens == 0
    assert_exact(outcomes[20], demo)


@pytest.mark.parametrize("max_batch_tokens", [16, 64])
def test_in_chunks(max_batch_tokens: int, demo: Demo) -> None:
    settings = {"max_batch_tokens": max_batch_tokens, "max_sequences": 16, "speculation": "off"}
    chunked = EngineCore(in_fp32(demo, **settings))
    [outcome] = run(chunked, [greedy_request(1, demo.prompt, prompt_logprobs=True)])
    # One step a chunk; the last of them gives the first token.
    assert chunked.status().steps == -(-len(demo.prompt) // max_batch_tokens) + DECODED - 1
    assert_exact(outcome, demo)


def test_after_preemption(demo: Demo) -> None:
    # Two earlier arrivals leave ours the pages for its prompt, and need two more when they have
    # decoded a few tokens: ours, as the latest, gives its pages back and is computed again later.
    page = 16
    earlier = [greedy_request(index, random_prompt(7 * page - 3, index)) for index in range(2)]
    pages = 2 * 7 + -(-len(demo.prompt) // page) + 1
    small = EngineCore(in_fp32(demo, pages=pages, max_sequences=16))
    outcomes = run(small, [*earlier, greedy_request(2, demo.prompt)])
    assert [outcome.preempted for outcome in outcomes] == [False, False, True]
    assert_exact(outcomes[2], demo)
