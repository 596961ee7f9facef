"""Which backend runs the image tower, and in which precision: what was asked for, or the fastest here, by measurement.

A measurement takes a fraction of a second, once a machine and model; it is kept in the ledger beside the checksums.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

from sattxt.config import ModelConfig
from sattxt.errors import ChecksumError, InputError, WeightsError
from sattxt.vision.device import DTYPES, multiplies_bfloat16
from sattxt.vision.openvino import Form, OpenVinoTower
from sattxt.vision.tower import VisionTower, load_tower
from sattxt.weights.checksums import recall, remember
from sattxt.weights.directory import VISION_FILE, form_files, read_vision, weight_sums

BACKENDS = ("auto", "torch", "openvino")

_SLOW = 0.05  # seconds for an image from which on one image is measured, not several
_IMAGES = 4

log = logging.getLogger(__name__)


class Choice(NamedTuple):
    """A backend (``"torch"``, ``"openvino"``) and a precision (``"float32"``, ``"bfloat16"``, ``"int8"``, ...)."""

    backend: str
    precision: str

    def open(self, folder: Path, config: ModelConfig) -> VisionTower | OpenVinoTower:
        """The tower of a model directory, ready to run."""
        if self.backend == "openvino":
            return OpenVinoTower(Form(folder, config.vision, config.image.size, self.precision))
        tower = load_tower(config.vision, read_vision(folder), folder / VISION_FILE)
        return tower.for_inference(DTYPES[self.precision])


def open_tower(
    folder: Path, config: ModelConfig, *, backend: str, dtype: str | torch.dtype, device: torch.device
) -> VisionTower | OpenVinoTower:
    """The image tower of a model directory.

    Args:
        folder: of the model. config: of the model, with the pixel scaling that is asked for.
        backend, dtype: as :meth:`SatTxt.from_pretrained` takes them.
        device: where it is to run.

    Raises:
        InputError: the backend or precision is unknown, does not go with the other, or is not this model's.
        MissingExtraError: OpenVINO is asked for and not installed.
        WeightsError, ChecksumError: the files are damaged, of other weights, or cannot be compiled here.
    """
    choices = list_choices(folder, config, backend=backend, dtype=dtype, device=device)
    if len(choices) == 1:
        return choices[0].open(folder, config)
    while True:
        fastest = recall_fastest(folder, config, choices) or _measure(folder, config, choices)
        try:
            return fastest.open(folder, config)
        except ChecksumError:
            raise
        except (InputError, WeightsError) as error:
            if fastest.backend == "torch":
                raise
            log.warning("%s; going on with torch", error)
            choices = [choice for choice in choices if choice != fastest]


def list_choices(
    folder: Path, config: ModelConfig, *, backend: str, dtype: str | torch.dtype, device: torch.device
) -> list[Choice]:
    """What may run the tower: one where that was asked for, several of which the fastest is to be found."""
    name = str(dtype).removeprefix("torch.")
    if backend not in BACKENDS:
        raise InputError(f"backend={backend!r}: pass one of {', '.join(map(repr, BACKENDS))}")
    known = ("auto", *DTYPES, "int8")
    if name not in known:
        raise InputError(f"dtype={dtype!r}: pass one of {', '.join(map(repr, known))}")
    ships = all((folder / file).is_file() for file in form_files("int8"))
    if backend == "openvino" or name == "int8":
        if backend == "torch":
            raise InputError("dtype='int8' is OpenVINO's; pass backend='openvino', or another dtype")
        if name not in ("auto", "float32", "int8"):
            raise InputError(f"dtype={name!r} with backend='openvino': pass 'float32' or 'int8'")
        if device.type != "cpu":
            raise InputError(f"device={str(device)!r}: OpenVINO runs on the CPU here; pass backend='torch'")
        return [Choice("openvino", name if name != "auto" else "int8" if ships else "float32")]
    if name != "auto":
        return [Choice("torch", name)]
    if device.type != "cpu":
        return [Choice("torch", "bfloat16" if multiplies_bfloat16(device) else "float32")]
    choices = [Choice("torch", "float32")]
    if multiplies_bfloat16(device):
        choices.append(Choice("torch", "bfloat16"))
    if backend == "auto" and ships and find_spec("openvino") and platform.machine().lower() in ("x86_64", "amd64"):
        choices.append(Choice("openvino", "int8"))
    return choices


def recall_fastest(folder: Path, config: ModelConfig, choices: list[Choice]) -> Choice | None:
    """What was measured to be the fastest of these for this model on this machine; ``None``: nothing was."""
    rates = recall_rates(folder, config, choices)
    return max(rates, key=rates.__getitem__) if rates else None


def recall_rates(folder: Path, config: ModelConfig, choices: list[Choice]) -> dict[Choice, float]:
    """Images a second of each, as they were measured; empty: they were not."""
    known = recall("rates", _key(folder, config, choices))
    return {Choice(*name.split()): float(rate) for name, rate in known.items()} if isinstance(known, dict) else {}


def _measure(folder: Path, config: ModelConfig, choices: list[Choice]) -> Choice:
    """Run each on a few images, and remember how fast they were."""
    rates: dict[Choice, float] = {}
    for choice in choices:
        try:
            rates[choice] = 1 / _seconds(choice.open(folder, config), config.image.size)
        except ChecksumError:
            raise
        except (InputError, WeightsError) as error:
            if choice.backend == "torch":
                raise
            log.warning("%s; going on with torch", error)
    remember("rates", _key(folder, config, choices), {" ".join(c): round(rate, 2) for c, rate in rates.items()})
    return max(rates, key=rates.__getitem__)


@torch.inference_mode()
def _seconds(tower: VisionTower | OpenVinoTower, size: int) -> float:
    """Seconds that an image takes."""

    def run(count: int) -> float:
        images = torch.rand(count, 3, size, size)
        begun = time.perf_counter()
        tower.in_passes(images)
        return (time.perf_counter() - begun) / count

    run(1)
    count = _IMAGES if run(1) < _SLOW else 1
    return min(run(count) for _ in range(3))


def _key(folder: Path, config: ModelConfig, choices: list[Choice]) -> str:
    """What a measurement depends on: this machine, the packages, the model."""
    packages = [version(name) for name in ("torch", "openvino") if find_spec(name)]
    machine = [_cpu_name(), torch.get_num_threads(), *packages]
    facts = [machine, weight_sums(folder), config.image.size, choices]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line for line in lines if line.startswith("model name")), platform.machine())
