"""What the chat templates of each family do, in short templates of our own, as transformers renders it."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import pytest
import tokenizers
from transformers import PreTrainedTokenizerFast

from pascaline.core.errors import ConfigError
from pascaline.text.chat_template import ChatTemplate

Conversation = list[dict[str, Any]]

SYSTEM = {"role": "system", "content": "Be brief. "}
USER = {"role": "user", "content": ' What is 1 < 2 & "3" in 字?\n'}
ANSWER = {"role": "assistant", "content": "<think>\nLet me see.\n</think>\n\nTrue. "}
CALL = {"id": "abcdef123", "type": "function", "function": {"name": "now", "arguments": {"zone": "UTC"}}}
CONVERSATIONS: dict[str, Conversation] = {
    "a question": [USER],
    "a system message": [SYSTEM, USER],
    "turns": [USER, ANSWER, {"role": "user", "content": "Sure?"}],
    "system and turns": [SYSTEM, USER, ANSWER, USER],
    "two questions": [USER, USER],
    "an answer first": [ANSWER, USER],
    "a tool": [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "now", "content": "12:00", "tool_call_id": "abcdef123"},
    ],
    "thoughts apart": [USER, {"role": "assistant", "content": "Yes.", "reasoning_content": "\nhm\n"}, USER],
}
TOOLS = [
    {"type": "function", "function": {"name": "now", "parameters": {"properties": {"zone": {"a": "é<"}}}}}
]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": False},
    {"enable_thinking": False},
    {"enable_thinking": True},
    {"tools": TOOLS},
]

TEMPLATES = {
    "gemma refuses a system message and turns out of order": """
{{- bos_token }}
{% if messages[0].role == 'system' %}{{ raise_exception('no place for a system role') }}{% endif %}
{% for m in messages %}
    {% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('turns must alternate') }}
    {% endif %}
    {%- set who = 'model' if m.role == 'assistant' else m.role -%}
{{ '<turn>' + who + '\n' + m['content'] | trim + '</turn>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<turn>model\n' }}{% endif %}""",
    "gemma 3 puts the system message before the first question": """
{{- bos_token }}{%- set before, rest = '', messages -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}{%- set before = messages[0]['content'] + '\n\n' -%}
    {%- else -%}{%- set before = messages[0]['content'][0]['text'] + '\n\n' -%}{%- endif -%}
    {%- set rest = messages[1:] -%}
{%- endif -%}
{%- for m in rest -%}
    <turn>{{ m.role }}
{{ (before if loop.first else '') }}
    {%- if m['content'] is iterable and m['content'] is not string -%}
        {%- for part in m['content'] -%}{{ part['text'] | trim }}{%- endfor -%}
    {%- elif m['content'] is string -%}{{ m['content'] | trim }}{%- endif -%}
</turn>
{% endfor -%}""",
    "phi 3 writes role, newline, end": """
{%- for m in messages %}
{%- if m['role'] == 'system' and m['content'] %}{{ '<|system|>\n' + m['content'] + '<|end|>\n' }}
{%- elif m['role'] in ['user', 'assistant'] %}{{ '<|' ~ m['role'] ~ '|>\n' ~ m['content'] ~ '<|end|>\n' }}
{%- endif %}
{%- endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}""",
    "phi 4 mini lists tools in the system message": """
{%- for m in messages %}
{%- if m['role'] == 'system' and tools is not none and tools %}
{{- '<|system|>' + m['content'] + '<|tool|>' + (tools | tojson) + '<|/tool|><|end|>' }}
{%- else %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    "mistral keeps the system message for the last question": r"""
{%- if not date_string is defined %}{% set date_string = strftime_now('%d %B %Y') %}{% endif %}
{%- set state = namespace(turn=0, last=-1, system=none) %}
{%- for m in messages %}
    {%- if m.role == 'system' %}{% set state.system = m.content %}{% continue %}{% endif %}
    {%- if m.role == 'user' %}{% set state.last = loop.index0 %}{% endif %}
    {%- if m.role in ('user', 'assistant') and m.tool_calls is not defined %}
        {%- if (m.role == 'user') != (state.turn % 2 == 0) %}
            {{- raise_exception('after the system message roles must alternate, at ' ~ loop.index) }}
        {%- endif %}
        {%- set state.turn = state.turn + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}{%- for m in messages if m.role != 'system' %}
    {%- if m.role == 'user' %}
        {%- if tools is not none and loop.last %}
            {{- '[TOOLS]' ~ tools | map(attribute='function') | list | tojson }}
        {%- endif %}
        {%- set before = state.system ~ '\n\n' if state.system is not none and loop.last else '' %}
        {{- '[INST]' ~ before ~ m.content }}[/INST]
    {%- elif m.tool_calls is defined %}
        {%- for call in m.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('nine characters') }}{% endif %}
            {{- ('[CALLS][' if loop.first else ', ') ~ call.function | tojson ~ (']' if loop.last else '') }}
        {%- endfor %}{{ eos_token }}
    {%- elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim ~ eos_token }}
    {%- else %}{{ '[RESULT]{"content": ' ~ m.content | tojson ~ '}' }} {{ date_string }}{%- endif %}
{%- endfor %}""",
    "qwen 3 drops thoughts of earlier turns": r"""
{%- macro turn(role, text) -%}{{ '<|im_start|>' + role + '\n' + text + '<|im_end|>\n' }}{%- endmacro -%}
{%- set ns = namespace(searching=true, last=messages | length - 1) %}
{%- for m in messages[::-1] %}
    {%- set result = m.content.startswith('<r>') and m.content.endswith('</r>') %}
    {%- if ns.searching and m.role == 'user' and not result %}
        {%- set ns.searching = false %}{%- set ns.last = messages | length - loop.index %}
    {%- endif %}
{%- endfor %}
{%- if tools %}{{- turn('system', '# Tools' ~ (tools | map('tojson') | join('\n'))) }}{% endif %}
{%- for m in messages %}
    {%- set content, thoughts = m.content, '' %}
    {%- if m.reasoning_content is string %}{% set thoughts = m.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thoughts = (content.split('</think>') | first).rstrip().split('<think>') | last %}
        {%- set content = (content.split('</think>') | last).lstrip('\n') %}
    {%- endif %}
    {%- if m.role == 'assistant' and loop.index0 > ns.last and (loop.last or thoughts) %}
        {{- turn('assistant', '<think>\n' + thoughts.strip('\n') + '\n</think>\n\n' + content) }}
    {%- elif m.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<r>\n' + content + '\n</r>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- else %}{{ turn(m.role, content) }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}""",
    "macros that call themselves": """
{%- macro spell(value, depth=0) -%}
    {%- if value is mapping -%}
        {%- for key, item in value.items() if item is not none -%}
            {%- if depth > 3 -%}{%- break -%}{%- endif -%}
            {{ key | string }}({{ spell(item, depth=depth + 1) }}){{ ', ' if not loop.last }}
        {%- endfor -%}
    {%- elif value is iterable and value is not string -%}
        {%- for item in value -%}{{ spell(item, depth + 1) }};{%- endfor -%}
    {%- else -%}{{ value | replace('<', '&lt;') | tojson }}{%- endif -%}
{%- endmacro -%}
{{ spell(messages[0]) }} {{ spell(tools or []) }}
{{ messages | selectattr('role', 'in', ['user']) | list | length }}""",
}


@pytest.fixture(scope="module")
def reference() -> PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0, "</s>": 1}, []))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_and_refusals_are_those_of_transformers(
    reference: PreTrainedTokenizerFast, template: str, conversation: str
) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS[conversation]
    own = ChatTemplate(source, "<s>", "</s>")
    for options in OPTIONS:
        arguments = {"add_generation_prompt": True} | options
        expected, refusal = "", ""
        try:
            expected = reference.apply_chat_template(
                messages, chat_template=source, tokenize=False, **arguments
            )
        except jinja2.TemplateError as error:
            refusal = str(error)
        if refusal:
            with pytest.raises(ConfigError, match=re.escape(refusal)):
                own.render(messages, **arguments)
        else:
            assert own.render(messages, **arguments) == expected


def test_every_template_is_both_taken_and_told_apart() -> None:
    """The conversations reach what they are for: refusals, tools and thoughts."""
    gemma = ChatTemplate(TEMPLATES["gemma refuses a system message and turns out of order"], "<s>", None)
    for name, message in (("a system message", "no place"), ("two questions", "alternate")):
        with pytest.raises(ConfigError, match=message):
            gemma.render(CONVERSATIONS[name])
    qwen = ChatTemplate(TEMPLATES["qwen 3 drops thoughts of earlier turns"], None, None)
    assert "Let me see" not in qwen.render(CONVERSATIONS["turns"])
    assert qwen.render([USER], enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert qwen.render([USER]) == qwen.render([USER], enable_thinking=True)
