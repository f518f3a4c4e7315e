"""A malicious chat template runs no code, and ends soon without much memory."""

from __future__ import annotations

import resource
import time

import pytest

from pascaline.core.errors import ConfigError
from pascaline.text.chat_template import ChatTemplate

MESSAGES = [{"role": "user", "content": "hello\n" * 20}]

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ ''['__class__'].__mro__ }}",
    "{{ (''|attr('__class__')).__mro__ }}",
    "{{ '{0.__class__.__mro__}'.format('') }}",
    "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['os'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'role': 'x'}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ lipsum() }}",
    "{{ [''.__class__] | map(attribute='__mro__') | list | first | last }}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{{ ''.encode() }}",
    "{{ (5).to_bytes(9, 'big') }}",
]

NESTED_LISTS = "{% set n = namespace(s=[1]) %}{% for i in range(60) %}{% set n.s = [n.s, n.s] %}{% endfor %}"
NESTED_TUPLES = (
    "{% set n = namespace(s=(1,)) %}{% for i in range(60) %}{% set n.s = (n.s, n.s) %}{% endfor %}"
)
DOUBLING = "{%% set n = namespace(s=%s) %%}{%% for i in range(60) %%}{%% set n.s = %s %%}{%% endfor %%}"

GREEDY = {
    "a huge range": "{{ range(10**9) | list | length }}",
    "many ranges": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "endless output": "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    "a long literal": "{% for i in range(9999) %}" + "x" * 100000 + "{% endfor %}",
    "a captured block": "{% set b %}{% for i in range(9999) %}" + "x" * 100000 + "{% endfor %}{% endset %}",
    "a macro that doubles": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}"
    "{{ m(60) }}",
    "endless recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "repetition": "{{ ('a' * 10**9) | length }}",
    "repetition from the left": "{{ (10**9 * 'a') | length }}",
    "repeated lists": "{{ ([1] * 10**9) | length }}",
    "doubling by ~": DOUBLING % ("'ab'", "n.s ~ n.s"),
    "doubling by +": DOUBLING % ("'ab'", "n.s + n.s"),
    "doubling lists": DOUBLING % ("[1]", "n.s + n.s"),
    "nested lists as text": NESTED_LISTS + "{{ n.s }}",
    "nested lists as JSON": NESTED_LISTS + "{{ n.s | tojson }}",
    "nested lists compared": "{% set n = namespace(s=[1], t=[1]) %}"
    "{% for i in range(60) %}{% set n.s = [n.s, n.s] %}"
    "{% set n.t = [n.t, n.t] %}{% endfor %}{{ n.s == n.t }}",
    "nested tuples hashed": NESTED_TUPLES + "{{ {n.s: 1} }}",
    "nested tuples looked up": NESTED_TUPLES + "{{ messages[0][n.s] }}",
    "a namespace that holds itself": "{% set n = namespace() %}{% set n.s = [n, n] %}{{ n.s }}",
    "powers": "{{ 9 ** 9 ** 9 ** 9 ** 9 }}",
    "products": DOUBLING % ("99", "n.s * n.s"),
    "rounding": "{{ 5 | round(-10**9) }}{{ 5 | round(10**9, 'ceil') }}",
    "printf width": "{{ '%1000000000d' % 1 }}",
    "printf width given": "{{ '%*d' % (1000000000, 1) }}",
    "printf width behind a key": "{{ '%(a(%)b)1000000000s' % {'a(%)b': 1} }}",
    "format width": "{{ '{:1000000000}'.format(1) }}",
    "format width given": "{{ '{:{}}'.format(1, 1000000000) }}",
    "center": "{{ 'a'.center(10**9) | length }}",
    "zfill": "{{ 'a'.zfill(10**9) | length }}",
    "tabs": "{{ '\\t'.expandtabs(10**9) | length }}",
    "tabs by name": "{{ '\\t'.expandtabs(tabsize=10**9) | length }}",
    "join": "{% set b = 'a' * 10**6 %}{{ b.join(['a'] * 10**6) | length }}",
    "join filter": "{% set b = 'a' * 10**6 %}{{ (['a'] * 10**6) | join(b) | length }}",
    "join of a generator": "{% set b = 'a' * 10**6 %}"
    "{{ ''.join(range(99999) | map('replace', '', b)) | length }}",
    "replace": "{% set b = 'a' * 10**6 %}{{ b.replace('a', b) | length }}",
    "replace filter": "{% set b = 'a' * 10**6 %}{{ b | replace('a', b) | length }}",
    "indent": "{{ ('a\\n' * 1000) | indent(10**6) | length }}",
    "JSON indent": "{{ messages | tojson(indent=10**9) | length }}",
    "JSON separators": "{% set b = 'a' * 10**6 %}{{ ([1] * 10**5) | tojson(separators=(b, b)) | length }}",
    "many searches": "{% set b = 'a' * 10**7 %}{% for i in range(99999) %}{{ 'b' in b }}{% endfor %}",
    "many slices": "{% set b = 'a' * 10**7 %}{% for i in range(99999) %}{% set c = b[1:] %}{% endfor %}",
    "many upper": "{% set b = 'a' * 10**7 %}{% for i in range(99999) %}{% set c = b | upper %}{% endfor %}",
    "mapped copies": "{% set b = 'a' * 10**6 %}{{ ([b] * 10**5) | map('upper') | list | length }}",
    "a deep expression": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "an endless template": "{{ 1 }}" * 200000,
}


@pytest.mark.parametrize("source", ESCAPES)
def test_no_way_into_python(source: str) -> None:
    """Refused outright, or nothing comes out: Jinja renders what it does not give out as empty text."""
    try:
        text = ChatTemplate(source, None, None).render(MESSAGES)
    except ConfigError:
        return
    assert text == ""


@pytest.mark.parametrize("name", GREEDY)
def test_greedy_templates_are_stopped(name: str) -> None:
    start = time.process_time()
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError):
        ChatTemplate(GREEDY[name], None, None).render(MESSAGES)
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 256 << 10


def test_long_conversations_are_not_greedy() -> None:
    """2000 messages of 2000 characters, in a template that walks them in several ways."""
    messages = [{"role": ["user", "assistant"][i % 2], "content": "word " * 400} for i in range(2000)]
    source = (
        "{% set ns = namespace(last=0, text='') %}{% for m in messages %}"
        "{% if m.role == 'user' and '<tool>' not in m.content %}{% set ns.last = loop.index0 %}{% endif %}"
        "{% endfor %}"
        "{% for m in messages %}{% set content = m.content.split('</think>')[-1].strip() | trim %}"
        "{{ '<|' ~ m.role ~ '|>' + content.replace('\\n', ' ') + '\\n' }}"
        "{% if loop.index0 > ns.last %}{{ messages[loop.index0 - 1].content | length }}{% endif %}"
        "{{ messages | selectattr('role', 'eq', 'tool') | list | length if loop.index0 % 20 == 0 }}"
        "{% endfor %}"
    )
    start = time.process_time()
    text = ChatTemplate(source, None, None).render(messages)
    assert len(text) > 2000 * 2000
    assert time.process_time() - start < 5
