"""The engine: exact resumption, checkpoints that survive, several ranks as one, options and the command line."""

from __future__ import annotations

import csv
import errno
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import ranks_job
import torch
import typer
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from training_toy import Toy

from sattxt.errors import DiskFullError, InputError, SatTxtError, UnknownModelError, WeightsError
from sattxt.training.cli import app
from sattxt.training.initialise import initialise
from sattxt.training.logs import CsvLog
from sattxt.training.loop import LoopOptions
from sattxt.training.objectives.align.model import AlignModel
from sattxt.training.objectives.align.objective import AlignBatch, AlignObjective
from sattxt.training.run import Run

training = typer.main.get_command(app)
EVERY_STEP = LoopOptions(log_every=1)


class Killed(Exception):
    """The machine is gone."""


def rows(run: Run, name: str = "losses.csv", leave_out: tuple[str, ...] = ("seconds", "tiles_per_s")) -> list[dict]:
    with (run.out / name).open() as handle:
        return [{k: v for k, v in row.items() if k not in leave_out} for row in csv.DictReader(handle)]


def assert_same_weights(ours: Run, theirs: Run) -> None:
    for one, other in ((ours.model, theirs.model), (ours.average, theirs.average)):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name


# -- resuming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate": 3},
        {"freeze_backbone": True, "text_noise": 0.1},
        {"freeze_backbone": True, "freeze_head": True, "image_views": 2},
    ],
)
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_killed_run_resumes_to_the_same_losses(tmp_path: Path, options: dict, log_every: int) -> None:
    engine = LoopOptions(log_every=log_every, checkpoint_every=3, validate_every=2)
    whole = Toy(tmp_path / "whole", steps=6, **options)
    assert whole.train(engine) == 6
    killed = Toy(tmp_path / "killed", steps=6, **options)
    kill_at = 4  # after rows that the checkpoint of step 3 does not know of

    def die(step: int, means: dict[str, float]) -> None:
        if step >= kill_at:
            raise Killed

    with pytest.raises(Killed):
        killed.train(engine, progress=die)
    resumed = Toy(tmp_path / "killed", steps=6, **options)
    for parameter in resumed.model.parameters():  # whatever it started from is replaced
        if parameter.requires_grad:
            parameter.data.zero_()
    assert resumed.resume() == 3
    assert resumed.train(engine) == 6
    assert rows(resumed) == rows(whole)
    assert [row["step"] for row in rows(whole)] == (["4", "6"] if log_every == 4 else list("123456"))
    assert rows(resumed, "validation.csv") == rows(whole, "validation.csv")
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path, number: int, capfd) -> None:
    before = signal.getsignal(number)
    whole = Toy(tmp_path / "whole", steps=5)
    whole.train(EVERY_STEP)
    run = Toy(tmp_path / "run", steps=5)

    def ask(step: int, means: dict[str, float]) -> None:
        if step == 2:
            os.kill(os.getpid(), number)

    assert run.train(EVERY_STEP, progress=ask) in (2, 3)
    assert "stopping after this step" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    again = Toy(tmp_path / "run", steps=5)
    assert again.resume() == run.step
    assert again.train(EVERY_STEP) == 5
    assert rows(again) == rows(whole)
    assert_same_weights(again, whole)


def test_a_finished_run_goes_on_for_more_steps(tmp_path: Path) -> None:
    Toy(tmp_path, steps=2).train(EVERY_STEP)
    longer = Toy(tmp_path, steps=4)
    longer.resume()
    assert longer.train(EVERY_STEP) == 4
    learning_rates = [float(row["lr"]) for row in rows(longer)]
    assert learning_rates[2] == pytest.approx(1.2e-3)  # the last of three warm-up steps


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    run = Toy(tmp_path, steps=1)
    run.train(EVERY_STEP)
    with pytest.raises(WeightsError, match=r"last.ckpt: was written with same_text=0.95, this run has 0.9"):
        Toy(tmp_path, steps=1, same_text=0.9).resume()
    with pytest.raises(InputError, match=r"a run is here already; go on with --resume"):
        Toy(tmp_path, steps=1).train(EVERY_STEP)
    path = run.checkpoint
    whole = bytearray(path.read_bytes())
    path.write_bytes(whole[:2000])
    with pytest.raises(WeightsError, match=r"last.ckpt: not a checkpoint of a run"):
        Toy(tmp_path, steps=1).resume()
    whole[len(whole) // 2] ^= 0xFF  # one flipped byte among the weights, which torch.load does not notice
    path.write_bytes(whole)
    with pytest.raises(WeightsError, match=r"is damaged\); delete it to start again"):
        Toy(tmp_path, steps=1).resume()
    with pytest.raises(InputError, match=r"no checkpoint to resume from; start without --resume"):
        Toy(tmp_path / "empty").resume()


def test_options_are_refused_before_any_data_are_read(tmp_path: Path) -> None:
    common = ["--data", str(tmp_path / "nowhere"), "--run", str(tmp_path / "run")]
    for arguments, message in ((["align", "--shard"], "shard: there is one process; start several with torchrun"),):
        with pytest.raises(InputError, match=message):
            training(arguments + common, standalone_mode=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_refused_before_any_data_are_read(tmp_path: Path) -> None:
    for name in ("run", "model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "last.ckpt").write_bytes(b"")
    common = ["--data", str(tmp_path / "nowhere")]
    for arguments, message in (
        (["align", "--run", "run"], "a run is here already; go on with --resume"),
        (["srd", "--config", "mini", "--run", "run"], "a run is here already"),
        (["align", "--run", "new", "--resume"], "no checkpoint to resume from"),
        (["export", "--run", "new", "--out", "out"], "no checkpoint to export"),
        (["export", "--run", "run", "--out", "model"], "is not empty"),
    ):
        places = [str(tmp_path / a) if a in ("run", "new", "model", "out") else a for a in arguments]
        with pytest.raises(InputError, match=message):
            training(places + common, standalone_mode=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "run"]


def test_frozen_weights_must_be_those_the_run_was_started_with(tmp_path: Path) -> None:
    Toy(tmp_path, steps=1, freeze_backbone=True).train(EVERY_STEP)
    other = Toy(tmp_path, steps=1, freeze_backbone=True)
    next(other.model.vision.backbone.parameters()).data.add_(1)
    with pytest.raises(WeightsError, match="frozen_weights"):
        other.resume()


# -- what can go wrong on the way --------------------------------------------------------------------------------------


def test_a_full_disk_keeps_the_previous_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, save, written = Toy(tmp_path, steps=3), torch.save, []

    def full(state: object, target: object, *args: object, **kwargs: object) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(save(state, target, *args, **kwargs))

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskFullError, match=r"last\.ckpt: no space left"):
        run.train(LoopOptions(checkpoint_every=1))
    assert Toy(tmp_path, steps=3).resume() == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_a_learning_rate_of_what_is_frozen_may_change(tmp_path: Path) -> None:
    Toy(tmp_path, steps=1, freeze_backbone=True, backbone_lr=1e-3).train(EVERY_STEP)
    assert Toy(tmp_path, steps=2, freeze_backbone=True, backbone_lr=0.0).resume() == 1
    with pytest.raises(WeightsError, match=r"was written with head_lr=0\.0012, this run has 0\.1"):
        Toy(tmp_path, steps=2, freeze_backbone=True, head_lr=0.1).resume()


def test_a_loss_that_is_no_number_stops_the_run_and_names_its_tiles(tmp_path: Path) -> None:
    run = Toy(tmp_path, normalise=lambda x: x * math.nan)
    before = {k: v.clone() for k, v in run.model.named_parameters()}
    with pytest.raises(SatTxtError, match=r"step 0: the loss is nan on toy \(\d, \d, \d, …\)"):
        run.train(EVERY_STEP)
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="shard: there is one process; start several with torchrun"):
        Toy(tmp_path).train(LoopOptions(shard=True))
    with pytest.raises(InputError, match="log_every=0: pass 1 or more"):
        LoopOptions(log_every=0)
    with pytest.raises(InputError, match="workers=-1: pass 0 or more"):
        LoopOptions(workers=-1)


def test_tensorboard_is_asked_for_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(InputError, match="pip install tensorboard"):
        Toy(tmp_path).train(LoopOptions(tensorboard=True))
    assert not list(tmp_path.glob("*.csv"))


# -- logs ------------------------------------------------------------------------------------------------------------


def test_logs_have_means_rates_and_figures(tmp_path: Path) -> None:
    run = Toy(tmp_path, steps=5)
    run.train(LoopOptions(log_every=2, validate_every=4))
    logged = rows(run, leave_out=())
    assert list(logged[0]) == ["seconds", "step", "class", "caption", "scale", "lr", "tiles_per_s"]
    assert [row["step"] for row in logged] == ["2", "4", "5"]
    assert all(float(row["tiles_per_s"]) > 0 for row in logged)
    assert [row["step"] for row in rows(run, "validation.csv")] == ["4", "5"]


@pytest.mark.parametrize("steps", [2, 4], ids=["its last step", "steps left"])
def test_a_run_killed_while_it_validates_loses_neither_its_step_nor_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    engine = LoopOptions(checkpoint_every=2, validate_every=2)
    whole = Toy(tmp_path / "whole", steps=steps)
    whole.train(engine)
    killed = Toy(tmp_path / "killed", steps=steps)

    def die(model: object) -> dict[str, float]:
        raise Killed

    monkeypatch.setattr(killed, "measure", die)
    with pytest.raises(Killed):
        killed.train(engine)
    resumed = Toy(tmp_path / "killed", steps=steps)
    assert resumed.resume() == 2
    assert resumed.train(engine) == steps
    assert rows(resumed, "validation.csv") == rows(whole, "validation.csv")
    assert [row["step"] for row in rows(whole, "validation.csv")] == ["2", "4"][: steps // 2]
    assert_same_weights(resumed, whole)
    again = Toy(tmp_path / "killed", steps=steps)
    again.resume()
    monkeypatch.setattr(again, "measure", die)  # it has them all
    assert again.train(engine) == steps


def test_rows_after_the_step_of_a_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "losses.csv")
    for step in (2, 4, 6):
        log.write(step=step, loss=step / 10)
    log.rewind(4)
    log.write(step=5, loss=1, surprise=2)
    assert log.path.read_text().splitlines() == ["step,loss", "2,0.2", "4,0.4", "5,1"]


# -- batches and ranks -----------------------------------------------------------------------------------------------


def test_loader_processes_change_nothing(tmp_path: Path) -> None:
    here, elsewhere = Toy(tmp_path / "here", steps=3, accumulate=2), Toy(tmp_path / "there", steps=3, accumulate=2)
    here.train(EVERY_STEP)
    elsewhere.train(LoopOptions(log_every=1, workers=2))
    assert rows(here) == rows(elsewhere)


def test_accumulated_micro_batches_have_the_gradient_of_their_mean(tmp_path: Path) -> None:
    run = Toy(tmp_path, accumulate=2, steps=1, freeze_backbone=True, clip_norm=1e9)
    run.model.vision.backbone.eval()
    means = [run.aligner.losses(run.model, run.aligner.draw(0, micro)).total for micro in range(2)]
    (sum(means) / 2).backward()
    wanted = {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    seen: dict[str, torch.Tensor] = {}

    def look(*_: object) -> None:
        seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})

    hook = register_optimizer_step_post_hook(look)
    try:
        run.train(EVERY_STEP)
    finally:
        hook.remove()
    assert seen.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-6)


def joined(batches: list[AlignBatch]) -> AlignBatch:
    """The batch of one process that has the tiles of all ``batches``, which are those of a step's ranks."""
    first = batches[0]

    def by_set(values: Callable[[AlignBatch], Tensor]) -> Tensor:
        cut = [torch.split(values(b), [len(part) for part in b.parts]) for b in batches]
        return torch.cat([pieces[which] for which in range(len(first.parts)) for pieces in cut])

    def images(values: Callable[[AlignBatch], Tensor | None]) -> Tensor | None:
        return None if values(first) is None else by_set(values)  # type: ignore[arg-type]

    def labels_of(values: Callable[[AlignBatch], list[Tensor | None]], which: int) -> Tensor | None:
        own = [values(b)[which] for b in batches]
        return None if own[0] is None else torch.cat([label for label in own if label is not None])

    return AlignBatch(
        step=first.step,
        parts=[torch.cat([b.parts[which] for b in batches]) for which in range(len(first.parts))],
        pixels=images(lambda b: b.pixels),
        embedded=images(lambda b: b.embedded),
        labels=[labels_of(lambda b: b.labels, which) for which in range(len(first.parts))],
        classes=first.classes,
        rows=by_set(lambda b: b.rows),
        texts=by_set(lambda b: b.texts),
        image_group=by_set(lambda b: b.image_group),
        text_group=by_set(lambda b: b.text_group),
        extra_rows=first.extra_rows,
        extra=first.extra,
        noise_seed=first.noise_seed,
    )


class Joined(AlignObjective):
    """One process that sees what two ranks see."""

    def draw(self, step: int, micro: int = 0, rank: int = 0, ranks: int = 1) -> AlignBatch:
        return joined([super(Joined, self).draw(step, micro, r, 2) for r in range(2)])


def test_gathered_negatives_make_the_loss_of_the_joint_batch(tmp_path: Path) -> None:
    """Each rank's loss through a gather that hands it the other's tensors, against one process with all tiles."""
    run = Toy(tmp_path, freeze_backbone=True, class_weight=0)
    model = run.model.eval()
    batches = [run.aligner.draw(2, 0, rank, 2) for rank in range(2)]
    theirs: list[list[torch.Tensor]] = []
    for batch in batches:
        theirs.append([])
        run.aligner.losses(model, batch, lambda own: theirs[-1].append(own) or own)
    got = []
    for batch in batches:
        turn = iter(zip(*theirs, strict=True))
        got.append(float(run.aligner.losses(model, batch, lambda _, turn=turn: torch.cat(next(turn))).total.detach()))
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


# -- starting from elsewhere -----------------------------------------------------------------------------------------


def test_a_run_starts_from_another_runs_average(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    model = Toy(tmp_path / "second", seed=5).model
    initialise(model, first.out)
    for name, value in first.average.vision.state_dict().items():
        assert torch.equal(value, model.vision.state_dict()[name]), name
    assert torch.equal(first.average.text.proj.weight, model.text.proj.weight)
    other = AlignModel(model.vision.config, 30, 10.0)
    with pytest.raises(WeightsError, match=r"text head: tensor 'ln.weight' .* \(24,\), the model needs \(30,\); start"):
        initialise(other, first.out)


def test_a_run_of_stage_one_gives_no_text_head_and_an_unknown_name_is_refused(tmp_path: Path) -> None:
    first = Toy(tmp_path / "first", steps=2)
    first.train(EVERY_STEP)
    assert initialise(first.model, first.out)
    state = torch.load(first.checkpoint, weights_only=True)
    state["average"] = {k: v for k, v in state["average"].items() if not k.startswith("text.")}
    torch.save(state, first.checkpoint)
    assert not initialise(first.model, first.out)
    with pytest.raises(UnknownModelError, match=r"nor is it a run's folder, which has last\.ckpt"):
        initialise(first.model, tmp_path / "frist")


@pytest.mark.parametrize("option", ["freeze_head", "freeze_text_head"])
def test_a_checkpoint_without_what_was_frozen_is_no_start(tmp_path: Path, option: str) -> None:
    first = Toy(tmp_path / "first", steps=1, **{option: True})
    first.train(EVERY_STEP)
    with pytest.raises(InputError, match=rf"leaves out what is frozen \({option}\).*sattxt train export"):
        initialise(Toy(tmp_path / "second").model, first.out)


def test_a_model_of_other_sizes_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"vision tower: tensor .*; start from a model with the recipe"):
        initialise(Toy(tmp_path).model, "sattxt-mini")


def test_books_and_objectives_go_through_a_process_boundary(tmp_path: Path) -> None:
    import pickle

    run = Toy(tmp_path)
    copied = pickle.loads(pickle.dumps(run.aligner))
    assert torch.equal(copied.draw(3).pixels, run.aligner.draw(3).pixels)
