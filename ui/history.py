"""The visitor's earlier runs: ids in the browser, pictures in the runs' folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ui.recipe import PngMetadata, read_metadata
from ui.runs import Runs

KEEP = 24
"""Runs that the history shows."""
THUMBNAIL = "thumbnail.png"


def save_thumbnail(path: Path, image: Image.Image) -> None:
    small = image.convert("RGB")
    small.thumbnail((192, 192))
    small.save(path)


def picture_of(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("latent-relay-*.png"))), None)


def known(runs: Runs, ids: Sequence[str] | None) -> list[str]:
    """Those of the ids whose pictures are still there. The list comes from the browser, so it may hold anything."""
    wanted = [run_id for run_id in ids or () if isinstance(run_id, str)][:KEEP]
    return [run_id for run_id in wanted if (folder := runs.find(run_id)) and (folder / THUMBNAIL).is_file()]


def thumbnails(runs: Runs, ids: Sequence[str]) -> list[tuple[str, str]]:
    """(file, caption) for the gallery."""
    items = []
    for run_id in known(runs, ids):
        folder = runs.find(run_id)
        assert folder is not None  # `known` has seen it
        picture = picture_of(folder)
        items.append((str(folder / THUMBNAIL), picture.stem.rpartition("-")[2] if picture else ""))
    return items


def gallery(runs: Runs, ids: Sequence[str]) -> Any:
    """The gallery's new contents; it is hidden while it is empty."""
    items = thumbnails(runs, ids)
    return gr.update(value=items, visible=bool(items))


def earlier_run(runs: Runs, run_id: str) -> tuple[Path, Path, PngMetadata] | None:
    """(folder, picture, what is written in it); None if it is not kept any more."""
    folder = runs.find(run_id)
    picture = picture_of(folder) if folder else None
    metadata = read_metadata(picture) if picture else None
    return (folder, picture, metadata) if folder and picture and metadata else None
