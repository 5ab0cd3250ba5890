"""Whether the tests notice when the rules change: every small change of a rule must fail a test.

    python bench/mutation.py [--jobs N] [MODULE...]

Runs the tests of ``core`` once to learn which test reaches which line, then changes one thing at a time
(``changes``) in a forked child and runs there the tests that reach the changed statement, quickest first,
until one fails. Writes docs/mutation.md: counts a module and each change that no test noticed. The reason
behind a survivor is written into that file by hand and kept. Exits with 1 where fewer than 95 % of a
module's changes are noticed, or a survivor has no reason.

What is left alone: docstrings, annotations, imports, decorators, and the wording inside an f-string (the
whole sentence, its values and their formats are changed, its punctuation is not).
"""

from __future__ import annotations

import argparse
import ast
import gc
import importlib
import inspect
import mmap
import os
import re
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "mutation.md"
TESTS = ["tests/core", "tests/test_policies.py"]
TESTS += ["--deselect=tests/core/test_calculate.py::test_a_long_batch_needs_no_more_memory_than_a_short_one"]
MODULES = ["units", "assistants", "charged", "modifiers"]
MODULES += ["checks_minutes", "checks_codes", "checks_edits", "checks_payer"]
OPTIONS = [
    "--import-mode=importlib",
    "--assert=plain",
    "-x",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:xdist",
    "-o",
    "addopts=",
]
LEAST = 95  # percent noticed, in each module
GIGABYTES = 4  # of address space for a child: a changed loop may never end

EDGES = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
SWAPS = {"min": "max", "max": "min", "any": "all", "all": "any", "sorted": "list"}
# What a reviewer sees is made by these: none of what they are given may go astray unnoticed.
RESULTS = {"Finding", "_fail", "_failed", "_not_checked", "Reason", "Modifier", "Line", "Split", "Count"}
RESULTS |= {"Allocation", "Documented", "UnitTerms", "AssistantRule", "_compared"}
NOTHING = ast.Constant(None)
SMALL, LONG = 30, 100  # characters of a change as it is shown
LEFT_ALONE = {"annotation", "returns", "decorator_list", "bases", "type_params"}


# ---- one small change ----------------------------------------------------------------------------


def changes(node: ast.AST) -> Iterator[ast.AST]:  # noqa: C901, PLR0912  one case a kind of node
    """Each small change of one node, its children left as they are."""
    match node:
        case ast.Compare():
            for place, operator in enumerate(node.ops):
                for other in EDGES[type(operator)]:
                    yield ast.Compare(
                        node.left, [*node.ops[:place], other(), *node.ops[place + 1 :]], node.comparators
                    )
        case ast.BinOp(left, operator, right) if type(operator) in ARITHMETIC:
            yield ast.BinOp(left, ARITHMETIC[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for place in range(len(values)):
                rest = values[:place] + values[place + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(str() as value):
            yield ast.Constant("" if " " in value.strip() else f"{value}~")
        case ast.JoinedStr():
            yield ast.Constant("")
        case ast.FormattedValue(value, conversion, ast.JoinedStr()):
            yield ast.FormattedValue(value, conversion)
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(None, upper, step)
            if upper is not None:
                yield ast.Slice(lower, None, step)
        case ast.Call():
            yield from changed_calls(node)
        case ast.Return(ast.Constant(None)):
            yield ast.Return(ast.Tuple([], ast.Load()))
        case ast.Return(value) if value is not None and not (
            isinstance(value, ast.Constant) and not value.value
        ):
            yield ast.Return(NOTHING)
        case ast.AugAssign(target, operator, value):
            yield ast.AugAssign(target, ARITHMETIC[type(operator)](), value)
            yield ast.Pass()
        case (
            ast.Expr()
            | ast.Raise()
            | ast.Continue()
            | ast.Break()
            | ast.Assign([ast.Attribute() | ast.Subscript()])
        ):
            yield ast.Pass()


def changed_calls(call: ast.Call) -> Iterator[ast.AST]:
    """Another function, an argument less, or nothing in the place of what a result is made of."""
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    if name in SWAPS:
        kept = [] if name == "sorted" else call.keywords
        yield ast.Call(ast.Name(SWAPS[name], ast.Load()), call.args, kept)
    if ast.unparse(call.func) == "dict.fromkeys" and len(call.args) == 1:
        yield call.args[0]
    for place, argument in enumerate(call.args if name in RESULTS else ()):
        if not isinstance(argument, ast.Constant | ast.JoinedStr | ast.Starred):
            yield ast.Call(call.func, [*call.args[:place], NOTHING, *call.args[place + 1 :]], call.keywords)
    for place, keyword in enumerate(call.keywords):
        rest = [*call.keywords[:place], *call.keywords[place + 1 :]]
        if name not in RESULTS:
            yield ast.Call(call.func, call.args, rest)
        elif not isinstance(keyword.value, ast.Constant | ast.JoinedStr):
            yield ast.Call(call.func, call.args, [*rest, ast.keyword(keyword.arg, NOTHING)])


def alike(one: str, other: str) -> int:
    """How many characters two texts share from their beginning."""
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071  characters are what is asked for


@dataclass
class Mutant:
    """A change of one place of a module's tree, made and undone by exchanging what stands there."""

    module: str
    function: str  # dotted; empty for what runs when the module is imported
    lines: range  # of the statement that is changed
    around: ast.AST
    holder: Any
    key: Any
    new: ast.AST

    def says(self) -> str:
        """The place before and after, with what stands around a small one, cut to what differs."""
        old = self.holder[self.key]
        small = isinstance(self.around, ast.expr) and len(ast.unparse(old)) < SMALL
        texts = []
        for node in (old, self.new):
            self.holder[self.key] = node
            texts.append(" ".join(ast.unparse(self.around if small else node).split()))
        self.holder[self.key] = old
        start = end = 0
        if max(map(len, texts)) > LONG:
            start = max(0, alike(*texts) - SMALL)
            end = max(0, alike(*(text[: start + SMALL : -1] for text in texts)) - SMALL)
        cut = [
            f"{'…' * bool(start)}{text[start : len(text) - end]}{'…' * bool(end)}".strip() for text in texts
        ]
        return f"`{self.module}.{self.function or '(import)'}`: `{cut[0]}` → `{cut[1]}`"

    def compiled(self, tree: ast.Module, path: str) -> CodeType:
        """The module's code with the change in it."""
        old, self.holder[self.key] = self.holder[self.key], self.new
        try:
            return compile(ast.fix_missing_locations(tree), path, "exec")
        finally:
            self.holder[self.key] = old


def mutants(  # noqa: C901  one loop over a tree
    module: str, node: ast.AST, function: str, lines: range, inside: bool = False
) -> Iterator[Mutant]:
    """Every change in a node and below it, in the order of the source."""
    for field, value in ast.iter_fields(node):
        if field in LEFT_ALONE:
            continue
        holder, keys = (value, range(len(value))) if isinstance(value, list) else (vars(node), [field])
        for key in keys:
            child = holder[key]
            if not isinstance(child, ast.AST) or left_alone(child, node, field):
                continue
            where, within, at = function, inside, lines
            if isinstance(child, ast.stmt):
                body = getattr(child, "body", None)
                last = max(child.lineno, body[0].lineno - 1) if body else child.end_lineno or child.lineno
                at = range(child.lineno, last + 1)
            if isinstance(child, ast.FunctionDef | ast.ClassDef) and not inside:
                where = f"{function}.{child.name}" if function else child.name
            elif isinstance(node, ast.FunctionDef) and field == "body":
                within = True
            shown = where if within else ""
            for new in changes(child):
                yield Mutant(module, shown, at, node, holder, key, new)
            if field in {"test", "ifs"}:
                for truth in (True, False):
                    yield Mutant(module, shown, at, node, holder, key, ast.Constant(truth))
            if field == "iter":
                yield Mutant(module, shown, at, node, holder, key, ast.Tuple([], ast.Load()))
            yield from mutants(module, child, where, at, within)


def left_alone(child: ast.AST, parent: ast.AST, field: str) -> bool:
    """Docstrings, imports, aliases of types, what is for the type checker, and the wording of a sentence."""
    match child:
        case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant(str())):
            return True
        case (
            ast.If(ast.Name("TYPE_CHECKING"))
            | ast.Assign([ast.Name("__all__")])
            | ast.Assign(_, ast.Subscript())
        ):
            return isinstance(parent, ast.Module)
        case ast.Constant():
            return isinstance(parent, ast.JoinedStr)
    return field == "format_spec"


# ---- one child a change --------------------------------------------------------------------------


class Mutation:
    """Takes the place of pytest's loop over the tests that it collected."""

    def __init__(self, modules: list[str], jobs: int) -> None:
        self.modules = {module: ROOT / "core" / f"{module}.py" for module in modules}
        self.jobs = jobs
        self.child = False
        self.noticed_by = mmap.mmap(-1, 1 << 16)  # shared: a failing test adds itself, and is tried earlier
        self.place = 0
        self.took: list[float] = []
        self.reached: dict[str, dict[int, set[int]]] = {
            str(path): defaultdict(set) for path in self.modules.values()
        }
        self.fine = True
        self.survivors: list[Mutant] = []
        self.running: dict[int, Mutant] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """One failure is enough."""
        if call.excinfo is not None:
            if self.child:
                self.noticed_by[self.place] = min(255, self.noticed_by[self.place] + 1)
                os._exit(1)
            sys.exit(f"{item.nodeid} fails before anything is changed: {call.excinfo.exconly()}")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """The unchanged run, then every mutant in a child of its own."""
        self.items = session.items
        for place in range(len(self.items)):
            self.learn(place)
        gc.freeze()
        for module, path in self.modules.items():
            tree = ast.parse(path.read_text())
            self.survivors = []
            number, began = 0, time.monotonic()
            for mutant in mutants(module, tree, "", range(0)):
                number += 1
                self.start(mutant, mutant.compiled(tree, str(path)), str(path))
            while self.running:
                self.wait()
            print(f"{module}: {number} in {time.monotonic() - began:.0f} s", file=sys.stderr)
            self.fine = report(module, number, self.survivors) and self.fine
        return True

    def run(self, place: int) -> None:
        self.place = place
        item = self.items[place]
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)

    def learn(self, place: int) -> None:
        """Runs a test unchanged: its time, and the lines it reaches."""

        def trace(frame: FrameType, *_: object) -> Any:
            lines = self.reached.get(frame.f_code.co_filename)
            if lines is None:
                return None
            lines[frame.f_lineno].add(place)
            return trace

        began = time.process_time()
        sys.settrace(trace)
        self.run(place)
        sys.settrace(None)
        self.took.append(time.process_time() - began)

    def start(self, mutant: Mutant, code: CodeType, path: str) -> None:
        if len(self.running) == self.jobs:
            self.wait()
        child = os.fork()
        if child:
            self.running[child] = mutant
            return
        self.child = True
        resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
        lines = self.reached[path]
        if mutant.function:
            put_in_place(mutant, code)
            reaching = set().union(*(lines[line] for line in mutant.lines))
            for place in sorted(reaching, key=lambda place: (-self.noticed_by[place], self.took[place])):
                signal.setitimer(
                    signal.ITIMER_PROF, 3 + 5 * self.took[place]
                )  # in CPU time; the end is a signal
                self.run(place)
            os._exit(0)
        files = {self.items[place].path for places in lines.values() for place in places}
        signal.setitimer(signal.ITIMER_PROF, 30 + 5 * sum(self.took))
        os._exit(imported_anew(code, path, sorted(map(str, files))))

    def wait(self) -> None:
        child, status = os.wait()
        mutant, ended = self.running.pop(child), os.waitstatus_to_exitcode(status)
        if ended == 0:
            self.survivors.append(mutant)
            print(f"  left standing, line {mutant.lines[0]}: {mutant.says()}", file=sys.stderr)
        elif ended not in {1, 2, -signal.SIGPROF}:  # 2: the module or a test could not be imported
            sys.exit(f"A child ended with {ended}: {mutant.says()}")


def put_in_place(mutant: Mutant, code: CodeType) -> None:
    """Gives the function everyone already imported its changed code."""
    found: Any = importlib.import_module(f"quarterhour.core.{mutant.module}")
    for part in mutant.function.split("."):
        found = vars(found)[part]
    function = inspect.unwrap(found.fget if isinstance(found, property) else found)
    todo = [code]
    while todo:
        here = todo.pop()
        if here.co_qualname == mutant.function:
            function.__code__ = here
            return
        todo.extend(const for const in here.co_consts if isinstance(const, CodeType))
    raise LookupError(mutant.function)


def imported_anew(code: CodeType, path: str, files: list[str]) -> int:
    """Runs tests with everything of ours imported again, one module changed; gives pytest's exit code."""
    for name in [name for name in sys.modules if name.startswith(("quarterhour", "tests"))]:
        del sys.modules[name]
    unchanged = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: code if self.path == path else unchanged(self, name)  # type: ignore[method-assign]
    return pytest.main([*OPTIONS, *files])


# ---- the report ----------------------------------------------------------------------------------

HEAD = """# Mutation of the rules

`make mutation` changes one small thing of a rule at a time and runs the tests that reach it: about ten minutes
of one core. What is changed and what is left alone stands at the top of bench/mutation.py, which writes this
file; core/checks.py has nothing to change, it names what a check may look at. Reasons are written here by hand
and kept by the next run. `make mutation ARGS=units` does one module and leaves the others' lines.

| module | changes | noticed | percent |
| --- | ---: | ---: | ---: |
"""


def report(module: str, number: int, survivors: list[Mutant]) -> bool:
    """Writes a module's lines of docs/mutation.md anew; whether all is as it should be."""
    old = REPORT.read_text() if REPORT.exists() else ""
    reasons = dict(re.findall(r"^- (`.+`)(?: \(\d+ times\))?: (?=\w)([^`\n]+)$", old, re.MULTILINE))
    rows = dict(re.findall(r"^\| `(\w+)` (\|.+)$", old, re.MULTILINE))
    left = {name: re.findall(rf"^- `{name}\..+$", old, re.MULTILINE) for name in rows}
    standing = Counter(mutant.says() for mutant in survivors)
    noticed = number - standing.total()
    rows[module] = f"| {number} | {noticed} | {100 * noticed / number:.1f} |"
    left[module] = [
        f"- {says}{f' ({times} times)' if times > 1 else ''}: {reasons.get(says, '')}".rstrip()
        for says, times in standing.items()
    ]
    text = HEAD + "".join(f"| `{name}` {rows[name]}\n" for name in MODULES if name in rows)
    text += "\n## Left standing, and why\n"
    for name in MODULES:
        if left.get(name):
            text += f"\n### {name}\n\n" + "\n".join(left[name]) + "\n"
    REPORT.write_text(text)
    return 100 * noticed >= LEAST * number and all(says in reasons for says in standing)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("modules", nargs="*", default=MODULES)
    asked = parser.parse_args()
    os.chdir(ROOT)
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, deadline=None, phases=[hypothesis.Phase.generate]
    )
    hypothesis.settings.load_profile("mutation")
    mutation = Mutation(asked.modules, asked.jobs)
    if ended := pytest.main([*OPTIONS, "-p", "no:terminal", *TESTS], plugins=[mutation]):
        sys.exit(f"pytest ended with {ended}.")
    sys.exit(0 if mutation.fine else 1)


if __name__ == "__main__":
    main()
