"""Measure a model against its aims: `python -m training.evaluate` prints the table.

Everything is measured on seeds that training never saw. The judge of the prompts is trained on the
painted scenes in `--work` (and kept there); without scenes it paints its own first. So is the reader of skylines, on
scenes painted for it.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from training.data import paint_all, paint_numbered
from training.judge import JUDGE_LESSONS, Judge, agreement, train_judge
from training.measures import NEAR_IDENTICAL, closest_pair, colour_drift, psnr
from training.painter.attributes import CHOICES, SEASONAL_TERRAINS, Attributes
from training.painter.captions import SEASON, STYLE_BEFORE, TERRAIN, TIME, WEATHER
from training.painter.scenes import choose, paint
from training.photos import test_photos
from training.report import GUIDANCE, STEPS, Painter
from training.settings import DataSettings
from training.sketches import DRAWN, sketch
from training.skyline import READER_LESSONS, SkylineReader, check, correlation, train_reader
from training.vae import reconstruct

SEED = 77
STRENGTH = 0.6
UNKNOWN_WORDS = (
    ", by zorblax quintessimov",
    " glimmerwick unobtanium",
    ", unreal engine raytraced bokeh",
    " mit Schlagobers",
)
VARIETY_PROMPTS = (
    "a fantasy landscape at sunset",
    "an oil painting of mountains in summer",
    "a photo of the sea",
    "a forest in autumn, digital art",
)
LAYOUT_STYLES = ("an oil painting", "digital art", "a fantasy painting")
PAINTED_STYLES = ("oil", "digital", "fantasy")  # the painter's names for the same
SUBJECTS = {
    "peaks": "mountains with a river",
    "boat": "the sea with a boat at sunset",
    "castle": "a castle on a hill",
    "night": "mountains and a lake at night",
    "house": "a house with trees in summer",
    "dunes": "a desert with a pyramid",
}


@dataclass(frozen=True)
class Amounts:
    """How many pictures each measure looks at."""

    scenes: int = 100
    prompts: int = 64
    few_step_prompts: int = 32
    unknown_prompts: int = 32
    large_prompts: int = 4
    layout_scenes: int = 8
    reader_scenes: int = 20
    variety_seeds: int = 6
    speed_runs: int = 5


@dataclass(frozen=True)
class Row:
    """One line of the table. `met` is None where there is no aim."""

    name: str
    figure: str
    aim: str = ""
    met: bool | None = None


def prompt_for(attributes: Attributes) -> str:
    """Every judged attribute said plainly, with the painter's own words."""
    words = [STYLE_BEFORE[attributes.style][0], TERRAIN[attributes.terrain][0]]
    if attributes.shows_season and attributes.style != "pencil":
        words.append(SEASON[attributes.season][0])
    if attributes.shows_time:
        words.append(TIME[attributes.time][0])
    words.append(WEATHER[attributes.weather][0])
    return " ".join(words)


def labels_of(attributes: Attributes) -> dict[str, str]:
    return {name: getattr(attributes, name) for name in CHOICES}


def asked(count: int) -> list[Attributes]:
    """What the prompts ask for: attributes as often as they are painted."""
    return [choose(np.random.default_rng([SEED, number])) for number in range(count)]


def paint_asked(attributes: list[Attributes]) -> np.ndarray:
    """Real painter pictures of the same attributes."""
    rngs = (np.random.default_rng([SEED, 1, number]) for number in range(len(attributes)))
    return np.stack([paint(rng, **labels_of(one)).pixels for rng, one in zip(rngs, attributes, strict=True)])


def in_batches(
    make: Callable[[list, list], list[Image.Image]], prompts: list[str], size: int = 8
) -> np.ndarray:
    """Pictures of all prompts, seeds 0, 1, ..., a few at a time."""
    pictures: list[np.ndarray] = []
    for start in range(0, len(prompts), size):
        some = prompts[start : start + size]
        pictures += [np.asarray(image) for image in make(some, list(range(start, start + len(some))))]
    return np.stack(pictures)


def measure_vae(painter: Painter, amounts: Amounts) -> list[Row]:
    vae = painter.image.vae
    scenes = np.stack([paint_numbered(DataSettings(), "heldout", n)[0] for n in range(amounts.scenes)])
    scene_db = psnr(reconstruct(vae, scenes, painter.device), scenes).mean()
    photos = test_photos()
    originals = np.stack(list(photos.values()))
    made = reconstruct(vae, originals, painter.device)
    each = psnr(made, originals)
    drift = max(colour_drift(ours, theirs) for ours, theirs in zip(made, originals, strict=True))
    large = np.stack(list(test_photos(512).values()))
    large_db = psnr(reconstruct(vae, large, painter.device), large).mean()
    names = ", ".join(f"{name} {value:.1f}" for name, value in zip(photos, each, strict=True))
    return [
        Row("VAE, scenes", f"{scene_db:.1f} dB", "≥ 32 dB", bool(scene_db >= 32)),
        Row("VAE, photographs", f"{each.mean():.1f} dB ({names})", "≥ 26 dB", bool(each.mean() >= 26)),
        Row("VAE, the same at 512²", f"{large_db:.1f} dB"),
        Row("colour drift, worst photograph", f"ΔE {drift:.2f}", "< 3", drift < 3),
    ]


def measure_prompts(painter: Painter, judge: Judge, amounts: Amounts) -> list[Row]:
    attributes = asked(amounts.prompts)
    prompts = [prompt_for(one) for one in attributes]
    pictures = in_batches(painter.from_text, prompts)
    ours = agreement(judge, pictures, attributes)
    real = agreement(judge, paint_asked(attributes), attributes)
    rows = [
        Row(
            "prompt adherence",
            f"{ours['all']:.0%} (painter {real['all']:.0%})",
            "≥ 85 %",
            ours["all"] >= 0.85,
        )
    ]
    rows += [Row(f"  {name}", f"{ours[name]:.0%} (painter {real[name]:.0%})") for name in CHOICES]
    few = attributes[: amounts.few_step_prompts]
    made = in_batches(lambda p, s: painter.from_text(p, s, steps=8), prompts[: len(few)])
    rows.append(Row("  in 8 steps", f"{agreement(judge, made, few)['all']:.0%}"))
    some = attributes[: amounts.unknown_prompts]
    strange = [prompts[n] + UNKNOWN_WORDS[n % len(UNKNOWN_WORDS)] for n in range(len(some))]
    plain = agreement(judge, pictures[: len(some)], some)["all"]
    odd = agreement(judge, in_batches(painter.from_text, strange), some)["all"]
    rows.append(
        Row(
            "with unknown words",
            f"{odd:.0%} (without {plain:.0%})",
            "gently: ≤ 10 points",
            plain - odd <= 0.1,
        )
    )
    large = attributes[: amounts.large_prompts]
    wide = in_batches(lambda p, s: painter.from_text(p, s, size=512), prompts[: len(large)], size=2)
    rows.append(Row("prompt adherence at 512²", f"{agreement(judge, wide, large)['all']:.0%}"))
    return rows


def measure_layout(painter: Painter, reader: SkylineReader, amounts: Amounts) -> Row:
    """Skylines before and after img2img: the drawn sketches, and flat painter pictures as sketches."""
    cases = [(sketch(name), SUBJECTS[name]) for name in DRAWN]
    for number in range(amounts.layout_scenes):
        rng = np.random.default_rng([SEED, 2, number])
        terrain = str(rng.choice(SEASONAL_TERRAINS[:2]))
        pixels = paint(rng, style="flat", terrain=terrain, weather="clear", time="day").pixels
        cases.append((Image.fromarray(pixels), TERRAIN[terrain][0]))
    kept: list[float] = []
    for number, (image, subject) in enumerate(cases):
        theirs = reader.read(np.asarray(image)[None])[0]
        prompt = f"{LAYOUT_STYLES[number % len(LAYOUT_STYLES)]} of {subject}"
        made = painter.from_image(image, [prompt] * 2, [number, number + 100], STRENGTH)
        for ours in reader.read(np.stack([np.asarray(picture) for picture in made])):
            value = correlation(ours, theirs)
            kept += [value] if value is not None else []
    clear = {"weather": "clear", "time": "day", "terrain": "mountains"}
    reads = float(
        np.mean([check(reader, amounts.reader_scenes, SEED, style=s, **clear) for s in PAINTED_STYLES])
    )
    figure = f"{np.mean(kept):.2f} (the reader against the painter's true skylines: {reads:.2f})"
    return Row("layout kept, strength 0.6", figure, "≥ 0.8", float(np.mean(kept)) >= 0.8)


def measure_variety(painter: Painter, amounts: Amounts) -> Row:
    closest = []
    for prompt in VARIETY_PROMPTS:
        closest.append(closest_pair(in_batches(painter.from_text, [prompt] * amounts.variety_seeds)))
    twins = sum(distance < NEAR_IDENTICAL for distance in closest)
    figure = f"closest pair differs by {min(closest):.3f} RMS; {twins} of {len(closest)} prompts with twins"
    return Row("variety across seeds", figure, f"no pair < {NEAR_IDENTICAL}", twins == 0)


def measure_speed(painter: Painter, amounts: Amounts, threads: int = 2) -> list[Row]:
    """Median of warm runs on two threads; a busy machine makes them slower than the model is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    times: dict[tuple[int, int], float] = {}
    for size, steps in ((256, STEPS), (256, 8), (512, STEPS)):
        image = sketch("peaks").resize((size, size))
        runs = []
        for _ in range(amounts.speed_runs + 1):
            started = time.perf_counter()
            painter.from_image(image, ["a fantasy landscape at sunset"], [1], STRENGTH, steps)
            runs.append(time.perf_counter() - started)
        times[size, steps] = median(runs[1:])
    torch.set_num_threads(before)
    full = times[256, STEPS]
    return [
        Row(f"{STEPS} steps, strength 0.6, 256², {threads} threads", f"{full:.2f} s", "≤ 2 s", full <= 2),
        Row("  8 steps", f"{times[256, 8]:.2f} s"),
        Row(f"  {STEPS} steps, 512²", f"{times[512, STEPS]:.2f} s"),
    ]


def measure(model: Path, work: Path, amounts: Amounts, device: str = "cpu") -> list[Row]:
    if not (work / "judge.pt").exists() and not (work / "scenes").exists():
        paint_all(replace(DataSettings(), scenes=6000, generic=0, heldout=0), work, workers=2)
    judge = train_judge(work, JUDGE_LESSONS)
    reader = train_reader(work, READER_LESSONS)
    painter = Painter(model, device)
    megabytes = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e6
    rows = [Row("weights", f"{megabytes:.1f} MB", "≤ 40 MB", megabytes <= 40)]
    rows += measure_vae(painter, amounts)
    rows += measure_prompts(painter, judge, amounts)
    rows += [measure_layout(painter, reader, amounts), measure_variety(painter, amounts)]
    return rows + measure_speed(painter, amounts)


def table(rows: list[Row]) -> str:
    """Markdown."""
    verdicts = {None: "", True: "met", False: "**missed**"}
    lines = ["| | measured | aim | |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.figure} | {row.aim} | {verdicts[row.met]} |" for row in rows]
    return "\n".join(lines)


def fill_card(card: Path, text: str) -> None:
    """Put the table between the figures' marks of a model card."""
    begin, end = "<!-- figures -->", "<!-- /figures -->"
    head, found, rest = card.read_text().partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{card.name} has no place for the figures: {begin} … {end}")
    card.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main() -> None:
    folder = Path(__file__).parent
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=folder.parent / "backend" / "builtin")
    parser.add_argument("--work", type=Path, default=folder / "made")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--card", type=Path, help="a model card to put the table into")
    flags = parser.parse_args()
    rows = measure(flags.model, flags.work, Amounts(), flags.device)
    print(f"{STEPS} steps and guidance {GUIDANCE:g} unless said otherwise.\n\n{table(rows)}")
    if flags.card:
        fill_card(flags.card, table(rows))
    if flags.json:
        flags.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
