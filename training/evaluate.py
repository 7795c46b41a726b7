"""Measure a model against its aims: `python -m training.evaluate` prints the table.

Everything is measured on seeds that training never saw. The judge of the prompts, the reader of skylines and the
recogniser of things learn from scenes painted for them and are kept in `--work`.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from backend.models import BUILTIN
from training.data import heldout_paintings
from training.evaluate_img2img import (
    SEED,
    STRENGTH,
    labels_of,
    layout_rows,
    photograph_row,
    prompt_for,
    things_row,
    words_rows,
)
from training.judge import (
    JUDGE_LESSONS,
    PHOTO_LESSONS,
    Judge,
    agreement,
    to_view,
    train_judge,
    train_photo_judge,
)
from training.measures import NEAR_IDENTICAL, closest_pair, colour_drift, kernel_distance, psnr
from training.painter.attributes import CHOICES, Attributes
from training.painter.scenes import choose, paint
from training.photos import test_photos
from training.recogniser import RECOGNISER_LESSONS, train_recogniser
from training.report import STEPS, Painter
from training.rows import Row, table
from training.sketches import sketch
from training.skyline import READER_LESSONS, train_reader
from training.teaching import Lessons
from training.vae import reconstruct

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


@dataclass(frozen=True)
class Amounts:
    """How many pictures each measure looks at."""

    scenes: int = 100
    prompts: int = 64
    few_step_prompts: int = 32
    unknown_prompts: int = 32
    large_prompts: int = 8
    distance_prompts: int = 96
    words: int = 40
    things: int = 56
    layout_scenes: int = 8
    reader_scenes: int = 20
    variety_seeds: int = 6
    speed_runs: int = 5


def asked(count: int) -> list[Attributes]:
    """What the prompts ask for: attributes as often as they are painted."""
    return [choose(np.random.default_rng([SEED, number])) for number in range(count)]


def paint_asked(attributes: list[Attributes], stream: int = 1) -> np.ndarray:
    """Real painter pictures of the same attributes, others for another `stream`."""
    rngs = (np.random.default_rng([SEED, stream, number]) for number in range(len(attributes)))
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
    scenes = heldout_paintings(amounts.scenes)
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
        Row("VAE, photographs", f"{each.mean():.1f} dB ({names})", "≥ 28 dB", bool(each.mean() >= 28)),
        Row("VAE, the same at 512²", f"{large_db:.1f} dB"),
        Row("colour drift, worst photograph", f"ΔE {drift:.2f}", "< 1.5", drift < 1.5),
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
            "≥ 92 %",
            ours["all"] >= 0.92,
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
    at_512 = agreement(judge, wide, large)["all"]
    rows.append(Row("prompt adherence at 512²", f"{at_512:.0%}", "≥ 85 %", at_512 >= 0.85))
    return rows


def measure_distance(painter: Painter, judge: Judge, amounts: Amounts) -> Row:
    """The judge's view of pictures from words and of the painter's own of the same; two sets of these are the floor."""
    attributes = asked(amounts.distance_prompts)
    made = in_batches(painter.from_text, [prompt_for(one) for one in attributes])
    first, second = (paint_asked(attributes, stream) for stream in (1, 10))
    with torch.inference_mode():
        ours, theirs, others = (judge.pooled(to_view(set_)).numpy() for set_ in (made, first, second))
    distance, floor = kernel_distance(ours, theirs), kernel_distance(theirs, others)
    figure = f"{distance:.3f} (two sets of the painter's {floor:.3f})"
    return Row("kernel distance to the painter's pictures", figure)


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
        Row(f"{STEPS} steps, strength 0.6, 256², {threads} threads", f"{full:.2f} s", "≤ 1.5 s", full <= 1.5),
        Row("  8 steps", f"{times[256, 8]:.2f} s"),
        Row(f"  {STEPS} steps, 512²", f"{times[512, STEPS]:.2f} s"),
    ]


ROWS = ("words", "photographs", "layout", "things", "vae", "prompts", "distance", "variety", "speed")


@dataclass(frozen=True)
class Measured:
    """The model and what it is measured with; a `share` below 1 looks at that part of the pictures, with networks that
    learned from that part.
    """

    painter: Painter
    work: Path
    amounts: Amounts
    share: float = 1.0

    @cached_property
    def judge(self) -> Judge:
        return train_judge(self.work, self.taught(JUDGE_LESSONS))

    def taught(self, lessons: Lessons) -> Lessons:
        return replace(lessons, pictures=fewer(lessons.pictures, self.share))

    def part(self, name: str) -> list[Row]:
        """The rows of one of `ROWS`."""
        painter, amounts = self.painter, self.amounts
        match name:
            case "words":
                return words_rows(painter, self.judge, amounts.words)
            case "photographs":
                return [photograph_row(painter, train_photo_judge(self.work, self.taught(PHOTO_LESSONS)))]
            case "layout":
                reader = train_reader(self.work, self.taught(READER_LESSONS))
                return layout_rows(painter, reader, amounts.layout_scenes, amounts.reader_scenes)
            case "things":
                recogniser = train_recogniser(self.work, self.taught(RECOGNISER_LESSONS))
                return [things_row(painter, recogniser, amounts.things)]
            case "vae":
                return measure_vae(painter, amounts)
            case "prompts":
                return measure_prompts(painter, self.judge, amounts)
            case "distance":
                return [measure_distance(painter, self.judge, amounts)]
            case "variety":
                return [measure_variety(painter, amounts)]
            case "speed":
                return measure_speed(painter, amounts)
        raise ValueError(f"no such rows: {name}; there are {', '.join(ROWS)}")


def measure(
    painter: Painter, model: Path, work: Path, share: float = 1.0, parts: Sequence[str] = ROWS
) -> list[Row]:
    """The rows of these parts, each printed as soon as it is measured."""
    amounts = Amounts(**{name: fewer(number, share) for name, number in asdict(Amounts()).items()})
    measured = Measured(painter, work, amounts, share)
    megabytes = sum(path.stat().st_size for path in model.rglob("*.safetensors")) / 1e6
    rows = [Row("weights", f"{megabytes:.1f} MB", "≤ 40 MB", megabytes <= 40)]
    for name in parts:
        more = measured.part(name)
        print("\n".join(f"  {row.name}: {row.figure}" for row in more), flush=True)
        rows += more
    return rows


def fewer(number: int, share: float) -> int:
    return max(2, round(number * share))


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
    parser.add_argument("--guidance", type=float, help="instead of the app's default for the built-in model")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the pictures and lessons, for a rough look"
    )
    parser.add_argument("--rows", default=",".join(ROWS), help="some of " + ", ".join(ROWS))
    flags = parser.parse_args()
    guidance = BUILTIN.guidance_scale if flags.guidance is None else flags.guidance
    painter = Painter(flags.model, flags.device, guidance)
    rows = measure(painter, flags.model, flags.work, flags.share, flags.rows.split(","))
    print(f"{STEPS} steps and guidance {guidance:g} unless said otherwise.\n\n{table(rows)}")
    if flags.card:
        fill_card(flags.card, table(rows))
    if flags.json:
        flags.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
