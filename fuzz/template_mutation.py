"""Jinja templates spliced from pieces that do much with little."""

from __future__ import annotations

from random import Random


def _pieces(text: str) -> list[str]:
    return [piece.strip() for piece in text.split("§")]


_EXPRESSIONS = _pieces(r"""
messages § messages[0].content § 'a' § 'é' * 999 § [1, 2] § (1,) § {'a': 1} § range(99999) § n.s §
10 ** 9 § 0 § -1 § 1.5 § none § true § x § loop.index § cycler('a', 'b') § namespace(s=[]) §
bos_token § caller() § self § joiner() § dict(a=1) § strftime_now('%Y') § '%9999d' % 1 § 1 / 0 §
'{:99999}'.format(1) § 'a'.center(99999) § ''.join(['a'] * 9999) § raise_exception('no') § m(n) §
messages[::2] § 'abc'[::-1] § x ~ x § x + x § x == x § x in x § [x, x] § (x, x) § {x: x} §
messages.__class__ § ''.__class__.__mro__ § x.__init__.__globals__ § 2 ** 4000 § '\ud800' § x is y
""")
_FILTERS = _pieces(r"""
abs § attr('x') § capitalize § count § d('z') § default('z', true) § dictsort § e § escape § first §
float § groupby('role') § indent(9999) § int § int(base=36) § items § join § join('-' * 999) § last §
length § list § lower § map('upper') § map(attribute='role') § max § min § random § reject §
rejectattr('role') § replace('', 'aaaa') § replace('a', 'aa') § reverse § round(300) § safe § select §
selectattr('role', 'equalto', 'user') § slice(3) § batch(2, 'x') § sort § string § striptags § sum §
sum(start=[]) § title § tojson § tojson(indent=64) § trim § truncate(9) § unique § upper § urlize §
wordwrap(1) § xmlattr § center(99999) § format(1) § pprint § filesizeformat
""")
_STATEMENTS = r"""
{{{{ {a} }}}}
{{{{ {a} | {f} }}}}
{{{{ ({a}) | {f} | {g} }}}}
{{{{ {a} ~ {b} }}}}
{{% set x = {a} %}}
{{% set x = {a} | {f} %}}
{{% set x %}}{inner}{{% endset %}}
{{% for x in {a} %}}{inner}{{% endfor %}}
{{% for x in {a} if {b} %}}{inner}{{% else %}}z{{% endfor %}}
{{% for x in {a} recursive %}}{{{{ loop({b}) }}}}{inner}{{% endfor %}}
{{% if {a} %}}{inner}{{% elif {b} %}}y{{% endif %}}
{{% macro m(n) %}}{inner}{{% endmacro %}}{{{{ m({a}) }}}}
{{% call(n) m({a}) %}}{inner}{{% endcall %}}
{{% filter {f} %}}{inner}{{% endfilter %}}
{{% set n = namespace(s={a}) %}}{{% for i in range(60) %}}{{% set n.s = {b} %}}{{% endfor %}}{{{{ n.s }}}}
{{% generation %}}{inner}{{% endgeneration %}}
{{% break %}}
{{% continue %}}
{{% block q %}}{inner}{{% endblock %}}
{{% with x = {a} %}}{inner}{{% endwith %}}
{{% include {a} %}}
{{% extends {a} %}}
{{% import {a} as y %}}
{{% raw %}}{inner}{{% endraw %}}
{{# {inner} #}}
{{%- {a} -%}}
{{% do {a} %}}
{{% autoescape true %}}{inner}
""".strip().splitlines()


def mutate_template(data: bytes, random: Random) -> bytes | None:
    """Insert a statement, replace a stretch, repeat one, or nest deeply."""
    text = data.decode("utf-8", "replace")
    start = random.randrange(len(text) + 1)
    kind = random.randrange(8)
    if kind < 4:
        text = text[:start] + _statement(random, 3) + text[start:]
    elif kind == 4:
        text = text[:start] + random.choice(_EXPRESSIONS) + text[start + random.choice((0, 5)) :]
    elif kind == 5:
        stop = start + random.choice((1, 10, 100))
        text = text[:start] + text[start:stop] * random.choice((2, 20)) + text[stop:]
    elif kind == 6:
        opening, closing = random.choice((("(", ")"), ("[", "]"), ("-", ""), ("not ", ""), ("{'a':", "}")))
        depth = random.choice((50, 300, 2000, 20_000))
        text = text[:start] + "{{ " + opening * depth + "1" + closing * depth + " }}" + text[start:]
    else:
        text = text[:start] + text[start + random.choice((1, 4, 30)) :]
    return text[:20_000].encode("utf-8", "replace")


def _statement(random: Random, depth: int) -> str:
    if depth == 0:
        return random.choice(("x", "{{ x }}", "\n"))
    return random.choice(_STATEMENTS).format(
        a=random.choice(_EXPRESSIONS),
        b=random.choice(_EXPRESSIONS),
        f=random.choice(_FILTERS),
        g=random.choice(_FILTERS),
        inner=_statement(random, depth - 1) if random.random() < 0.8 else "x",
    )
