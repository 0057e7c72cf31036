"""Mutates one module at a time and asks its tests: `python -m tests.reliability.mutation gateway/dispatch/retry.py`.

A mutant is killed if a test fails, or takes far longer than before. What stays the same by design is not mutated: texts
(reasons, SQL), annotations, and the module's named figures, which tests name as well rather than repeat.

Each mutant is a fork of a process that has everything but the gateway's own code loaded.
"""

from __future__ import annotations

import argparse
import ast
import importlib.machinery
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import aiohttp.web
import apsw
import cryptography.x509
import h2.connection
import hypothesis.stateful
import msgspec
import orjson
import prometheus_client
import pydantic_settings
import pytest
import structlog

LOADED = (aiohttp.web, apsw, cryptography.x509, h2.connection, hypothesis.stateful, msgspec, orjson)
LOADED_TOO = (prometheus_client, pydantic_settings, structlog)
"""Third parties' code, which every mutant needs and none changes."""

SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
SIGNATURES = ("annotation", "returns", "decorator_list")
PATIENCE = 5.0
"""Times what the tests take by themselves, and as many seconds more."""


class Mutant(NamedTuple):
    line: int
    what: str
    code: CodeType


class Subject(NamedTuple):
    """What of a module is mutated (these functions; all without any), and by what its tests are asked."""

    tests: Sequence[str]
    functions: Sequence[str] = ()


QUEUE = ("test_leases.py", "test_sqlite_contract.py", "test_looking.py", "test_parking.py", "test_recovery.py")
SENDING = ("test_sender.py", "test_quarantine.py")
JUDGING = ("_heed", "_yield", "_suspect", "_settle_unsent", "_settle_unknown", "_settle_answered", "_rows", "_meaning")
SUBJECTS = {
    "gateway/dispatch/retry.py": Subject(["tests/gateway/dispatch/test_retry.py"]),
    "gateway/dispatch/budget.py": Subject(["tests/gateway/dispatch/test_budget.py"]),
    "gateway/dispatch/breaker.py": Subject(["tests/gateway/dispatch/test_breaker.py"]),
    "gateway/dispatch/refusals.py": Subject([f"tests/gateway/dispatch/{name}" for name in SENDING]),
    "gateway/dispatch/sender.py": Subject([f"tests/gateway/dispatch/{name}" for name in SENDING], JUDGING),
    "gateway/egress/addresses.py": Subject(["tests/gateway/egress/test_addresses.py"]),
    "gateway/egress/guard.py": Subject(["tests/gateway/egress/test_guard.py"]),
    "gateway/policy/screening.py": Subject(["tests/gateway/policy/test_screening.py"]),
    "gateway/queue/dead.py": Subject(["tests/gateway/queue/test_dead.py"]),
    "gateway/queue/leases.py": Subject([f"tests/gateway/queue/{name}" for name in QUEUE]),
    "gateway/receipts/store.py": Subject(["tests/gateway/receipts/test_store.py"]),
    "providers/hosts.py": Subject(["tests/providers/test_hosts.py"]),
}


def mutants(path: str, functions: Sequence[str] = ()) -> Iterator[Mutant]:
    """All there are, each with one change."""
    tree = ast.parse(Path(path).read_text())
    classes = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
    for function in [node for each in classes for node in each.body if isinstance(node, FUNCTIONS)]:
        if not functions or function.name in functions:
            for node in _nodes(function):
                yield from _changed(tree, path, node)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """A node and all below it that do something: no signatures, no annotations."""
    yield node
    for field, below in ast.iter_fields(node):
        for each in below if isinstance(below, list) else [below]:
            if isinstance(each, ast.AST) and field not in SIGNATURES and not isinstance(each, ast.arguments):
                yield from _nodes(each)


def _changed(tree: ast.Module, path: str, node: ast.AST) -> Iterator[Mutant]:
    for field, value in _alternatives(node):
        original = getattr(node, field)
        before = ast.unparse(node).splitlines()
        setattr(node, field, value)
        after = ast.unparse(node).splitlines()
        code = compile(ast.fix_missing_locations(tree), path, "exec")
        setattr(node, field, original)
        # A statement that went left a `pass` in its place; anything else is told by its first line.
        at = next((at for at, line in enumerate(after) if line != before[at]), 0)
        yield Mutant(getattr(node, "lineno", 0), f"{before[at].strip()}  ->  {after[at].strip()}", code)


def _alternatives(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Changes to a node: which field becomes what."""
    match node:
        case ast.Compare(ops=ops):
            for at, op in enumerate(ops):
                yield "ops", [*ops[:at], SWAPS[type(op)](), *ops[at + 1 :]]
        case ast.BoolOp(op=op) | ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in SWAPS:
            yield "op", SWAPS[type(op)]()
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if not isinstance(test, ast.Compare):
            yield "test", ast.UnaryOp(ast.Not(), test)
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value) | float(value)):
            yield "value", value + 1
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and not value.value):
            yield "value", ast.Constant(None)
    for field, below in ast.iter_fields(node):
        if isinstance(below, list):
            for at, statement in enumerate(below):
                if _can_go(statement):
                    yield field, [*below[:at], ast.Pass(), *below[at + 1 :]]


def _can_go(node: Any) -> bool:
    """Calls and changes of what outlives the function; without a local name the rest would not run at all."""
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign():
            return True
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            return True
    return False


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a mutant in its module's place."""

    code: CodeType

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class _Finder:
    def __init__(self, path: str, code: CodeType) -> None:
        self._name = path.removesuffix(".py").replace("/", ".")
        self._loader = _Loader(self._name, path)
        self._loader.code = code

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self._loader, origin=path) if name == self._name else None


def passes(path: str, tests: Sequence[str], code: CodeType, seconds: float) -> bool:
    """Whether the tests pass, in this time, with this code in the module's place."""
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(silence, descriptor)
        sys.meta_path.insert(0, _Finder(path, code))  # type: ignore[arg-type]
        options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "-W", "default"]
        os._exit(int(pytest.main([*options, *tests])))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def survivors(path: str, most: int, seed: int) -> tuple[int, int, list[str]]:
    """How many mutants there are, how many of them were tried, and what those were whom no test noticed."""
    subject = SUBJECTS[path]
    found = list(mutants(path, subject.functions))
    drawn = random.Random(seed).sample(found, min(most, len(found)))
    began = time.monotonic()
    if not passes(path, subject.tests, compile(Path(path).read_text(), path, "exec"), 300.0):
        raise AssertionError(f"the tests of {path} do not pass by themselves")
    patience = PATIENCE * (time.monotonic() - began + 1.0)
    alive = [each for each in drawn if passes(path, subject.tests, each.code, patience)]
    return len(found), len(drawn), [f"{path}:{each.line}: {each.what}" for each in sorted(alive, key=lambda m: m.line)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.mutation")
    parser.add_argument("module", choices=SUBJECTS)
    parser.add_argument("--most", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    there, tried, alive = survivors(chosen.module, chosen.most, chosen.seed)
    print(json.dumps({"mutants": there, "tried": tried, "survivors": alive}))
