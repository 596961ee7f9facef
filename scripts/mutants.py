#!/usr/bin/env python3
"""Prove the tests of the core: change the code at random places, and see whether a test notices.

    .venv/bin/python scripts/mutants.py [COUNT]

mutmut makes every mutant (a comparison, operator, constant, condition or argument changed) and runs the tests that
cover its function; here a random sample of COUNT (default 400) is drawn, the same in every run. Changes of a text alone
(messages, docstrings) are left out. Prints the survivors with their changes, and the share that was killed.
Settings: ``[tool.mutmut]`` in pyproject.toml.
"""

from __future__ import annotations

import ast
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MUTANTS = ROOT / "mutants"
MUTMUT = [sys.executable, "-m", "mutmut"]
#: Exit codes of the tests that say a mutant lived; what has none was not run.
SURVIVED = (0, 33, 5)


class _WithoutTexts(ast.NodeTransformer):
    """Makes all texts of a function equal, and its name that of the original."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node


def shape(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """A function without its name and its texts."""
    return ast.dump(ast.Module([_WithoutTexts().visit(node) for node in (function.args, *function.body)], []))


def changed_code(file: Path) -> Iterator[str]:
    """Keys of the mutants of a file that change more than a text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and "__mutmut_" in node.name
    }
    originals = {name: shape(node) for name, node in functions.items() if name.endswith("__mutmut_orig")}
    for name, node in functions.items():
        original = originals.get(f"{name.rpartition('__mutmut_')[0]}__mutmut_orig")
        if original is not None and name not in originals and shape(node) != original:
            yield name


def results() -> dict[str, tuple[Path, int | None]]:
    """Every mutant's file and the exit code of its tests, ``None`` where they were not run."""
    found = {}
    for meta in MUTANTS.rglob("*.meta"):
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        found |= {key: (meta.with_suffix(""), code) for key, code in codes.items()}
    return found


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """mutmut, one thread a process, its animation left out."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run([*MUTMUT, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    """Make mutants, draw the sample, run it, tell."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    made = run("run", "--max-children", "1", "none.of.them")  # makes the mutants, and sees which tests cover what
    known = results()
    if not known:
        sys.exit(f"mutmut failed:\n{made.stdout[-2000:]}{made.stderr[-2000:]}")
    code: set[str] = set()
    for file in {file for file, _ in known.values()}:
        code |= set(changed_code(file))
    candidates = sorted(key for key in known if key.rpartition(".")[2] in code)
    sample = sorted(random.Random(0).sample(candidates, min(count, len(candidates))))
    print(
        f"{len(known)} mutants, {len(candidates)} of them change more than a text; a sample of {len(sample)}",
        flush=True,
    )
    run("run", "--max-children", str(os.cpu_count() or 1), *sample)
    codes = {key: code for key, (_, code) in results().items() if key in set(sample) and code is not None}
    survivors = [key for key, code in codes.items() if code in SURVIVED]
    for key in survivors:
        shown = run("show", key).stdout.splitlines()
        print(key, *(line for line in shown if re.match(r"[+-](?![+-]{2} )", line)), sep="\n  ")
    killed = len(codes) - len(survivors)
    share = 100 * killed / max(1, len(codes))
    print(f"killed {killed} of {len(codes)}: {share:.1f} % ({len(sample) - len(codes)} not run)")


if __name__ == "__main__":
    main()
