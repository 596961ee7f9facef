"""kill -9 at random moments: what was committed stays, and the next run finishes the work."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hub_standin import HubStandIn
from release_files import ADAPTERS, BACKBONE, LLM, TEXT_HEAD, VISION_HEAD, convert_golden
from tile_files import write_png

KILLS = 50
HERE = Path(__file__).parent
Record = Callable[[str, str, str], None]


@dataclass
class Job:
    """A command that is killed. after_kill: what must hold afterwards; after_end: what must hold once it ended."""

    command: Sequence[str]
    after_kill: Callable[[str], None]
    after_end: Callable[[], None]
    environment: dict[str, str] | None = None

    def start(self) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(HERE.parent), *sys.path])
        environment = {**os.environ, "PYTHONPATH": path, **(self.environment or {})}
        return subprocess.Popen(
            self.command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self) -> float:
        """Run to the end; returns the seconds it took."""
        start = time.perf_counter()
        process = self.start()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said[-2000:]
        self.after_end()
        return time.perf_counter() - start

    def kill_after(self, seconds: float) -> bool:
        """Kill it at a moment; whether it was still at work then."""
        process = self.start()
        try:
            out, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
            self.after_kill(out)
            return True
        assert process.returncode == 0, said[-2000:]
        self.after_end()
        return False


def kill_often(make: Callable[[Path], Job], folder: Path, kills: int) -> int:
    """Kill a job at ``kills`` random moments, let each next one go on, and finish; returns how many kills hit it."""
    folder.mkdir()
    clean = make(folder / "clean")
    seconds = clean.finish()
    chance = random.Random(str(folder.name))
    hits = 0
    job = make(folder / "0")
    for number in range(kills):
        if job.kill_after(chance.uniform(0, seconds)):
            hits += 1
        else:
            job = make(folder / str(number + 1))
    job.finish()
    return hits


def report(record: Record, what: str, make: Callable[[Path], Job], folder: Path) -> None:
    """Two jobs side by side share the kills."""
    with ThreadPoolExecutor(2) as pool:
        hits = sum(pool.map(lambda name: kill_often(make, folder / name, KILLS // 2), ("one", "two")))
    assert hits > KILLS // 4, "most kills came too late to say anything"
    record(
        f"kill -9 while {what}",
        f"{KILLS}",
        f"{hits} hit it at work; nothing committed was lost, the next run ended well",
    )


WRITE = """
import sys
import numpy as np
from sattxt import TextCache
cache = TextCache(sys.argv[1])
for i in range(400):
    texts = [f"text {i} {j}" for j in range(25)]
    vectors = np.stack([np.random.default_rng(list(t.encode())).standard_normal(64) for t in texts]).astype("f4")
    cache.put_many("space", texts, vectors)
    print(i, flush=True)
"""


def test_caching(tmp_path: Path, record: Record) -> None:
    from sattxt import TextCache

    def make(folder: Path) -> Job:
        folder.mkdir()
        path = folder / "text.sqlite3"

        def check(out: str) -> None:
            written = out.split("\n")[:-1]  # a last line without an end was not printed in whole
            texts = [f"text {i} {j}" for i in written for j in range(25)]
            with TextCache(path) as cache:
                found = cache.get_many("space", texts)
            assert set(found) == set(texts)
            for text in texts[:: max(1, len(texts) // 50)]:
                expected = np.random.default_rng(list(text.encode())).standard_normal(64).astype("f4")
                assert np.array_equal(found[text], expected)

        return Job(
            [sys.executable, "-c", WRITE, str(path)], check, lambda: check("".join(f"{i}\n" for i in range(400)))
        )

    report(record, "caching text vectors", make, tmp_path)


def same_files(one: Path, other: Path) -> None:
    """Both folders hold the same files with the same content."""
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_conversion(tmp_path: Path, record: Record) -> None:
    expected = convert_golden(tmp_path / "expected")

    def make(folder: Path) -> Job:
        folder.mkdir()
        out = folder / "model"
        adapters = [part for adapter in ADAPTERS for part in ("--adapter", str(adapter))]
        parts = ["--dinov3", BACKBONE, "--vision-head", VISION_HEAD, "--text-head", TEXT_HEAD, "--llm", LLM]
        command = [sys.executable, "-m", "sattxt", "convert", *map(str, parts), *adapters, "--output", str(out)]
        command.append("--overwrite")

        def check(_: str) -> None:
            if out.exists():
                same_files(expected, out)

        return Job(command, check, lambda: same_files(expected, out))

    report(record, "converting a release", make, tmp_path)


FETCH = "import sys; from sattxt import SatTxt; SatTxt.from_pretrained(sys.argv[1], text_cache=False)"


def test_download(tmp_path: Path, record: Record) -> None:
    model = convert_golden(tmp_path / "model")
    with HubStandIn() as hub:
        hub.add_folder("someone/model", model)

        def make(folder: Path) -> Job:
            folder.mkdir()
            environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "SATTXT_CACHE": str(folder / "cache")}
            offline = Job([sys.executable, "-c", FETCH, "someone/model"], lambda _: None, lambda: None)
            offline.environment = {**environment, "HF_HUB_OFFLINE": "1"}

            def whole() -> None:
                offline.finish()

            return Job([sys.executable, "-c", FETCH, "someone/model"], lambda _: None, whole, environment)

        report(record, "downloading a model", make, tmp_path)


def test_embedding_to_a_file(tmp_path: Path, record: Record) -> None:
    images = [write_png(tmp_path / "tiles" / f"{i}.png", ("red", "blue")[i % 2], i) for i in range(200)]
    older = np.zeros((1, 640), np.float32)

    def make(folder: Path) -> Job:
        folder.mkdir()
        out = folder / "tiles.npy"
        np.save(out, older)

        def sound() -> np.ndarray:
            found = np.load(out)
            assert found.shape == (200, 640) or np.array_equal(found, older)
            return found

        def killed(_: str) -> None:
            sound()

        def ended() -> None:
            found = sound()
            assert len(found) == len(images)
            assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-3)

        command = [
            sys.executable,
            "-m",
            "sattxt",
            "embed",
            str(tmp_path / "tiles"),
            "-o",
            str(out),
            "--batch-size",
            "16",
        ]
        return Job([*command, "--overwrite"], killed, ended)

    report(record, "embedding tiles to a file", make, tmp_path)


TRAIN = """
import sys
from pathlib import Path
import torch
from training_toy import Toy
from sattxt.training.loop import LoopOptions
torch.set_num_threads(1)
out = Path(sys.argv[1])
run = Toy(out, steps=60)
if (out / "last.ckpt").exists():
    run.resume()
run.train(LoopOptions(log_every=1, checkpoint_every=5))
torch.save(run.model.state_dict(), out / "end.pt")
"""


def test_training(tmp_path: Path, record: Record) -> None:
    import torch

    expected: dict[str, torch.Tensor] = {}

    def make(folder: Path) -> Job:
        def ended() -> None:
            state = torch.load(folder / "end.pt", weights_only=True)
            if not expected:
                expected.update(state)
            for name, value in expected.items():
                assert torch.equal(state[name], value), name

        def killed(_: str) -> None:
            assert not (folder / "end.pt").exists() or (folder / "last.ckpt").exists()

        return Job([sys.executable, "-c", TRAIN, str(folder)], killed, ended)

    make(tmp_path / "first").finish()
    report(record, "training (then resumed: the same weights, bit for bit)", make, tmp_path)


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path) -> object:
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
