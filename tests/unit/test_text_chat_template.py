"""Chat templates render as transformers renders them, and say what is wrong in their own words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from pascaline.checkpoint.gguf_checkpoint import GgufCheckpoint
from pascaline.core.errors import ConfigError, UnsupportedError
from pascaline.text.chat_template import ChatTemplate, flatten_content

Conversation = list[dict[str, Any]]

CONVERSATIONS: dict[str, Conversation] = {
    "one turn": [{"role": "user", "content": "Hello"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " Hi \n"}],
    "turns": [
        {"role": "user", "content": "1 < 2 & 'x' \"y\" 字 😀?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."},
        {"role": "user", "content": "Sure?\n\n  really"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "{{ messages }} {% raw %}"},
    ],
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": 'Says the weather in <city> & "town" – 字',
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]

# What templates in the field do, each in a template as small as shows it.
TEMPLATES = {
    "roles must alternate": """{{ bos_token }}{% for message in messages %}
{%- if message['role'] == 'system' %}{% continue %}{% endif %}
{{ '[' + message['role'] + '] ' + message['content'] | trim + ' ' ~ eos_token }}
{%- if loop.last and add_generation_prompt %}{{ '[assistant]' }}{% endif %}{% endfor %}""",
    "namespace, slices and reversal": """
{%- set ns = namespace(last=-1, seen=0) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if message.role == "user" and ns.last < 0 %}{% set ns.last = index %}{% endif %}
    {%- set ns.seen = ns.seen + 1 %}
{%- endfor %}
{{ ns.last }}/{{ ns.seen }}
{% for message in messages[1:] if message.role != 'system' %}
{{ loop.index }}/{{ loop.length }} {{ message.content.split('</think>')[-1].lstrip('\\n') | upper }}
{% endfor %}""",
    "tools as JSON": """
{%- if tools is not none and tools | length > 0 %}
{%- for tool in tools %}
{{ tool | tojson }}
{{ tool | tojson(indent=4) }}
{{ tool.function.parameters.properties | tojson(separators=(',', ':'), sort_keys=true) }}
{%- endfor %}
{%- for name, value in tools[0].function.items() %}{{ name }}{{ ', ' if not loop.last }}{% endfor %}
{%- else %}no tools{% endif %}
""",
    "macros": """
{%- macro turn(message, depth=1) -%}
<{{ message['role'] }}:{{ depth }}>{{ message.get('content', '') | replace('\\n', '\\\\n') }}
{%- endmacro -%}
{% for message in messages %}{{ turn(message, depth=loop.index) }}{% endfor %}
{%- set block %}captured {{ messages | map(attribute='role') | join('+') }}{% endset %}
{{- block | title | indent(2, true) }}""",
    "tests and operators": """
{%- for message in messages %}
{{- message.content is string }} {{ message.content is defined and message.nothing is not defined }}
{{- 'think' in message.content }} {{ loop.index0 % 2 == 0 }} {{ loop.index * 2 ** 3 // 3 - 1 }}
{{- message.content[:3] }} {{ '-' * 10 }} {{ 'a%03d' % loop.index }} {{ '{:>5}'.format(loop.index) }}
{{- loop.previtem.role if loop.previtem is defined else 'first' }} {{ loop.cycle('x', 'y') }}
{%- if loop.index == 3 %}{% break %}{% endif %}
{%- endfor %}
{{- [1, 2] + [3] }} {{ {'a': (1, 2)} }} {{ range(3) | list }} {{ 1.5 | round | int }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }} {{ dict(a=1).items() | list }}
{{- messages | map(attribute='content') | map('length') | max }} {{ nothing }} {{ bos_token }} {{ none }}""",
    "generation blocks": """{% for m in messages %}{% if m.role == 'assistant' %}
{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}{% endfor %}""",
    "recursion": """{% set tree = [{'v': 1, 'c': [{'v': 2, 'c': []}, {'v': 3, 'c': []}]}] %}
{%- for node in tree recursive %}{{ node.v }}({{ loop(node.c) }}){% endfor %}""",
    "the day": "{{ strftime_now('%Y-%m') }} {{ documents is none }} {{ enable_thinking | default(true) }}",
}


@pytest.fixture(scope="module")
def rendered_by_transformers() -> Callable[..., str]:
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1}, []))
    reference = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")

    def render(template: str, messages: Conversation, **options: Any) -> str:
        text = reference.apply_chat_template(messages, chat_template=template, tokenize=False, **options)
        assert isinstance(text, str)
        return text

    return render


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("generation", [True, False])
def test_the_demos_template(
    demo_path: Path, rendered_by_transformers: Callable[..., str], conversation: str, generation: bool
) -> None:
    checkpoint = GgufCheckpoint(demo_path)
    source = checkpoint.chat_template
    checkpoint.close()
    assert source is not None
    messages = CONVERSATIONS[conversation]
    text = ChatTemplate(source, "<s>", "</s>").render(messages, add_generation_prompt=generation)
    assert text == rendered_by_transformers(source, messages, add_generation_prompt=generation)
    assert text.endswith("<|im_start|>assistant\n") == generation
    assert text.startswith("<|im_start|>system\n")


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_what_templates_in_the_field_do(
    rendered_by_transformers: Callable[..., str], template: str, conversation: str
) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS[conversation]
    own = ChatTemplate(source, "<s>", "</s>")
    for options in ({}, {"tools": TOOLS}, {"enable_thinking": False}):
        expected = rendered_by_transformers(source, messages, add_generation_prompt=True, **options)
        assert own.render(messages, **options) == expected


def test_the_day_is_today() -> None:
    assert ChatTemplate("{{ strftime_now('%Y') }}", None, None).render(
        [{"role": "user", "content": ""}]
    ) == str(datetime.now().year)


def test_unknown_special_tokens_are_undefined_and_not_none() -> None:
    template = ChatTemplate("{{ bos_token }}|{{ eos_token is defined }}", None, None)
    assert template.render([{"role": "user", "content": ""}]) == "|False"


def test_parts_are_flattened() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    calls = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    messages = [{"role": "user", "content": parts}, calls, {"role": "tool"}]
    assert flatten_content(messages) == [{"role": "user", "content": "one\ntwo"}, calls, {"role": "tool"}]
    assert messages[0]["content"] is parts
    assert ChatTemplate("{{ messages[0].content }}", None, None).render(messages) == "one\ntwo"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_other_parts_are_refused(kind: str) -> None:
    messages = [{"role": "user", "content": [{"type": kind, kind: {}}]}]
    with pytest.raises(UnsupportedError, match=f"message 0 has the type '{kind}'"):
        flatten_content(messages)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no messages"),
        (["hello"], "Message 0 is 'hello'"),
        ([{"content": "x"}], "Message 0 is"),
        ([{"role": "user", "content": 3}], "content of message 0 is '3'"),
        ([{"role": "user", "content": ["x"]}], "content part of message 0 is 'x'"),
        ([{"role": "user", "content": [{"type": "text"}]}], 'has no "text"'),
    ],
)
def test_what_is_no_conversation(messages: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        flatten_content(messages)


@pytest.mark.parametrize("source", [None, "", "  \n"])
def test_a_missing_template(source: str | None) -> None:
    with pytest.raises(ConfigError, match=r"brings no chat template.*/v1/completions"):
        ChatTemplate(source, None, None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ raise_exception('Roles must alternate!') }}", "Roles must alternate!"),
        ("{{ messages[0].nothing.more }}", "has no attribute 'nothing'"),
        ("{{ 1 + 'a' }}", "unsupported operand"),
        ("{% include 'other' %}", "no loader"),
        ("{{ messages[0].content.nothing() }}", "nothing"),
    ],
)
def test_a_template_that_fails(source: str, message: str) -> None:
    template = ChatTemplate(source, None, None)
    with pytest.raises(ConfigError, match=message):
        template.render([{"role": "user", "content": "x"}])


@pytest.mark.parametrize("source", ["a\n{% if %}", "a\n{{ x", "a\n{% nothing %}", "a\n{{ x | nothing }}"])
def test_a_template_that_is_no_template(source: str) -> None:
    with pytest.raises(ConfigError, match="not valid Jinja, line 2: "):
        ChatTemplate(source, None, None)


def test_threads_do_not_share_an_allowance() -> None:
    template = ChatTemplate("{% for i in range(900) %}{{ messages[0].content }}{% endfor %}", None, None)
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(template.render([{"role": "user", "content": "ab"}])))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["ab" * 900] * 8
