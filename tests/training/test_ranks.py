"""Several processes train as one: copies of the model (DDP) and shards of it (FSDP); precision and memory."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks_job
import torch
from torch import Tensor
from torch.distributed.run import parse_args
from training_toy import EVERY_STEP, Toy, assert_same_weights, rows

from sattxt.training import ranks
from sattxt.training.objectives.align.objective import AlignBatch, AlignObjective


def joined(batches: list[AlignBatch]) -> AlignBatch:
    """The batch of one process that has the tiles of all ``batches``, which are those of a step's ranks."""
    first = batches[0]

    def by_set(values: Callable[[AlignBatch], Tensor]) -> Tensor:
        cut = [torch.split(values(b), [len(part) for part in b.parts]) for b in batches]
        return torch.cat([pieces[which] for which in range(len(first.parts)) for pieces in cut])

    return AlignBatch(
        step=first.step,
        parts=[torch.cat([b.parts[which] for b in batches]) for which in range(len(first.parts))],
        images=by_set(lambda b: b.images),
        labels=[torch.cat([b.labels[which] for b in batches]) for which in range(len(first.parts))],
        maps=[torch.cat([b.maps[which] for b in batches]) for which in range(len(first.parts))],
        classes=first.classes,
        rows=by_set(lambda b: b.rows),
        texts=by_set(lambda b: b.texts),
        image_group=by_set(lambda b: b.image_group),
        text_group=by_set(lambda b: b.text_group),
        extra_rows=first.extra_rows,
        extra=first.extra,
        noise_seed=first.noise_seed,
        kept=first.kept,
        kept_at=first.kept_at,
    )


class Joined(AlignObjective):
    """One process that sees what two ranks see."""

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> AlignBatch:
        return joined([super(Joined, self).draw(step, micro, r, 2) for r in range(2)])


def test_gathered_negatives_make_the_loss_of_the_joint_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank's loss through a gather that hands it the other's tensors, against one process with all tiles."""
    run = Toy(tmp_path, freeze_backbone=True, class_weight=0)
    model = run.model.eval()
    batches = [run.aligner.draw(2, 0, rank, 2) for rank in range(2)]

    def loss(batch: AlignBatch, gather: Callable[[Tensor], Tensor]) -> float:
        with monkeypatch.context() as patch:
            patch.setattr("sattxt.training.objectives.align.objective.gather", gather)
            return float(run.aligner.losses(model, batch).total.detach())

    theirs: list[list[Tensor]] = [[], []]
    for batch, seen in zip(batches, theirs, strict=True):
        loss(batch, lambda own, seen=seen: seen.append(own) or own)
    got = []
    for batch in batches:
        turn = iter(zip(*theirs, strict=True))
        got.append(loss(batch, lambda _, turn=turn: torch.cat(next(turn))))
    joint = float(run.aligner.losses(model, joined(batches)).total.detach())
    alone = float(run.aligner.losses(model, batches[0]).total.detach())
    assert got == pytest.approx([joint, joint], abs=1e-5)
    assert abs(alone - joint) > 0.1


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the runs of ``ranks_job.py``, each trained by two processes."""
    out = tmp_path_factory.mktemp("ranks")
    job = Path(ranks_job.__file__)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(job), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_train_as_one_with_the_joint_batch(two_processes: Path, tmp_path: Path) -> None:
    one = ranks_job.fitted(tmp_path, **ranks_job.HEAD_ONLY)
    one.aligner.__class__ = Joined
    one.train(EVERY_STEP)
    two = ranks_job.fitted(two_processes / "head", **ranks_job.HEAD_ONLY)
    assert two.resume() == 4
    for column in ("caption", "scale"):
        assert [float(row[column]) for row in rows(two)] == pytest.approx(
            [float(row[column]) for row in rows(one)], abs=2e-3
        )
    for name, value in two.average.state_dict().items():
        torch.testing.assert_close(value, one.average.state_dict()[name], atol=3e-4, rtol=0, msg=name)


def test_a_sharded_model_learns_what_copies_of_it_learn(two_processes: Path) -> None:
    copies, shards = (ranks_job.fitted(two_processes / name, **ranks_job.WHOLE) for name in ("copies", "shards"))
    assert (copies.resume(), shards.resume()) == (4, 4)
    assert [float(row["class"]) for row in rows(shards)] == pytest.approx(
        [float(row["class"]) for row in rows(copies)], abs=1e-4
    )
    for ours, theirs in ((shards.model, copies.model), (shards.average, copies.average)):
        for name, value in ours.state_dict().items():
            torch.testing.assert_close(value, theirs.state_dict()[name], atol=1e-5, rtol=0, msg=name)


def test_a_sharded_run_that_is_told_to_stop_resumes_exactly(two_processes: Path) -> None:
    whole, stopped = (ranks_job.fitted(two_processes / name, **ranks_job.WHOLE) for name in ("shards", "stopped"))
    assert (whole.resume(), stopped.resume()) == (4, 4)
    assert rows(stopped) == rows(whole)
    assert_same_weights(stopped, whole)


def test_torchrun_takes_the_commands_of_the_documentation() -> None:
    """Without ``--`` it would take ``--run`` for an option of its own."""
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    commands = re.findall(r"^torchrun (.+? train .+?)(?:  #.*)?$", text, re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        options = parse_args(shlex.split(command))
        assert options.training_script == "sattxt"
        assert options.training_script_args[0] == "train"


def test_auto_precision_is_bfloat16_only_where_the_hardware_multiplies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    for native in (True, False):
        monkeypatch.setattr(ranks, "multiplies_bfloat16", lambda _, native=native: native)
        with ranks.autocast("auto", device):
            assert torch.is_autocast_enabled("cpu") is native
        with ranks.autocast("float32", device):
            assert not torch.is_autocast_enabled("cpu")
        with ranks.autocast("bfloat16", device):
            assert torch.is_autocast_enabled("cpu")


def test_what_a_run_frees_it_keeps_for_the_next_step() -> None:
    """In a process of its own: the setting is the process's."""
    program = """
import resource, torch
from sattxt.training.ranks import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(25_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
without = faults()
done = keep_freed_memory()
faults()
print(int(done), without, faults())
"""
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    done, without, kept = map(int, out.split())
    if done:  # glibc
        assert kept < without / 4
