"""`clipsearch models`: list, fetch, describe, export and publish models."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipsearch.cli.options import JsonOption, notice, print_json
from clipsearch.cli.terminal import size
from clipsearch.filenames import safe
from clipsearch.places import expanded

if TYPE_CHECKING:
    from clipsearch.encoder.kinds import ModelInfo
    from clipsearch.records import PixelArray, Preprocessing

CHECK_PICTURES = 16

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, download, describe, export and publish models."
)


@app.command(name="list")
def list_command(
    every_kind: Annotated[
        bool, typer.Option("--all", help="Also list open_clip models (needs the torch extra).")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the models that --model takes.

    \b
    Examples:
      clipsearch models list
      clipsearch models list --all
    """
    from clipsearch.encoder.names import list_models

    models = list_models(every_kind=every_kind)
    if as_json:
        print(json.dumps([_json(model) for model in models], indent=2))
        return
    width = max(len(model.name) for model in models)
    for model in models:
        state = "available" if model.available else f"{model.extra} extra" if model.extra else "to fetch"
        facts = [
            f"{model.dim}-d" if model.dim else "",
            f"{model.picture_side} px" if model.picture_side else "",
            size(model.size_bytes) if model.size_bytes else "",
            model.languages or "",
            "recommended" if model.recommended else "",
            ", ".join(model.tags),
        ]
        print(f"{model.name:{width}}  {state:11}  {', '.join(fact for fact in facts if fact)}")


@app.command()
def pull(model: Annotated[str, typer.Argument(help="NAME__TAG, or auto for the recommended model.")]) -> None:
    """Download a published model, to use it offline.

    \b
    Example:
      clipsearch models pull ViT-B-32-SigLIP2-256__webli
    """
    from clipsearch.encoder.names import pull as fetch

    resolved = fetch(model, notice=notice)
    print(f"{resolved.name} is available" + (f": {safe(str(resolved.directory))}" if resolved.directory else ""))


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="Model name. See: clipsearch models list")],
    as_json: JsonOption = False,
) -> None:
    """Describe a model: dimensions, preprocessing, fingerprint, size, licence.

    \b
    Examples:
      clipsearch models info builtin
      clipsearch models info ./my-model --json
    """
    from clipsearch.encoder.names import info as describe

    found = describe(model)
    if as_json:
        print(json.dumps(_json(found), indent=2))
        return
    for name, value in _json(found).items():
        if value not in (None, [], ()):
            print(f"{name:18} {safe(json.dumps(value) if isinstance(value, dict | list) else str(value))}")


def _json(model: ModelInfo) -> dict[str, object]:
    return {**dataclasses.asdict(model), "directory": str(model.directory) if model.directory else None}


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="open_clip:NAME/TAG, or open_clip:NAME with --checkpoint.")],
    directory: Annotated[Path, typer.Argument(help="Folder to create. Use it as --model afterwards.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Weights to load (.safetensors).", metavar="FILE")] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(help="Folder of pictures to check the export with (default: sample photos).", metavar="DIR"),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Load a .pt checkpoint. It can run code: only use files that you trust."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Export an open_clip model as ONNX, in the layout that clipsearch and immich load (torch extra).

    \b
    A training run already has that layout: its model is copied.

    \b
    The export is compared with the original on pictures and texts, and rejected if any cosine is below
    0.999.

    \b
    Examples:
      clipsearch models export open_clip:ViT-B-32/laion2b_s34b_b79k ./vit-b-32
      clipsearch models export open_clip:RN50 ./mine --checkpoint run/best.safetensors --pictures ./photos
    """
    from clipsearch.encoder.names import load_encoder, resolve
    from clipsearch.encoder.openclip import OpenClipEncoder

    resolved = resolve(model, fetch=False) if expanded(model).is_dir() else None
    if resolved is not None and resolved.kind == "run" and resolved.directory is not None:
        from clipsearch.encoder.layout import copy_model_directory

        copy_model_directory(resolved.directory, expanded(directory), overwrite=overwrite)
        print(f"wrote {safe(str(directory))}")
        return
    encoder = load_encoder(
        model, checkpoint=checkpoint, device="cpu", precision="fp32", allow_pickle=allow_pickle, notice=notice
    )
    if not isinstance(encoder, OpenClipEncoder):
        raise typer.BadParameter(f"{model} is already ONNX; name an open_clip: model", param_hint="MODEL")
    from clipsearch.encoder.export import export as write

    pixels = _check_pictures(pictures or _sample_pictures(), encoder.preprocessing)
    for line in str(write(encoder, directory, check_pictures=pixels, overwrite=overwrite)).splitlines():
        print(safe(line))


@app.command()
def push(
    run: Annotated[str, typer.Argument(help="Folder of a finished training run.", metavar="RUN")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the hub. Created if it is new.", metavar="REPO")],
    public: Annotated[bool, typer.Option("--public", help="Create a public repository (default: private).")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model in a repository that holds files.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish the model of a training run on a model hub (Hugging Face, or HF_ENDPOINT).

    \b
    Uploads the model, its weights and its card, which names the files of the pairs. Pictures, captions, settings and
    metrics stay here. The hub's client takes the token from HF_TOKEN or from: hf auth login

    \b
    Examples:
      clipsearch models push runs/products me/products --dry-run
      clipsearch models push runs/products me/products
    """
    from clipsearch.training import publishing

    if dry_run:
        parcels = publishing.parcels_of(run, repository)
        if as_json:
            print_json([{"name": parcel.name, "size_bytes": parcel.size_bytes} for parcel in parcels])
            return
        for parcel in parcels:
            print(f"{size(parcel.size_bytes):>9}  {safe(parcel.name)}")
        print(f"{size(sum(parcel.size_bytes for parcel in parcels)):>9}  in all. Nothing was sent")
        return
    done = publishing.push(run, repository, public=public, overwrite=overwrite)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    who = "private" if done.private else "public: anyone can read it"
    print(f"pushed {len(done.files):,} files, {size(done.size_bytes)}, to {safe(done.repository)} ({who})")
    print(safe(done.url))


def _sample_pictures() -> Path:
    """The photographs that come with Gradio, which the core needs anyway; Gradio itself is not loaded."""
    spec = importlib.util.find_spec("gradio")
    origin = Path(spec.origin) if spec is not None and spec.origin is not None else Path("gradio")
    return origin.parent / "media_assets" / "images"


def _check_pictures(folder: Path, preprocessing: Preprocessing) -> PixelArray:
    import numpy as np

    from clipsearch.errors import NoPictures, UnreadablePicture
    from clipsearch.indexer.scan import scan
    from clipsearch.pictures.formats import is_candidate
    from clipsearch.pictures.images import read_picture

    pixels: list[PixelArray] = []
    files, found = scan(folder)
    for file in files:
        if len(pixels) < CHECK_PICTURES and is_candidate(Path(file.path).name):
            try:
                pixels.append(read_picture(folder / file.path, preprocessing, content_hash=False).pixels)
            except UnreadablePicture as error:
                notice(str(error))
    if not pixels:
        raise NoPictures(folder, found.files + sum(found.others.values()))
    return np.stack(pixels)
