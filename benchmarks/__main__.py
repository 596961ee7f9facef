"""``python -m benchmarks``: one benchmark, or all of them into a report."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.isolate import isolated
from benchmarks.settings import Settings

BENCHMARKS = {
    "images": "throughput and peak memory: ViT-L/16 against the reference and CLIP, sattxt-mini",
    "zero-shot": "one tile over 10, 100 and 1000 labels against the reference's procedure",
    "cold-start": "import, from_pretrained and first answer in fresh processes",
    "text": "new prompts, cache hits, a large cache, label banks",
    "folder": "tiles on disk to embeddings: decode, preprocess and model shares",
    "backends": "torch and OpenVINO, float32 to int8: rate, first answer, folder",
    "training": "forward and backward of stage 2's image side, against stock modules",
}


def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, measure, print, write."""
    arguments = _parser().parse_args(argv)
    names = list(BENCHMARKS) if arguments.benchmark == "all" else [arguments.benchmark]
    settings = Settings(
        size="tiny" if arguments.tiny else "quick" if arguments.quick else "full",
        model=arguments.model,
        threads=arguments.threads,
        tiles=arguments.tiles,
    )
    found = isolated("benchmarks.__main__:devices") if arguments.device == "all" else [arguments.device]
    made: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks", *(sys.argv[1:] if argv is None else argv)]),
        "size": settings.size,
        "machine": isolated("benchmarks.machine:facts", device=found[-1], threads=settings.threads),
        "results": [],
    }
    for device in found:
        for name in names:
            _say(f"{name} on {device} ...")
            module = name.replace("-", "_")
            begun = time.perf_counter()
            result = isolated(f"benchmarks.{module}:run", **settings.on(device).to_dict())
            made["results"].append({**result, "seconds": round(time.perf_counter() - begun, 1)})
    if arguments.json is not None:
        report.write_json(made, arguments.json)
    if arguments.benchmark == "all" and arguments.out is not None:
        write_report(made, arguments.out)
    else:
        sys.stdout.write(report.markdown(made))


def write_report(made: dict[str, Any], out: Path) -> None:
    """``OUT.md`` (with ``findings.md``, which is written by hand), ``OUT/results.json`` and ``OUT/chart.png``."""
    report.write_json(made, out / "results.json")
    report.draw(made, out / "chart.png")
    page = out.with_name(out.name + ".md")
    text = report.markdown(made, picture=f"{out.name}/chart.png")
    page.write_text(f"{text}\n{report.FINDINGS.read_text(encoding='utf-8')}", encoding="utf-8")
    _say(f"wrote {page}, {out / 'results.json'} and {out / 'chart.png'}")


def devices() -> list[str]:
    """What there is to measure on."""
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:<11}{what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Measure sattxt on this machine:\n{listed}\n  all        all of them, as a report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"])
    parser.add_argument("--quick", action="store_true", help="few rounds and small folders: minutes, for a look")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write everything as JSON")
    parser.add_argument("--out", type=Path, metavar="DIR", help="all: write DIR.md, DIR/results.json, DIR/chart.png")
    parser.add_argument("--device", choices=["all", "cpu", "cuda"], default="all", help="default: every one there is")
    parser.add_argument("--model", help="a model directory or id in sattxt-mini's place")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--tiles", type=int, help="tiles of the folder benchmark (default 20,000; --quick 1,000)")
    return parser


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
