"""wmark profile import: an engine's own configuration becomes a watermark file and a public profile."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from . import console


class Engine(enum.StrEnum):
    hf = "hf"
    hf_synthid = "hf-synthid"
    vllm = "vllm"
    sglang = "sglang"
    textseal = "textseal"
    lm_watermarking = "lm-watermarking"
    three_bricks = "three-bricks"
    owmark = "owmark"
    markllm = "markllm"
    sbw = "sbw"
    synthid_text = "synthid-text"


app = typer.Typer(
    help="Marks that inference engines make themselves: their configuration, read into a watermark file.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def profile() -> None:
    pass


@app.command("import")
def import_(
    config: Annotated[Path, typer.Argument(help="The engine's own configuration, JSON or YAML; it holds the key.")],
    engine: Annotated[Engine, typer.Option("--from", help="Whose configuration it is.")],
    mark: Annotated[Path, typer.Option(help="The watermark file to write (secret, mode 0600).")],
    model: Annotated[
        str | None, typer.Option(help="The model that is served: a folder, a .gguf file, a hub name, or 'demo'.")
    ] = None,
    profile: Annotated[Path | None, typer.Option(help="Also write the public profile here.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Refuse unless text is read as this published profile says.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the public profile as JSON.")] = False,
) -> None:
    """Read an engine's configuration, so that `wmark detect` finds the mark that the engine makes.

    Example: wmark profile import generation_config.json --from hf --mark ours.wmark --model ./my-model
    """
    from watermark.engines import check_against, import_mark
    from watermark.mark import load_profile, save_profile
    from watermark.tokenizer import Tokenizer, logits_width

    bound = None if model is None else Tokenizer.load(model)
    width = None if model is None else logits_width(model)
    made = import_mark(config, engine.value, tokenizer=bound, logits_width=width)
    if against is not None:
        check_against(made.mark, load_profile(against))
    made.mark.save(mark)
    if profile is not None:
        save_profile(made.mark, profile)
    for sentence in made.warnings:
        console.say(f"wmark: warning: {sentence}")
    console.say(f"wrote {mark} (secret: it holds the engine's key), recipe {getattr(made.mark.scheme, 'recipe', '')}")
    console.say(f"commitment {made.mark.key.commitment}\npublish it now: it is what shows that the key came first")
    if json:
        console.emit(made.mark.profile())
    else:
        print(made.mark.key.kid)
