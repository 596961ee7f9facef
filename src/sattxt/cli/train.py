"""``sattxt train``: run a recipe's stages, resume them, and turn a finished run into a model directory."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sattxt.cli import exits, options

if TYPE_CHECKING:
    from sattxt.training.recipe import Recipe

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="Train a model.")

Data = Annotated[Path, typer.Option("--data", envvar="SATTXT_DATA", help="Folder that the recipe's paths start from.")]
RunDir = Annotated[Path, typer.Option("--run", help="Folder of the run: checkpoints, logs, text vectors.")]
Out = Annotated[Path, typer.Option("--out", "--output", "-o", help="The model directory to write.")]


@dataclass(frozen=True, kw_only=True)
class RecipeFlags:
    """Which recipe, with which values replaced, and what to start from."""

    config: Annotated[str, typer.Option("--config", help="A recipe: a .yaml file, or the name of a shipped one.")] = (
        "mini"
    )
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A recipe's value, typed as YAML: --set image.size=96. Repeatable."
        ),
    ] = None
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Steps instead of the recipe's.")] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Seed instead of the recipe's.")] = None
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="Start from this model (a directory, a name, a hub id) or run folder instead of the recipe's weights.",
        ),
    ] = None

    def read(self, stage: str) -> Recipe:
        """The recipe; ``steps`` and ``seed`` are those of ``stage``."""
        from sattxt.training import read_recipe
        from sattxt.training.schema import parse_override

        _show_log()
        overrides = dict(parse_override(text) for text in self.values or [])
        named = {f"{stage}.steps": self.steps, f"{stage}.seed": self.seed}
        return read_recipe(self.config, overrides | {key: value for key, value in named.items() if value is not None})


@dataclass(frozen=True, kw_only=True)
class LoopFlags:
    """How to carry out the run; the fields but ``resume`` are those of ``LoopOptions``."""

    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False
    checkpoint_every: Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")] = 200
    validate_every: Annotated[int, typer.Option("--validate-every", min=1, help="Steps between validation passes.")] = (
        500
    )
    log_every: Annotated[
        int, typer.Option("--log-every", min=1, help="Steps that a row of losses.csv is the mean of.")
    ] = 20
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes that draw batches ahead, for each device.")
    ] = 0
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard logs beside the CSV files.")] = (
        False
    )
    shard: Annotated[
        bool, typer.Option("--shard", help="Under torchrun: keep a part of a large model in each process (FSDP).")
    ] = False


@app.command()
@options.with_options
def srd(data: Data, recipe: RecipeFlags, loop: LoopFlags, run: RunDir = Path("runs/mini-srd")) -> None:
    """Stage 1: distil what a multispectral teacher sees into the RGB vision tower.

    \b
    sattxt train srd --config my.yaml --data DATA --run runs/stage1
    sattxt train align --config my.yaml --data DATA --run runs/stage2 --init runs/stage1
    """
    _train("srd", data, recipe, loop, run)


@app.command()
@options.with_options
def align(data: Data, recipe: RecipeFlags, loop: LoopFlags, run: RunDir = Path("runs/mini")) -> None:
    """Stage 2: align image embeddings with frozen text embeddings.

    \b
    sattxt train align --data DATA --run runs/mini
    sattxt train align --data DATA --run runs/mini --resume
    sattxt train align --data DATA --run runs/mine --set align.steps=100 --set image.size=96
    """
    _train("align", data, recipe, loop, run)


@app.command()
@options.with_options
def export(
    out: Out,
    data: Data,
    recipe: RecipeFlags,
    run: RunDir = Path("runs/mini"),
    norm_batches: Annotated[
        int, typer.Option("--norm-batches", min=0, help="Batches that BatchNorm statistics are measured over; 0: none.")
    ] = 100,
    licence: Annotated[str, typer.Option("--licence", help="Of the weights, for config and card.")] = "Apache-2.0",
    overwrite: options.Overwrite = False,
) -> None:
    """Write a run's averaged weights as a model directory that ``from_pretrained`` opens, calibrated on the val splits.

    Give the recipe and the values that the run was trained with.

    \b
    sattxt train export --data DATA --run runs/mini --out my-model
    """
    read = recipe.read("align")
    from sattxt.training.records import check_folder
    from sattxt.training.run import AlignRun
    from sattxt.weights.directory import check_target

    check_target(out, overwrite=overwrite)
    check_folder(run, resume=True)
    trained = AlignRun(read, data, run, init=recipe.init)
    step = trained.resume()
    path = trained.export(out, norm_batches=norm_batches, licence=licence, overwrite=overwrite)
    typer.echo(f"{path} (step {step})")


@app.command()
@options.with_options
def adapt(
    images: Annotated[Path, typer.Option("--images", help="Folder, zip or tar of tiles; no labels are needed.")],
    out: Out,
    reading: options.ReadFlags,
    model: options.Model = "sattxt-mini",
    limit: Annotated[int, typer.Option("--limit", min=32, help="At most N tiles, evenly spaced.")] = 2000,
    split: Annotated[
        str | None, typer.Option("--split", help="Only images below a folder of this name: train, val, ...")
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", help="images, or a data set: s2, two-page Sentinel-2 TIFFs in a zip (split train).")
    ] = "images",
    size: Annotated[
        int | None,
        typer.Option("--size", min=32, help="Input side to measure at, and of the new model. Default: the model's."),
    ] = None,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Fit a model to a sensor: measure its BatchNorm statistics anew over unlabelled tiles (adaptive batch
    normalisation). No weight changes, nothing is learnt from labels.

    \b
    sattxt train adapt --images my-tiles/ --out my-model
    sattxt train adapt --model my-model --images EuroSAT.zip --split train --limit 2000 --out my-eurosat-model

    It is for tiles unlike those of training; on tiles like them it can do harm, so measure before and after. Tiles that
    cannot be read are left out and counted. Tiles that will be measured on must not be among them, or the
    figures are transductive: say so, or pass another split.
    """
    from sattxt.training.adapt import adapt_norms

    _show_log()
    done = adapt_norms(
        model,
        images,
        out,
        limit=limit,
        split=split,
        kind=kind,
        size=size,
        options=reading.image_options(),
        device=device,
        overwrite=overwrite,
    )
    typer.echo(f"{done.path} (statistics of {done.tiles:,} tiles, {len(done.skipped):,} unreadable)")


def _train(stage: str, data: Path, recipe: RecipeFlags, flags: LoopFlags, folder: Path) -> None:
    """Train a stage. What is cheap to check is checked before data are read and texts encoded."""
    from tqdm import tqdm

    read = recipe.read(stage)
    from sattxt.training.loop import LoopOptions, Run, check_start
    from sattxt.training.ranks import rank
    from sattxt.training.run import AlignRun, SRDRun

    loop = LoopOptions(**{name: value for name, value in vars(flags).items() if name != "resume"})
    check_start(folder, loop, resume=flags.resume)
    trained: Run[Any] = (SRDRun if stage == "srd" else AlignRun)(read, data, folder, init=recipe.init)
    start = trained.resume() if flags.resume else 0
    total = trained.objective.config.steps
    with tqdm(total=total, initial=start, unit=" steps", file=sys.stderr, disable=rank() > 0 or None) as bar:

        def show(step: int, row: dict[str, float]) -> None:
            bar.update(step - bar.n)
            bar.set_postfix({name: f"{value:.4g}" for name, value in row.items() if name not in ("seconds", "step")})

        done = trained.train(loop, progress=show)
    if done < total:
        again = [*sys.argv[1:], *([] if flags.resume else ["--resume"])]
        if rank() == 0:
            sys.stderr.write(f"sattxt: stopped at step {done} of {total}; go on with: sattxt {shlex.join(again)}\n")
        raise typer.Exit(exits.INTERRUPTED)
    if rank() == 0:
        typer.echo(f"{trained.checkpoint}" if total else "no step to train: nothing was written")


def _show_log() -> None:
    """This library's notes on stderr: tiles read and skipped, texts computed, figures of validation."""
    logging.basicConfig(format="sattxt: %(message)s")
    logging.getLogger("sattxt").setLevel(logging.INFO)
