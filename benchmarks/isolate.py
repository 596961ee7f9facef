"""Run a function in a process of its own: memory that is only its own, and nothing left over from another case.

As a module (``python -m benchmarks.isolate module:function``) it is the child: keyword arguments come in as JSON on
standard input, the value goes out as JSON into the file it is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class ChildError(RuntimeError):
    """The child process failed; its last lines are in the message."""


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, with the repository's root on the path, offline."""
    path = os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", **extra}


def isolated(function: str, **arguments: Any) -> Any:
    """Call ``function`` ("package.module:name") in a fresh interpreter; arguments and value must be JSON-ready.

    Raises:
        ChildError: it failed, or was killed.
    """
    with tempfile.TemporaryDirectory(prefix="sattxt-bench-") as folder:
        out = Path(folder) / "value.json"
        child = subprocess.run(
            [sys.executable, "-m", "benchmarks.isolate", function, str(out)],
            input=json.dumps(arguments),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
            check=False,
        )
        if child.returncode != 0 or not out.is_file():
            tail = "\n".join(child.stderr.strip().splitlines()[-5:])
            raise ChildError(f"{function} ended with code {child.returncode}: {tail}")
        return json.loads(out.read_text(encoding="utf-8"))


def main() -> None:
    """The child."""
    module, _, name = sys.argv[1].partition(":")
    value = getattr(import_module(module), name)(**json.load(sys.stdin))
    Path(sys.argv[2]).write_text(json.dumps(value), encoding="utf-8")


if __name__ == "__main__":
    main()
