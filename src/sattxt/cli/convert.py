"""``sattxt convert``: the published weights, from their original files to a model directory."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from sattxt.cli import options, output

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(no_args_is_help=True)
def convert(
    dinov3: Annotated[str, typer.Option("--dinov3", help="Backbone: Meta's .pth, a transformers folder, or a hub id.")],
    vision_head: Annotated[str, typer.Option("--vision-head", help="The release's sattxt_vision_head.pt.")],
    text_head: Annotated[str, typer.Option("--text-head", help="The release's sattxt_text_head.pt.")],
    llm: Annotated[str, typer.Option("--llm", help="Language model: a local folder or a hub id.")],
    out: Annotated[str, typer.Option("--out", "--output", "-o", help="Model directory to write.")],
    adapter: Annotated[
        list[str] | None, typer.Option("--adapter", help="LoRA adapter, in merge order: a local folder or a hub id.")
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option("--num-heads", min=1, help="Attention heads, where the files do not tell.")
    ] = None,
    preprocess: Annotated[
        Literal["official", "unit", "dinov3-sat"],
        typer.Option("--preprocess", help="Pixel scaling to store with the model."),
    ] = "official",
    copy_llm: Annotated[
        bool, typer.Option("--copy-llm", help="Put the merged language model into the directory (16 GB for 8B).")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="The model's name.")] = "sattxt-vitl16",
    instruction: Annotated[str, typer.Option("--instruction", help="Instruction stored as the default.")] = "",
    offline: Annotated[bool, typer.Option("--offline", help="Use cached files only; download nothing.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Turn the published weights' files into a model directory.

    \b
    sattxt convert --dinov3 dinov3_vitl16.pth --vision-head sattxt_vision_head.pt --text-head sattxt_text_head.pt \\
        --llm meta-llama/Meta-Llama-3-8B-Instruct --adapter MNTP --adapter SIMCSE --out sattxt-vitl16

    Sizes are read from the tensors; pickles are read without running any code in them. The directory opens with
    --model DIR in the other commands.
    """
    from sattxt.weights.convert import convert as convert_files

    written = convert_files(
        dinov3,
        vision_head,
        text_head,
        llm,
        adapter or [],
        num_heads=num_heads,
        out=out,
        preprocess=preprocess,
        copy_llm=copy_llm,
        name=name,
        instruction=instruction,
        overwrite=overwrite,
        local_files_only=offline,
    )
    words = f"{written}: open it with SatTxt.from_pretrained or --model"
    output.report({"output": str(written), "name": name}, words, as_json=as_json)
