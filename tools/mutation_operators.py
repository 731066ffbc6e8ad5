"""Mutants of a source text: small changes of arithmetic, comparisons, calls and statements, one at a time.

A mutant replaces one piece of the text and leaves the rest as it is, so it reads as a change of one line.
Text for people (error messages, log lines, docstrings), annotations, defaults and assertions are left alone:
a mutant there says nothing about the physics.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

FACTOR: Final = "1.001"
"""What quantities are multiplied by: so little that nothing breaks, and yet measurable."""

OPERATORS: Final = (
    "factor",
    "sign",
    "dropped term",
    "constant",
    "comparison",
    "off by one",
    "transposed",
    "swapped",
    "negation",
    "dropped statement",
)
"""Kinds of mutants, in the order in which they are chosen."""

# Functions annotated so return arrays or numbers; a factor on what others return is an error of types.
NUMERIC: Final = ("Tensor", "Array", "FloatArray", "float")
# The arguments of these are sizes, places and text, where a factor is an error of types.
SIZES: Final = frozenset(
    {"range", "len", "slice", "arange", "zeros", "ones", "empty", "full", "new_zeros", "new_ones", "new_full"}
    | {"reshape", "view", "expand", "pad", "isinstance", "getattr", "join", "format"}
    | {"info", "warning", "debug", "error"}
)
# The order of the arguments of these does not matter.
SYMMETRIC: Final = frozenset({"array_equal", "equal", "allclose", "max", "min", "maximum", "minimum", "gcd"})
COMPARISONS: Final = {
    ast.Lt: "<=",
    ast.LtE: "<",
    ast.Gt: ">=",
    ast.GtE: ">",
    ast.Eq: "!=",
    ast.NotEq: "==",
    ast.In: "not in",
    ast.NotIn: "in",
}
SIGNS: Final = {ast.Add: ("+", "-"), ast.Sub: ("-", "+")}
WHOLE: Final = (ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript)
ARITHMETIC: Final = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.MatMult, ast.Pow)
REMOVABLE: Final = ("transpose", "abs", "square", "conj", "roll")


@dataclass(frozen=True)
class Mutant:
    """One change: bytes ``start`` to ``end`` of a file become ``after``; ``line`` is where, for people.

    ``number`` tells apart mutants of a function that read the same.
    """

    file: str
    function: str
    operator: str
    line: int
    start: int
    end: int
    before: str
    after: str
    number: int = 0

    def applied_to(self, source: str) -> str:
        """Return the source with this change."""
        content = source.encode()
        return (content[: self.start] + self.after.encode() + content[self.end :]).decode()

    def order(self, seed: int) -> str:
        """Return a random key that depends on the seed and on what the mutant reads like.

        Neither the file's name nor the line counts, so that mutants stay the same ones where code is moved.
        """
        text = "\0".join((str(seed), self.operator, self.function, self.before, self.after, str(self.number)))
        return hashlib.sha256(text.encode()).hexdigest()


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Return all mutants of a source text, in the order of the text."""
    collector = _Collector(file, source)
    collector.visit(ast.parse(source))
    seen: dict[tuple[int, int, str], Mutant] = {}
    counts: dict[tuple[str, str, str, str], int] = {}
    for mutant in sorted(collector.found, key=lambda found: (found.start, found.end)):
        if (mutant.start, mutant.end, mutant.after) in seen:
            continue
        alike = (mutant.function, mutant.operator, mutant.before, mutant.after)
        number = counts.get(alike, 0)
        counts[alike] = number + 1
        numbered = Mutant(**{**vars(mutant), "number": number})
        seen[mutant.start, mutant.end, mutant.after] = numbered
    return list(seen.values())


def chosen(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """Return at most ``count`` mutants: one of each operator in turn, at random within an operator."""
    by_operator: dict[str, list[Mutant]] = {operator: [] for operator in OPERATORS}
    for mutant in sorted(mutants, key=lambda mutant: mutant.order(seed)):
        by_operator[mutant.operator].append(mutant)
    found: list[Mutant] = []
    while len(found) < count and any(by_operator.values()):
        for operator in list(by_operator):
            if by_operator[operator] and len(found) < count:
                found.append(by_operator[operator].pop(0))
    return found


class _Collector(ast.NodeVisitor):
    """Walks a module and notes every mutant."""

    def __init__(self, file: str, source: str) -> None:
        self.file = file
        self.content = source.encode()
        self.starts = [0]
        for line in self.content.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.scope: list[str] = []
        self.numeric: list[bool] = [False]
        self.sizes = 0
        self.found: list[Mutant] = []

    # ------------------------------------------------------------------ notes

    def span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]

    def text(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.content[start:end].decode()

    def operand(self, node: ast.expr) -> str:
        """Return the text of an expression, in parentheses unless it needs none."""
        return self.text(node) if isinstance(node, WHOLE) else f"({self.text(node)})"

    def note(self, operator: str, node: ast.AST, after: str, last: ast.AST | None = None) -> None:
        """Note that ``after`` may stand for a node, or for all from it to the ``last`` one."""
        (start, end), line = self.span(node), node.lineno  # type: ignore[attr-defined]
        end = end if last is None else self.span(last)[1]
        before = self.content[start:end].decode()
        self.found.append(Mutant(self.file, ".".join(self.scope), operator, line, start, end, before, after))

    # ------------------------------------------------------------------ what is walked and what is not

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        returns = "" if node.returns is None else self.text(node.returns)
        self.numeric.append(returns in NUMERIC)
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()
        self.numeric.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scope.append(node.name)
        for statement in node.body:
            self.visit(statement)
        self.scope.pop()

    def visit_If(self, node: ast.If) -> None:
        if self.text(node.test) != "TYPE_CHECKING":
            self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave messages alone."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave text alone."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave assertions alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.constant(node.value)
        if node.value is not None:
            self.visit(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        self.visit(node.value)

    # ------------------------------------------------------------------ mutants

    def constant(self, value: ast.expr | None) -> None:
        """A named number of a module or a class."""
        within_function = bool(self.scope) and not self.scope[-1][0].isupper()
        if isinstance(value, ast.Constant) and isinstance(value.value, float) and not within_function:
            self.note("constant", value, f"({FACTOR} * {self.text(value)})")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.constant(node.value)
        if isinstance(node.targets[0], (ast.Attribute, ast.Subscript)) and self.scope[-1:] != ["__init__"]:
            self.note("dropped statement", node, "pass")
        self.visit(node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.note("dropped statement", node, "pass")
        self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and not _called(node.value) & SIZES:
            self.note("dropped statement", node, "pass")
        self.visit(node.value)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value is None:
            return
        if self.numeric[-1] and not _is_text(node.value) and not isinstance(node.value, ast.Constant):
            self.note("factor", node.value, f"{FACTOR} * ({self.text(node.value)})")
        self.visit(node.value)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if _is_text(node) or not isinstance(node.op, ARITHMETIC):
            self.generic_visit(node)
            return
        left, right = self.operand(node.left), self.operand(node.right)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            self.note("sign", node, self.other_sign(node, *SIGNS[type(node.op)]))
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            self.note("dropped term", node, left)
        if isinstance(node.op, (ast.Add, ast.Mult)):
            self.note("dropped term", node, right)
        if isinstance(node.op, (ast.Mult, ast.Div, ast.MatMult)) and not self.sizes:
            self.note("factor", node, f"({FACTOR} * ({self.text(node)}))")
        if isinstance(node.op, ast.MatMult):
            self.note("swapped", node, f"({right} @ {left})")
        for part in (node.left, node.right):
            self.number(part)
        self.generic_visit(node)

    def other_sign(self, node: ast.BinOp, sign: str, other: str) -> str:
        """Return a sum or difference with the other sign before its last term."""
        start, end = self.span(node)
        middle, second = self.span(node.left)[1], self.span(node.right)[0]
        place = middle + self.content[middle:second].rindex(sign.encode())
        return (self.content[start:place] + other.encode() + self.content[place + 1 : end]).decode()

    def number(self, node: ast.expr) -> None:
        """A number or a named constant inside a formula."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            self.note("off by one", node, str(node.value + 1))
        elif isinstance(node, ast.Constant) and isinstance(node.value, float) and node.value != 0.0:
            self.note("constant", node, f"({FACTOR} * {self.text(node)})")
        elif isinstance(node, ast.Name) and node.id.isupper() and len(node.id) > 1 and not self.sizes:
            self.note("constant", node, f"({FACTOR} * {node.id})")

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if not isinstance(node.operand, ast.Constant):
            if isinstance(node.op, ast.USub):
                self.note("sign", node, f"(+{self.operand(node.operand)})")
            elif isinstance(node.op, ast.Not):
                self.note("negation", node, f"bool({self.text(node.operand)})")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        word = " or " if isinstance(node.op, ast.And) else " and "
        self.note("negation", node, "(" + word.join(f"({self.text(value)})" for value in node.values) + ")")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        symbol = COMPARISONS.get(type(node.ops[0]))
        if len(node.ops) == 1 and symbol is not None:
            left, right = node.left, node.comparators[0]
            self.note("comparison", node, f"({self.operand(left)} {symbol} {self.operand(right)})")
            # a name that is compared for equality is a label, not an amount
            if not (isinstance(right, ast.Name) and isinstance(node.ops[0], (ast.Eq, ast.NotEq))):
                self.number(right)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if node.attr in ("T", "mT"):
            self.note("transposed", node, self.text(node.value))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        names = _called(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr in REMOVABLE:
            operator = "transposed" if node.func.attr == "transpose" else "dropped term"
            self.note(operator, node, self.text(node.func.value))
        if names & {"range"} and node.args:
            last = node.args[-1]
            self.note("off by one", last, f"{self.operand(last)} + 1")
        pairs = [] if names & SYMMETRIC else zip(node.args, node.args[1:], strict=False)
        for first, second in pairs:
            one, other = self.text(first), self.text(second)
            if (
                one != other
                and isinstance(first, (ast.Name, ast.Attribute))
                and isinstance(second, (ast.Name, ast.Attribute))
            ):
                between = self.content[self.span(first)[1] : self.span(second)[0]].decode()
                self.note("swapped", first, f"{other}{between}{one}", last=second)
                break
        self.sizes += bool(names & SIZES)
        self.generic_visit(node)
        self.sizes -= bool(names & SIZES)


def _called(node: ast.Call) -> set[str]:
    """Return the last name of what is called."""
    if isinstance(node.func, ast.Attribute):
        return {node.func.attr}
    return {node.func.id} if isinstance(node.func, ast.Name) else set()


def _is_text(node: ast.expr) -> bool:
    """Return whether an expression is text, or a list that is lengthened, as far as one sees it."""
    return any(
        isinstance(part, (ast.JoinedStr, ast.List, ast.Dict))
        or (isinstance(part, ast.Constant) and isinstance(part.value, (str, bytes)))
        for part in _operands(node)
    )


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp):
        yield from _operands(node.left)
        yield from _operands(node.right)
    else:
        yield node
