"""Whether the estimate under the button holds: seconds and memory as estimated, and as the job then took them.

    python -m benchmarks.estimates [--sides 192 256 384] [--no-save]

Each model first makes one picture, whole, at the middle side. Then every side and mode is estimated, run, estimated
again and run again, so that there are cells of what ran just before and of what ran only otherwise. Models: the
built-in one, and SD v1 and SDXL shapes of a fifth of their width with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import machine, publish

MODES = ("whole", "streamed", "tiled")
BOUND = 0.25
STEPS = 6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sides", type=int, nargs="+", default=[192, 256, 384])
    parser.add_argument("--no-save", action="store_true", help="print only, write no file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(matrix(Path(folder), options.sides))
    within = {
        known: {figure: share(rows, known, figure) for figure in ("seconds", "memory")}
        for known in ("another cell", "this cell")
    }
    result = {"machine": machine(), "bound": BOUND, "within_bound": within, "cells": rows}
    publish("estimates", result, save=not options.no_save)


def share(rows: list[dict[str, Any]], known: str, figure: str) -> str:
    ratios = [row[f"{figure}_ratio"] for row in rows if row["from"] == known]
    return f"{sum(abs(ratio - 1) <= BOUND for ratio in ratios)} of {len(ratios)}"


def matrix(folder: Path, sides: list[int]) -> Iterator[dict[str, Any]]:
    """A row for each job but the first of a model: what was estimated over what it took."""
    from backend.models import BUILTIN
    from backend.settings import Settings
    from backend.studio import Studio

    models = (BUILTIN, *(shaped(family, folder / family) for family in ("sd", "sdxl")))
    studio = Studio(Settings(device="cpu", local_models=models[1:]))
    for model in models:
        run(studio, job(model.name, sides[len(sides) // 2], "whole"))
        for mode in MODES:
            for side in sides:
                for known in ("another cell", "this cell"):
                    asked = job(model.name, side, mode)
                    expected = studio.estimate(asked)
                    seconds, peak = run(studio, asked)
                    row = {
                        "model": model.name,
                        "mode": mode,
                        "side": side,
                        "from": known,
                        "seconds": round(seconds, 3),
                        "seconds_ratio": round((expected.seconds or 0) / seconds, 3),
                        "memory": peak,
                        "memory_ratio": round((expected.peak_bytes or 0) / peak, 3),
                    }
                    print(*row.values(), flush=True)
                    yield row


def job(model: str, side: int, mode: str) -> Any:
    from PIL import Image

    from backend.job import Job, VaeOptions

    options = VaeOptions(mode, tile_size=128, tile_overlap=32)
    picture = Image.new("RGB", (side, side), "teal")
    return Job(
        picture,
        "a mountain lake",
        model=model,
        strength=1.0,
        num_inference_steps=STEPS,
        width=side,
        height=side,
        seed=1,
        encode=options,
        decode=options,
    )


def run(studio: Any, asked: Any) -> tuple[float, int]:
    """(seconds from the button to the picture, the highest peak of its stages in bytes)."""
    from backend.events import Result

    begin = time.perf_counter()
    (result,) = (event for event in studio.img2img(asked) if isinstance(event, Result))
    seconds = time.perf_counter() - begin
    return seconds, max(report.cost.added_bytes or 0 for report in result.reports)


def shaped(family: str, folder: Path) -> Any:
    """A model of that family's shape, a fifth as wide, with random weights, in `folder`."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionXLImg2ImgPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    from backend.models import BUILTIN
    from backend.models.local import local_model

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(Path(BUILTIN.repository) / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=tokenizer.model_max_length,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=12,
        num_attention_heads=4,
        projection_dim=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(32, 64, 128, 128),
        layers_per_block=2,
        latent_channels=4,
    )
    parts: dict[str, Any] = {
        "vae": vae,
        "tokenizer": tokenizer,
        "text_encoder": CLIPTextModel(text),
        "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1),
    }
    if family == "sd":
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(64, 128, 256, 256),
            cross_attention_dim=128,
            attention_head_dim=8,
        )
        pipeline: Any = StableDiffusionImg2ImgPipeline(
            **parts, unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        unet = UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(64, 128, 256),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(2, 4, 8),
            cross_attention_dim=256,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=64,
            projection_class_embeddings_input_dim=128 + 6 * 64,
        )
        pipeline = StableDiffusionXLImg2ImgPipeline(
            **parts, unet=unet, text_encoder_2=CLIPTextModelWithProjection(text), tokenizer_2=tokenizer
        )
    pipeline.save_pretrained(folder)
    return local_model(f"random-{family}", folder)


if __name__ == "__main__":
    main()
