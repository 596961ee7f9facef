#!/usr/bin/env python3
"""Average the weights of two sattxt models of one architecture, one trained on from the other (a "model soup"; Wortsman
et al. 2022, arXiv 2203.05482). Everything else, the temperature included, is the second model's.

    .venv/bin/python scripts/average_models.py FIRST SECOND --share 0.5 --out MODEL
    .venv/bin/python scripts/average_models.py FIRST SECOND --share 1 --text-share 0.25 --out MODEL
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sattxt.errors import SatTxtError
from sattxt.weights import read_model
from sattxt.weights.checksums import write_sums

VISION, TEXT = "vision.safetensors", "text_head.safetensors"


def average(first: Path, second: Path, share: float) -> dict[str, torch.Tensor]:
    """Tensors of two files, ``share`` of the second, BatchNorm statistics included; whole numbers are the second's."""
    one, two = load_file(first), load_file(second)
    if {k: v.shape for k, v in one.items()} != {k: v.shape for k, v in two.items()}:
        raise SystemExit(f"{first} and {second}: different tensors; pass models of one architecture")
    averaged = {}
    for name, value in two.items():
        mixed = torch.lerp(one[name].float(), value.float(), share) if value.is_floating_point() else value
        averaged[name] = mixed.to(value.dtype)
    return averaged


def main(arguments: list[str] | None = None) -> None:
    """Write one model directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, help="model directory")
    parser.add_argument("second", type=Path, help="model directory trained on from the first")
    parser.add_argument("--share", type=float, default=0.5, help="of the second model, 0 to 1")
    parser.add_argument("--text-share", type=float, help="the same of the text heads; default: --share")
    parser.add_argument("--out", type=Path, required=True, help="model directory to write; must not exist")
    given = parser.parse_args(arguments)
    shares = {VISION: given.share, TEXT: given.share if given.text_share is None else given.text_share}
    for option, share in (("--share", shares[VISION]), ("--text-share", shares[TEXT])):
        if not 0 <= share <= 1:
            parser.error(f"{option} {share}: pass 0 to 1")
    if given.out.exists():
        parser.error(f"{given.out} exists; pass another folder")
    try:
        for folder in (given.first, given.second):
            read_model(folder)  # complete, and its checksums hold
    except SatTxtError as error:
        raise SystemExit(f"{error}; pass two model directories") from error
    weights = {name: average(given.first / name, given.second / name, share) for name, share in shares.items()}
    shutil.copytree(given.second, given.out)
    for name, tensors in weights.items():
        save_file(tensors, given.out / name, metadata={"format": "pt"})
    write_sums(given.out)
    print(given.out)


if __name__ == "__main__":
    main()
