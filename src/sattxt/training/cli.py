"""``sattxt train``: run a recipe, resume it, and turn a finished run into a model directory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sattxt.training.run import AlignRun

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True, help="Train a model.")

Config = Annotated[str, typer.Option("--config", help="A recipe: a .yaml file, or the name of a shipped one.")]
Data = Annotated[Path, typer.Option("--data", envvar="SATTXT_DATA", help="Folder that the recipe's paths start from.")]
Run = Annotated[Path, typer.Option("--run", help="Folder of the run: checkpoints, logs, text vectors.")]


@app.command()
def align(
    data: Data,
    config: Config = "mini",
    run: Run = Path("runs/mini"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed instead of the recipe's.")] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 200,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validation passes.")] = 500,
) -> None:
    """Stage 2: align image embeddings with frozen text embeddings.

    \b
    sattxt train align --data DATA --run runs/mini
    sattxt train align --data DATA --run runs/mini --resume
    """
    from tqdm import tqdm

    trained = _open(config, data, run, steps, seed)
    start = trained.resume() if resume else 0
    bar = tqdm(total=trained.recipe.align.steps, initial=start, unit=" steps", file=sys.stderr)

    def show(step: int, means: dict[str, float]) -> None:
        bar.update(step - bar.n)
        bar.set_postfix(means)

    trained.train(checkpoint_every=checkpoint_every, validate_every=validate_every, progress=show)
    bar.close()
    typer.echo(f"{trained.checkpoint}")


@app.command()
def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The model directory to write.")],
    data: Data,
    config: Config = "mini",
    run: Run = Path("runs/mini"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model directory that is there.")] = False,
) -> None:
    """Write a run's averaged weights as a model directory that ``from_pretrained`` opens, calibrated on the val splits.

    \b
    sattxt train export --data DATA --run runs/mini --out my-model
    """
    trained = _open(config, data, run, None, None)
    step = trained.resume()
    path = trained.export(out, overwrite=overwrite)
    typer.echo(f"{path} (step {step})")


def _open(config: str, data: Path, run: Path, steps: int | None, seed: int | None) -> AlignRun:
    from sattxt.training.recipe import read_recipe
    from sattxt.training.run import AlignRun

    chosen = {"steps": steps, "seed": seed}
    overrides = {key: value for key, value in chosen.items() if value is not None}
    return AlignRun(read_recipe(config, overrides), data, run)
