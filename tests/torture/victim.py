"""A process that opens damaged files through the public surface and says how each one ended.

    python victim.py KIND FIRST LAST

For the seeds FIRST to LAST it damages one of the sound files of KIND and opens it. One line of JSON tells how many
were opened, how many were refused by a typed error, what else was raised, and the peak of resident memory.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mutants import damage
from samples import SAMPLES

from sattxt import SatTxtError

#: Seconds after which opening one small file counts as a hang.
PATIENCE = 20


class Hang(BaseException):
    """Opening a file took too long."""


def _hang(*_: Any) -> None:
    raise Hang


def main() -> None:
    kind, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hang)
    result: dict[str, Any] = {"opened": 0, "refused": 0, "untyped": [], "hangs": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["SATTXT_CACHE"] = str(folder / "cache")
        sounds, use = SAMPLES[kind](folder)
        start = _peak()
        for seed in range(first, last):
            source = sounds[seed % len(sounds)]
            _try(result, use, source, damage(source.read_bytes(), source.suffix, seed), seed)
    result["memory"] = _peak() - start
    print(json.dumps(result))


def _try(result: dict[str, Any], use: Callable[[Path], None], source: Path, damaged: bytes, seed: int) -> None:
    """Put the damaged content in the place of the sound one, use it, put the sound one back."""
    sound = source.read_bytes()
    source.write_bytes(damaged)
    signal.alarm(PATIENCE)
    try:
        use(source)
        result["opened"] += 1
    except SatTxtError:
        result["refused"] += 1
    except Hang:
        result["hangs"].append(f"{source.name} seed {seed}")
    except BaseException as error:
        result["untyped"].append(f"{source.name} seed {seed}: {type(error).__name__}: {str(error)[:200]}")
    finally:
        signal.alarm(0)
        source.write_bytes(sound)


def _peak() -> int:
    """Bytes of memory that this process held at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    main()
