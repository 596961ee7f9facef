"""The image tower as OpenVINO runs it (extra ``openvino``): in float32, or in int8 where the model ships that form.

A *form* is the tower as OpenVINO's graph, ``openvino/{precision}.xml`` and ``.bin`` in a model directory, with a
``.json`` that says what it was made of. What OpenVINO compiles for one kind of CPU is kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sattxt.config import VisionConfig
from sattxt.errors import DiskFullError, InputError, SatTxtError, WeightsError, import_extra
from sattxt.io import atomic_write, first_line, user_cache_dir
from sattxt.vision.tower import ImageTokens, VisionTower, load_tower
from sattxt.weights.checksums import read_sums
from sattxt.weights.directory import VISION_FILE, form_files, read_form, read_vision

#: Images in one pass: enough to use the weights well once they are loaded, few enough for the cache.
_PASS = 16
#: Bytes of a kept compiled model's own sha256, which it begins with.
_DIGEST = hashlib.sha256().digest_size
_OF_PARENT: list[Any] = []


@dataclass(frozen=True)
class Form:
    """Where a model's image tower comes from, and in which precision OpenVINO runs it.

    folder: the model directory. size: side of the tower's input in pixels. precision: ``"float32"`` or ``"int8"``.
    """

    folder: Path
    config: VisionConfig
    size: int
    precision: str

    @property
    def files(self) -> dict[str, str]:
        """sha256 of the files that its vectors depend on."""
        sums = read_sums(self.folder)
        return {name: sums[name] for name in (VISION_FILE, *form_files(self.precision)) if name in sums}


class OpenVinoTower:
    """A tower that OpenVINO has compiled; it takes and gives what a ``VisionTower`` does, on the CPU.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        InputError: the model ships no int8 form, or one for another input size.
        WeightsError: OpenVINO cannot compile it here.
    """

    backend = "openvino"

    def __init__(self, form: Form) -> None:
        self.config = form.config
        self.dtype = torch.int8 if form.precision == "int8" else torch.float32
        self._form = form
        self._compiled: dict[int, Any] = {}
        self._process = os.getpid()
        self._streams(1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": {}}

    def for_inference(self, dtype: torch.dtype) -> OpenVinoTower:
        """This tower, which is laid out for speed already."""
        return self

    def to(self, device: torch.device) -> OpenVinoTower:
        """This tower; ``InputError`` for another device than the CPU."""
        if device.type != "cpu":
            raise InputError(f"device={str(device)!r}: OpenVINO runs on the CPU here; pass backend='torch'")
        return self

    def in_passes(self, pixel_values: Tensor) -> list[ImageTokens]:
        """The tokens of a batch (N, 3, S, S), float32, pass by pass; several passes at once where there are cores."""
        parts = [part.numpy() for part in torch.split(pixel_values.float().cpu().contiguous(), _PASS)]
        found: list[Any] = [None] * len(parts)
        compiled = self._streams(1 if len(parts) == 1 else torch.get_num_threads())
        if len(parts) == 1:
            found[0] = [np.array(value) for value in compiled.create_infer_request().infer(parts).values()]
        else:
            from openvino import AsyncInferQueue

            def keep(request: Any, index: int) -> None:
                found[index] = [np.array(each.data) for each in request.output_tensors]

            queue = AsyncInferQueue(compiled, torch.get_num_threads())
            queue.set_callback(keep)
            for index, part in enumerate(parts):
                queue.start_async([part], index)
            queue.wait_all()
        side = math.isqrt(found[0][0].shape[1])
        tokens = ([torch.from_numpy(value) for value in values] for values in found)
        return [ImageTokens(backbone, cls, patches, (side, side)) for backbone, cls, patches in tokens]

    def _streams(self, count: int) -> Any:
        """The model compiled to work on ``count`` passes at a time."""
        if self._process != os.getpid():  # OpenVINO's threads do not survive a fork: to end them would wait for ever
            _OF_PARENT.append(self._compiled)
            self._compiled, self._process = {}, os.getpid()
        if count not in self._compiled:
            self._compiled[count] = _compile(self._form, count)
        return self._compiled[count]


def trace(tower: VisionTower, size: int) -> Any:
    """A tower of float32 weights as OpenVINO's graph: (N, 3, size, size) to backbone, class and patch tokens."""
    ov = import_openvino()

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = tower

        def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.tower(pixel_values)[:3]

    example = torch.zeros(2, 3, size, size)
    with torch.no_grad(), warnings.catch_warnings(), logging_kept():
        warnings.simplefilter("ignore")  # of sizes that become constants, as they are meant to
        return ov.convert_model(Tokens().eval(), example_input=example, input=[-1, 3, size, size])


@contextmanager
def logging_kept() -> Iterator[None]:
    """Leave the root logger as it was: OpenVINO's converter and nncf set its level and that of all its handlers."""
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = [handler for handler, _ in handlers]
        for handler, own in handlers:
            handler.setLevel(own)


def import_openvino() -> Any:
    """The package; ``MissingExtraError`` where it is not installed."""
    return import_extra("openvino", "openvino", "openvino", "backend='openvino'")


def _graph(form: Form) -> Any:
    """The form's graph: as the model ships it, else traced from its weights."""
    ov = import_openvino()
    path = read_form(form.folder, form.precision, form.size)
    if path is not None:
        return ov.Core().read_model(path)
    if form.precision != "float32":
        raise InputError(
            f"{form.folder}: ships no {form.precision} form; make one with `sattxt optimize` or export_openvino"
        )
    tower = load_tower(form.config, read_vision(form.folder), form.folder / VISION_FILE)
    return trace(tower.for_inference(torch.float32), form.size)


def _compile(form: Form, streams: int) -> Any:
    """Compile, or take what was compiled here before and is as it was written."""
    ov = import_openvino()
    core, threads = ov.Core(), torch.get_num_threads()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",  # of the layers that are left in float: bfloat16 where the CPU has it, else
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # another process may use the same cores
    }
    facts = [ov.get_version(), platform.processor(), core.get_property("CPU", "FULL_DEVICE_NAME"), settings]
    facts += [core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), form.files, asdict(form.config), form.size]
    key = hashlib.sha256(json.dumps([form.precision, facts], sort_keys=True, default=str).encode()).hexdigest()
    kept = user_cache_dir() / "openvino" / f"{key[:32]}.blob"
    compiled = _read_kept(kept, lambda blob: core.import_model(blob, "CPU", settings))
    if compiled is None:
        try:
            compiled = core.compile_model(_graph(form), "CPU", settings)
        except SatTxtError:
            raise
        except RuntimeError as error:
            raise WeightsError(f"{form.folder}: OpenVINO cannot compile it here ({first_line(error)})") from error
        _keep(kept, compiled)
    return compiled


def _read_kept(path: Path, load: Callable[[bytes], Any]) -> Any:
    """What was kept at ``path``; ``None`` where it is missing, was damaged, or another OpenVINO wrote it."""
    try:
        digest, blob = (content := path.read_bytes())[:_DIGEST], content[_DIGEST:]
        return load(blob) if hashlib.sha256(blob).digest() == digest else None
    except (OSError, RuntimeError):
        return None


def _keep(path: Path, compiled: Any) -> None:
    """Keep a compiled model; where that fails it is compiled again."""
    blob = compiled.export_model().getvalue()
    try:
        with atomic_write(path) as file:
            file.write(hashlib.sha256(blob).digest() + blob)
    except (OSError, WeightsError, DiskFullError):
        return
