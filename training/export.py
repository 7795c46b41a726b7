"""The finished model as a diffusers folder in half precision, which the pipelines load by its path."""

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.denoiser import pipeline_of

# What the libraries note about where a model came from: a path on the machine that trained it.
PRIVATE_KEYS = ("_name_or_path", "name_or_path", "is_local", "local_files_only")


def assemble(work: Path) -> StableDiffusionPipeline:
    """The pipeline out of the working folder's VAE and denoiser, float32."""
    folder = work / "denoiser"
    facts = json.loads((folder / "facts.json").read_text())
    vae = AutoencoderKL.from_pretrained(work / "vae")
    vae.register_to_config(scaling_factor=facts["scaling_factor"], force_upcast=False)
    return pipeline_of(
        vae,
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        UNet2DConditionModel.from_pretrained(folder / "unet"),
    )


def export(work: Path, out: Path) -> float:
    """Write `out`, replacing the model in it but not its other files; returns the size in megabytes."""
    pipeline = assemble(work).to(dtype=torch.float16)
    fresh = out.with_name(out.name + ".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh, safe_serialization=True)
    for config in fresh.rglob("*.json"):
        forget_origin(config)
    out.mkdir(parents=True, exist_ok=True)
    for part in fresh.iterdir():
        target = out / part.name
        if target.is_dir():
            shutil.rmtree(target)
        part.replace(target)
    fresh.rmdir()
    return sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6


def forget_origin(config: Path) -> None:
    content = json.loads(config.read_text())
    if isinstance(content, dict) and any(key in content for key in PRIVATE_KEYS):
        kept = {key: value for key, value in content.items() if key not in PRIVATE_KEYS}
        config.write_text(json.dumps(kept, indent=2) + "\n")
