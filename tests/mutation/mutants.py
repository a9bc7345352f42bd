"""Mutants: one small change of a file each. Those of Python code are made from its syntax tree, the same in each run.

Numbers above two and durations are not changed: they are tuned, and a test of the exact figure would repeat the code.
Neither are calls that write a log line.
"""

from __future__ import annotations

import ast
import copy
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_REPLACED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of a file: the bytes from `start` to `end` become `text`.

    `old` and `new` are the whole lines before and after it, in one line; with the file they identify the mutant.
    """

    file: str
    line: int
    start: int
    end: int
    text: str
    old: str
    new: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies it while other lines of the file change."""
        return self.file, self.old, self.new

    def apply(self, source: bytes) -> bytes:
        """Return the source with the change."""
        return source[: self.start] + self.text.encode() + source[self.end :]

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.old}  ->  {self.new or '(nothing)'}"


def make_mutants(root: Path, file: str) -> list[Mutant]:
    """Return all mutants of a Python file, in its order; none for another."""
    if not file.endswith(".py"):
        return []
    source = (root / file).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _change(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        text = ast.unparse(changed)
        if isinstance(changed, ast.expr) and not isinstance(changed, ast.Constant):
            text = f"({text})"
        found.append(_mutant(file, source, start, end, text))
    return found


def replace_text(root: Path, file: str, old: str, new: str) -> Mutant:
    """Return the mutant that has another text in place of one that stands in the file once."""
    source = (root / file).read_bytes()
    if source.count(old.encode()) != 1:
        raise SystemExit(f"{old!r} stands {source.count(old.encode())} times in {file}, not once")
    start = source.index(old.encode())
    return _mutant(file, source, start, start + len(old.encode()), new)


def _mutant(file: str, source: bytes, start: int, end: int, text: str) -> Mutant:
    first, last = source.rfind(b"\n", 0, start) + 1, (source.find(b"\n", end - 1) + 1 or len(source))
    old = source[first:last].decode()
    new = (source[first:start] + text.encode() + source[end:last]).decode()
    return Mutant(
        file, source.count(b"\n", 0, start) + 1, start, end, text, " ".join(old.split()), " ".join(new.split())
    )


def _change(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Yield nodes of code that runs, each with what takes its place."""
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Expr) and ast.unparse(node).lstrip("_").startswith("log."):
        return
    if isinstance(node, ast.expr | ast.stmt):
        yield from ((node, changed) for changed in _variants(node))
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list"} or isinstance(node, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _change(child)


def _variants(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:  # noqa: C901 - one case for each kind of change
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARED:
            yield _with(node, ops=[_COMPARED[type(op)]()])
        case ast.BoolOp():
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.BinOp() if type(node.op) in _REPLACED:
            yield _with(node, op=_REPLACED[type(node.op)]())
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int(number)) if number in {0, 1, 2}:
            yield ast.Constant(number + 1)
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Return(value=ast.expr()) if not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
