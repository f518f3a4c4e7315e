"""A Jinja environment for templates that nobody has vetted: they come with downloaded models.

Jinja's immutable sandbox keeps templates away from Python's internals. It bounds neither time nor
memory, so a meter does: every loop round, call and operator spends from one allowance, in characters.
What an operation may produce is worked out and spent *before* it runs.

- A loop round, a call, an operator and an element that is looked into cost 64 each, a character 1; a
  round, and a call of a macro or block, 8 more for each node of its body.
- Nested values are walked before they are turned into text or compared, because a small value that
  holds itself many times over can spell an enormous text.
- `range` stops at 100 000 (Jinja's own limit), numbers at 4096 bits, a template's source at 128 KiB.
- Filters and methods whose cost is not understood here are left out; templates in the field use none.

A template is rewritten after parsing, so that loops, comparisons, slices and `~`, which Jinja compiles
to bare Python, pass the meter too.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from string import Formatter
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from pascaline.text.template_meter import (
    STEP_COST,
    AllowanceSpent,
    counted,
    joined,
    own_size,
    spend,
    spend_on,
)

NODE_COST = 8
MAX_NUMBER_BITS = 4096
MAX_SOURCE_CHARACTERS = 1 << 17
MAX_INDENT = 64
MAX_DECIMALS = 300

# These touch one element, or hand out elements one by one to something that is metered.
_CHEAP_FILTERS = """
    abs attr count d default first items last length map reject rejectattr safe select selectattr
"""
# These read their whole input and give out no more than about as much.
_LINEAR_FILTERS = """
    capitalize dictsort e escape float groupby int lower max min sort string title trim
    truncate unique upper
"""
_TESTS_THAT_LOOK_INSIDE = "eq equalto == ne != lt lessthan < le <= gt greaterthan > ge >= in lower upper"
# Methods of texts and numbers that make bytes, or any number of characters out of one.
_REFUSED_METHODS = frozenset({"encode", "maketrans", "to_bytes", "translate"})


def _looked_into(value: Any) -> Any:
    spend_on(value)
    return value


def _sliced(value: Any) -> Any:
    spend(STEP_COST + own_size(value))
    return value


def _paid(value: Any, cost: int) -> Any:
    spend(cost)
    return value


def _concatenated(values: list[Any]) -> str:
    spend_on(values)
    return "".join(map(str, values))


@jinja2.pass_context
def _finalize(_: Context, value: Any) -> Any:
    # Taking the context also keeps Jinja from evaluating constant expressions while it compiles.
    spend_on(value)
    return value


def _settled(value: Any) -> Any:
    """A list in place of an iterator, which cannot be looked into."""
    return _list(value) if isinstance(value, Iterator) else value


def _linear(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        settled = [_settled(value) for value in args]
        spend(STEP_COST)
        spend_on(settled, kwargs)
        return function(*settled, **kwargs)

    return guarded


def _cheap(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        spend(STEP_COST)
        return function(*args, **kwargs)

    return guarded


def _list(value: Any) -> list[Any]:
    return list(counted(value))


def _reverse(value: Any) -> Any:
    spend(STEP_COST + own_size(value))
    return jinja2.filters.do_reverse(value)


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    spend_on(value, old, new)
    text, old_text, new_text = str(value), str(old), str(new)
    spend(STEP_COST + text.count(old_text) * len(new_text))
    return text.replace(old_text, new_text, -1 if count is None else count)


def _join(
    environment: jinja2.Environment, values: Any, d: Any = "", attribute: str | int | None = None
) -> str:
    values = list(counted(values))
    if attribute is not None:
        values = [jinja2.filters.make_attrgetter(environment, attribute)(value) for value in values]
    spend_on(values, d)
    separator = str(d)
    spend(len(separator) * len(values))
    return separator.join(map(str, values))


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    spend_on(text, width)
    text = str(text)
    per_line = width if isinstance(width, int) else len(width)
    spend(STEP_COST + (len(text.splitlines()) + 1) * per_line)
    return jinja2.filters.do_indent(text, width, first, blank)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it stands: nothing is escaped for HTML, which a model would have to read."""
    spend_on(value)
    width = indent if isinstance(indent, int) else len(indent or "")
    if width > MAX_INDENT:
        raise jinja2.TemplateRuntimeError(f"tojson indents by at most {MAX_INDENT}, not {width}")
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
    if indent is None and separators is None:
        return encoder.encode(value)
    return joined(encoder.iterencode(value))


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if abs(precision) > MAX_DECIMALS:
        raise jinja2.TemplateRuntimeError(f"round takes at most {MAX_DECIMALS} decimals, not {precision}")
    return jinja2.filters.do_round(value, precision, method)  # type: ignore[arg-type]  # it checks itself


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


class _GenerationTag(Extension):
    """{% generation %}…{% endgeneration %} marks the assistant's text for training; here it is plain text."""

    tags = frozenset({"generation"})  # type: ignore[assignment]  # Jinja declares a set and only reads it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _MeterEverything(NodeTransformer):
    """Sends what Jinja would compile to bare Python through the meter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - named by Jinja
        self._meter_body(node, [])
        node.iter = _filter(node.iter, "metered_loop")
        if node.test is not None:
            node.test = _sized(node.test, [node.test])
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        return self._meter_body(node, node.defaults)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        return self._meter_body(node, node.defaults)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        return self._meter_body(node, [])

    def _meter_body(
        self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block, defaults: Sequence[nodes.Node]
    ) -> nodes.Node:
        """What may run many times pays for its size, because not every node is metered on its own."""
        paid = _sized(nodes.Const(None), [*node.body, *defaults])
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(paid, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "metered_concat")

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        self.generic_visit(node)
        node.expr = _filter(node.expr, "metered_look")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "metered_look")
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        self.generic_visit(node)
        node.key = _filter(node.key, "metered_look")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - the name that jinja2 looks for
        self.generic_visit(node)
        return _filter(node, "metered_slice") if isinstance(node.arg, nodes.Slice) else node


def _filter(node: nodes.Node, name: str) -> nodes.Expr:
    if isinstance(node, nodes.Const):
        return node
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _sized(expression: nodes.Node, run: Sequence[nodes.Node]) -> nodes.Expr:
    """The expression, which pays for one run of the nodes `run`; loops and macros in them pay themselves."""
    count, stack = 0, list(run)
    while stack:
        node = stack.pop()
        count += 1
        repeated = isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block)
        stack.extend(node.iter_child_nodes(exclude=("body",) if repeated else ()))
    size = nodes.Const(NODE_COST * count)
    return nodes.Filter(expression, "metered_size", [size], [], None, None, lineno=expression.lineno)


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the meter, and the functions that chat templates in the field expect."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(joined)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            optimized=False,
            finalize=_finalize,
        )
        known = self.filters
        self.filters = {
            **{name: _cheap(known[name]) for name in _CHEAP_FILTERS.split()},
            **{name: _linear(known[name]) for name in _LINEAR_FILTERS.split()},
            "indent": _indent,
            "join": jinja2.pass_environment(_join),
            "list": _list,
            "replace": _replace,
            "reverse": _reverse,
            "round": _round,
            "tojson": _tojson,
            "metered_concat": _concatenated,
            "metered_look": _looked_into,
            "metered_loop": counted,
            "metered_size": _paid,
            "metered_slice": _sliced,
        }
        tests: dict[str, Any] = self.tests
        for name in _TESTS_THAT_LOOK_INSIDE.split():
            tests[name] = _linear(tests[name])
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def template(self, source: str) -> jinja2.Template:
        """Compile `source`. Raises what Jinja raises, and AllowanceSpent."""
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise AllowanceSpent
        return self.from_string(_MeterEverything().visit(self.parse(source)))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in _REFUSED_METHODS and super().is_safe_attribute(obj, attr, value)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(argument, tuple):
            spend_on(argument)  # its hash walks all of it
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        spend(STEP_COST)
        if operator == "+":
            spend(own_size(left) + own_size(right))
        elif operator == "*":
            _spend_on_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            spend_on(left, right)
            _spend_on_widths(left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as jinja2 has it: templates may pass any name
        spend(STEP_COST)
        if isinstance(__obj, LoopContext) and args:
            args = (counted(args[0]), *args[1:])
        elif not isinstance(__obj, Macro | LoopContext | BlockReference):
            args = tuple(_settled(value) for value in args)
            _spend_on_call(__obj, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        pattern: str = value.__self__

        def formatted(*args: Any, **kwargs: Any) -> str:
            spend_on(pattern, args, kwargs)
            for _, _, specification, _ in Formatter().parse(pattern):
                if specification and "{" in specification:
                    raise jinja2.TemplateRuntimeError("format() takes no fields inside of fields")
                _spend_on_widths(specification or "", ())
            result: str = wrapped(*args, **kwargs)
            return result

        return formatted


def _spend_on_product(left: Any, right: Any) -> None:
    for sequence, times in ((left, right), (right, left)):
        if isinstance(times, int):
            spend(own_size(sequence) * max(times, 0))
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())


def _spend_on_call(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    text = getattr(function, "__self__", None)
    name = getattr(function, "__name__", "")
    if not isinstance(text, str):
        spend_on(text if isinstance(text, list | tuple) else None, args, kwargs)
        return
    spend_on(text, args, kwargs)
    if name == "replace" and len(args) >= 2:
        spend(text.count(args[0]) * len(args[1]))
    elif name == "join" and args and hasattr(args[0], "__len__"):
        spend(len(text) * len(args[0]))
    elif name in ("split", "rsplit", "splitlines"):
        spend(3 * len(text))
    elif name in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        width = next((value for value in (*args, *kwargs.values()) if isinstance(value, int)), 8)
        spend(max(width, 0) * (text.count("\t") if name == "expandtabs" else 1))


def _check_bits(bits: int) -> None:
    if bits > MAX_NUMBER_BITS:
        raise jinja2.TemplateRuntimeError(f"numbers hold at most {MAX_NUMBER_BITS} bits")


def _spend_on_widths(pattern: str, values: object) -> None:
    """Spend for the widths that may stand in a format: every number in it, and with "*" every one given."""
    for digits in re.findall(r"\d+", pattern):
        spend(int(digits[:20]))
    if "*" in pattern:
        for value in values if isinstance(values, tuple) else (values,):
            spend(abs(value) if isinstance(value, int) else 0)
