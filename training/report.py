"""Contact sheets of a finished model, to be judged by eye, and a page that shows them."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline
from PIL import Image

from backend.models import BUILTIN
from training.progress import Progress
from training.sketches import sketch

STEPS = 20
TEXT_PROMPTS = (
    "a fantasy landscape at sunset",
    "an oil painting of snowy mountains with a lake",
    "a photo of the sea with a boat on a sunny day",
    "a castle on a hill at night with stars, digital art",
    "a forest in autumn, digital art",
    "sand dunes in the desert at sunset, photo",
    "a flat poster of mountains at sunrise",
    "a pencil sketch of mountains",
    "a watercolor of a lake in the mountains at dawn",
    "northern lights above snowy mountains at night",
    "green hills with a house in spring, oil painting",
    "a city skyline at night, digital art",
)
SKETCH_PROMPTS = (
    ("peaks", "a fantasy landscape at sunset"),
    ("peaks", "an oil painting of snowy mountains with a river in winter"),
    ("boat", "an oil painting of the sea with a boat at sunset"),
    ("castle", "a fantasy painting of a castle in autumn"),
    ("night", "digital art of mountains and a lake at night with stars"),
    ("house", "a watercolor of a house in spring"),
    ("dunes", "a photo of a desert with a pyramid at sunset"),
)
STRENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# The README's picture: sketch, prompt, strength, seed; the best of a few.
SHOWN = (
    ("peaks", "an oil painting of mountains with a river", 0.65, 8),
    ("boat", "an oil painting of the sea with a boat at sunset", 0.6, 4),
    ("castle", "a fantasy painting of a castle", 0.6, 1),
    ("night", "a photo of mountains and a lake on a sunny day", 0.6, 8),
    ("house", "a house with trees in summer, oil painting", 0.6, 8),
)


class Painter:
    """A loaded model with both its pipelines, called by prompt, with the app's guidance unless another is given."""

    def __init__(self, folder: Path, device: str = "cpu", guidance: float = BUILTIN.guidance_scale) -> None:
        self.device, self.guidance = device, guidance
        self.image = StableDiffusionImg2ImgPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        self.text = StableDiffusionPipeline(**self.image.components, requires_safety_checker=False)
        for pipeline in (self.image, self.text):
            pipeline.set_progress_bar_config(disable=True)

    def generators(self, seeds: Sequence[int]) -> list[torch.Generator]:
        return [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def from_text(self, prompts: Sequence[str], seeds: Sequence[int], size: int = 256, steps: int = STEPS):
        """One picture for each prompt and seed, PIL."""
        settings = {
            "num_inference_steps": steps,
            "guidance_scale": self.guidance,
            "height": size,
            "width": size,
        }
        return self.text(list(prompts), generator=self.generators(seeds), **settings).images

    def from_image(
        self, image: Image.Image, prompts: Sequence[str], seeds: Sequence[int], strength=0.6, steps=STEPS
    ):
        settings = {"num_inference_steps": steps, "guidance_scale": self.guidance, "strength": strength}
        images = [image] * len(prompts)
        return self.image(list(prompts), image=images, generator=self.generators(seeds), **settings).images


def contact_sheet(rows: Sequence[Sequence[Image.Image]], path: Path, side: int = 256) -> None:
    """Equal squares, row by row; short rows end in grey."""
    width = max(len(row) for row in rows)
    sheet = Image.new("RGB", (width * side, len(rows) * side), (128, 128, 128))
    for down, row in enumerate(rows):
        for across, picture in enumerate(row):
            sheet.paste(picture.convert("RGB").resize((side, side)), (across * side, down * side))
    sheet.save(path)


def write_report(model: Path, folder: Path) -> None:
    """Four sheets (text, sketches by strength, seeds, the README's) and report.md, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    painter, progress = Painter(model), Progress("report", every=10)
    started = time.monotonic()
    pictures = painter.from_text(TEXT_PROMPTS, range(1, len(TEXT_PROMPTS) + 1))
    contact_sheet([pictures[start : start + 4] for start in range(0, len(pictures), 4)], folder / "text.png")
    progress.show(0.4)
    rows = []
    for name, prompt in SKETCH_PROMPTS:
        drawing = sketch(name)
        row = [painter.from_image(drawing, [prompt], [2], strength)[0] for strength in STRENGTHS]
        rows.append([drawing, *row])
        progress.show(0.4 + 0.5 * len(rows) / len(SKETCH_PROMPTS))
    contact_sheet(rows, folder / "sketches.png")
    seeds = range(11, 17)
    rows = [painter.from_text([prompt] * len(seeds), seeds) for prompt in TEXT_PROMPTS[:3]]
    contact_sheet(rows, folder / "seeds.png")
    made = [painter.from_image(sketch(name), [words], [seed], at)[0] for name, words, at, seed in SHOWN]
    contact_sheet([[sketch(name) for name, *_ in SHOWN], made], folder / "shown.png", 192)
    progress.show(1.0, force=True)
    (folder / "report.md").write_text(page(time.monotonic() - started))


def page(seconds: float) -> str:
    sketches = "\n".join(f"{row}. {name}: *{prompt}*" for row, (name, prompt) in enumerate(SKETCH_PROMPTS, 1))
    texts = "\n".join(f"{place}. *{prompt}*" for place, prompt in enumerate(TEXT_PROMPTS, 1))
    strengths = ", ".join(f"{strength:g}" for strength in STRENGTHS)
    return f"""# What the model paints

{STEPS} steps, guidance {BUILTIN.guidance_scale:g}; all sheets together took {seconds:.0f} s.

## From words
![](text.png)

{texts}

## From sketches
Left the sketch, then strength {strengths}.

![](sketches.png)

{sketches}

## Six seeds of the first three prompts
![](seeds.png)

## In the README
![](shown.png)
"""
