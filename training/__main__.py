"""Make the built-in model: paint, train, export, report. `python -m training` does it all and continues
after a kill.

Stages that are done are skipped; `--stages vae,decoder` runs only those named. Everything is kept in
`--work`.
"""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from training.settings import Budget, Recipe, Run

FOLDER = Path(__file__).parent
STAGES = ("paint", "vae", "latents", "tokenizer", "denoiser", "decoder", "export", "report")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--work", type=Path, default=FOLDER / "made", help="data, checkpoints and reports")
    parser.add_argument(
        "--out", type=Path, default=FOLDER.parent / "backend" / "builtin", help="the exported model"
    )
    parser.add_argument(
        "--data", type=Path, help="pictures and latents of another run (default: those in --work)"
    )
    parser.add_argument("--start", type=Path, help="begin with the weights of this exported model")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes, on the CPU"
    )
    parser.add_argument("--stages", default=",".join(STAGES), help="some of " + ", ".join(STAGES))
    parser.add_argument("--scenes", type=int, help="how many pictures of scenes to paint")
    parser.add_argument("--generic", type=int, help="how many generic pictures and photographs to paint over")
    parser.add_argument("--twin-share", type=float, help="samples with img2img's own noise; 0 is the control")
    parser.add_argument(
        "--batch", type=int, help="whole pictures a process and step; crops are three times as many"
    )
    parser.add_argument("--denoiser-steps", type=int, help="the denoiser's budget in steps, not in minutes")
    for stage in ("vae", "denoiser", "decoder"):
        parser.add_argument(f"--{stage}-minutes", type=float, help=f"training time of the {stage}")
    return parser.parse_args()


def recipe_of(flags: argparse.Namespace) -> Recipe:
    """The recipe with what the flags change; a longer budget continues a finished stage."""
    recipe = Recipe()
    vae, denoiser, data = recipe.vae, recipe.denoiser, recipe.data
    if flags.vae_minutes is not None:
        vae = replace(vae, budget=Budget(flags.vae_minutes))
    if flags.decoder_minutes is not None:
        vae = replace(vae, decoder_budget=Budget(flags.decoder_minutes))
    if flags.denoiser_minutes is not None:
        denoiser = replace(denoiser, budget=Budget(flags.denoiser_minutes))
    if flags.denoiser_steps is not None:
        denoiser = replace(denoiser, budget=Budget(0, steps=flags.denoiser_steps))
    if flags.batch is not None:
        sizes = {"batch": flags.batch, "half_batch": 3 * flags.batch, "large_batch": max(1, flags.batch // 4)}
        denoiser = replace(denoiser, **sizes)
    if flags.twin_share is not None:
        denoiser = replace(denoiser, twins=replace(denoiser.twins, share=flags.twin_share))
    if flags.scenes is not None:
        data = replace(data, scenes=flags.scenes)
    if flags.generic is not None:
        data = replace(data, generic=flags.generic)
    return replace(recipe, data=data, vae=vae, denoiser=denoiser)


def make(run: Run, recipe: Recipe, out: Path, stages: tuple[str, ...] = STAGES) -> None:
    """Carry out the recipe. Training stages read their checkpoint; the others look for what they would
    write.
    """
    from training import data, denoiser, latents, text, vae
    from training.export import export
    from training.process_group import launch
    from training.report import write_report

    unknown = set(stages) - set(STAGES)
    if unknown:
        raise ValueError(f"no such stage: {', '.join(sorted(unknown))}")
    run.work.mkdir(parents=True, exist_ok=True)
    work = run.work
    if "paint" in stages:
        data.paint_all(recipe.data, run.pictures, run.workers)
    if "vae" in stages and not latents.are_encoded(run.pictures):
        # Once there are latents the VAE's encoder is settled; the decoder stage may still refine the rest.
        launch(vae.train_vae, run, recipe)
    if run.start and not (work / "vae").exists():
        shutil.copytree(run.start / "vae", work / "vae")
    if "latents" in stages:
        launch(latents.encode_shards, run)
    if "tokenizer" in stages and not (work / "tokenizer").exists():
        if run.start:  # its text encoder knows these tokens and no others
            shutil.copytree(run.start / "tokenizer", work / "tokenizer")
        else:
            records = data.Pictures(run.pictures, "scenes").records()
            captions = [words for record in records for words in record.captions]
            text.learn_tokenizer(
                captions, recipe.denoiser.vocabulary, recipe.denoiser.tokens, work / "tokenizer"
            )
    if "denoiser" in stages:
        launch(denoiser.train_denoiser, run, recipe)
    if "decoder" in stages:
        launch(vae.train_vae, run, recipe, True)
    if "export" in stages:
        print(f"export: {export(work, out):.1f} MB in {out.name}", flush=True)
    if "report" in stages:
        write_report(out, work / "report")


def main() -> None:
    flags = arguments()
    run = Run(flags.work, flags.device, flags.workers, flags.start, flags.data)
    make(run, recipe_of(flags), flags.out, tuple(flags.stages.split(",")))


if __name__ == "__main__":
    main()
