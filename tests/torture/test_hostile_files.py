"""Files made to harm: pickles that run code, archives that unpack to too much or elsewhere, headers that lie."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from release_files import VISION_HEAD, convert_golden
from tile_files import png

from sattxt import LabelBank, SatTxt, SatTxtError

Record = Callable[[str, str, str], None]


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def raw_tensors(header: Any, body: bytes = b"\0" * 64, *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def entry(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


HEADERS: dict[str, bytes] = {
    "a header of 2^63 bytes": raw_tensors({}, size=2**63),
    "a header longer than the file": raw_tensors({}, size=10**6),
    "a header that is no JSON": raw_tensors(b"{" * 1000),
    "a header that is a list": raw_tensors([]),
    "100,000 nested lists": raw_tensors(b"[" * 100_000),
    "offsets beyond the end": raw_tensors({"a": entry([16], [0, 2**40])}),
    "offsets that overlap": raw_tensors({"a": entry([16], [0, 64]), "b": entry([16], [0, 64])}),
    "offsets backwards": raw_tensors({"a": entry([16], [64, 0])}),
    "a shape that overflows": raw_tensors({"a": entry([2**32, 2**32], [0, 64])}),
    "a negative shape": raw_tensors({"a": entry([-16], [0, 64])}),
    "an unknown dtype": raw_tensors({"a": entry([16], [0, 64], "F128")}),
    "nothing": b"",
    "eight bytes": b"\0" * 8,
}


def refused(use: Callable[[], Any]) -> None:
    with pytest.raises(SatTxtError):
        use()


def test_pickles_are_not_run(tmp_path: Path, record: Record) -> None:
    touched = tmp_path / "touched"
    state = torch.load(VISION_HEAD, weights_only=True)
    torch.save({**state, "extra": Payload(touched)}, tmp_path / "zip.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps({**state, "extra": Payload(touched)}))
    torch.save({**state, "extra": Payload(touched)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    files = ("zip.pt", "bare.pt", "old.pt")
    for name in files:
        for argument in ("dinov3", "vision_head", "text_head"):
            refused(lambda n=name, a=argument: convert_golden(tmp_path / "model", **{a: tmp_path / n}))
    np.save(tmp_path / "objects.npy", np.array([Payload(touched)], dtype=object))
    refused(lambda: SatTxt.from_pretrained().encode_image(tmp_path / "objects.npy"))
    assert not touched.exists()
    record("hostile pickles", f"{3 * len(files) + 1}", "refused, none was run")


def test_tensor_headers_that_lie(tmp_path: Path, record: Record) -> None:
    import hashlib

    model = convert_golden(tmp_path / "model")
    sums = (model / "SHA256SUMS").read_text()
    for content in HEADERS.values():
        bank = tmp_path / "bank.safetensors"
        bank.write_bytes(content)
        refused(lambda bank=bank: LabelBank.load(bank))
        for name in ("vision.safetensors", "text_head.safetensors"):
            forged = tmp_path / "forged"
            shutil.copytree(model, forged)
            (forged / name).write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
            lines = [f"{digest}  {name}" if line.endswith(name) else line for line in sums.splitlines()]
            (forged / "SHA256SUMS").write_text("\n".join(lines) + "\n")
            refused(lambda forged=forged: SatTxt.from_pretrained(forged).encode_text(["a"]))
            shutil.rmtree(forged)
    record("safetensors headers that lie, checksums forged to match", f"{3 * len(HEADERS)}", "refused")


def zip_of(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in files.items():
            out.writestr(name, content)
    return path


def test_archives_that_harm(tmp_path: Path, record: Record) -> None:
    from sattxt.data.registry import open_data

    picture = png((0, 100, 0))
    outside = tmp_path / "outside.png"
    bomb = zip_of(tmp_path / "bomb.zip", {"a/bomb.png": b"\0" * (1 << 30), "a/b.png": picture, "c/d.png": picture})
    climbing = zip_of(tmp_path / "climbing.zip", {"../outside.png": picture, "a/b.png": picture, "c/d.png": picture})
    links = tmp_path / "links.tar"
    with tarfile.open(links, "w") as out:
        for name in ("a/b.png", "c/d.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            out.addfile(info, io.BytesIO(picture))
        for name, target in (("a/secret.png", "/etc/passwd"), ("a/up.png", "../../outside.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
    torn = tmp_path / "torn.zip"
    torn.write_bytes(bomb.read_bytes()[:-200])
    for path in (bomb, climbing, links):
        samples = open_data(path, "folder").split("all")
        for index in range(len(samples)):
            with suppress(SatTxtError):
                assert samples.image(index).shape == (20, 20, 3)
    refused(lambda: open_data(torn, "folder"))
    assert not outside.exists()
    record(
        "archives that harm: a bomb, climbing names, links, a torn one", "4", "read in place, nothing left the archive"
    )


def test_pictures_that_harm(tmp_path: Path, record: Record) -> None:
    model = SatTxt.from_pretrained(dtype="float32", text_cache=False)
    huge = bytearray(png((0, 0, 0)))
    huge[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
    (tmp_path / "huge.png").write_bytes(bytes(huge))
    (tmp_path / "svg.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (tmp_path / "vrt.tif").write_text('<VRTDataset rasterXSize="1" rasterYSize="1"><SRS>/etc/passwd</SRS></VRTDataset>')
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = sorted(p.name for p in tmp_path.iterdir() if p.suffix in (".png", ".tif"))
    for name in names:
        refused(lambda name=name: model.encode_image(tmp_path / name))
    record(
        "pictures that harm: 2^62 pixels, other formats under the name, a folder, a loop, a pipe",
        f"{len(names)}",
        "refused",
    )
