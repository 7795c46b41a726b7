"""What the denoiser learns from: clean latents, where img2img would start, a caption that names the difference.

Plain samples are noised as ever. A twin sample has img2img's own noise: deterministic img2img starts at
x_s = sqrt(a_s) z_in + sqrt(1 - a_s) e, and ends at z_out if the noise all the way is e' = e + r (z_in - z_out),
r = sqrt(a_s / (1 - a_s)). So x_t = sqrt(a_t) z_out + sqrt(1 - a_t) e' for every t up to s, and it stays an ordinary
Stable Diffusion pipeline: only the noise is another.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTokenizer

from training.data import read_records, shard_paths
from training.latents import SPLITS, latents_path, shards_of
from training.settings import TwinSettings
from training.text import token_ids
from training.twins import GROUP, PAINTINGS, SAYABLE, Twin, needed

TIMES = 1000
RECOLOUR = ("time", "season", "weather")


def bits_of(names: set[str] | tuple[str, ...]) -> int:
    return sum(1 << SAYABLE.index(name) for name in names)


@dataclass(frozen=True)
class Lesson:
    """One sample's places in the latents, its caption's place among the target's, and the strength it starts at (None
    for a plain sample).
    """

    wanted: int
    given: int
    caption: int
    strength: float | None


class Lessons:
    """All encoded groups: `latents` (N, 4, 64, 64) float16 unscaled, `ids` (N, captions, tokens) int16."""

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer, tokens: int) -> None:
        encoded, records = [], []
        for split in SPLITS:
            for index in shards_of(folder, split):
                path = latents_path(folder, split, index)
                if path.exists():
                    encoded.append(np.load(path))
                    records += read_records(shard_paths(folder, split, index)[1])
        if not encoded:
            raise FileNotFoundError(f"no latents in {folder}: encode the pictures first")
        whole = len(records) - len(records) % GROUP
        self.latents = torch.from_numpy(np.concatenate(encoded)[:whole])
        self.records: list[Twin] = records[:whole]
        count = max(len(record.captions) for record in records)
        texts = [text for record in self.records for text in (record.captions or ("",) * count)]
        self.ids = token_ids(tokenizer, texts, tokens).view(whole, count, tokens).to(torch.int16)
        self.says = np.array([[bits_of(names) for names in (r.says or ((),) * count)] for r in self.records])
        self.needs = np.zeros((whole // GROUP, GROUP, PAINTINGS), np.uint8)
        for group in range(whole // GROUP):
            twins = self.records[group * GROUP : (group + 1) * GROUP]
            for i, given in enumerate(twins):
                for j in range(PAINTINGS):
                    self.needs[group, i, j] = bits_of(needed(given, twins[j]))

    def __len__(self) -> int:
        """Groups."""
        return len(self.needs)

    def draw(self, rng: np.random.Generator, twin: bool, settings: TwinSettings) -> Lesson:
        """By chance; a twin's caption names what differs, where one does."""
        group, wanted = int(rng.integers(len(self))), int(rng.integers(PAINTINGS))
        start = group * GROUP
        if not twin:
            return Lesson(start + wanted, start + wanted, int(rng.integers(self.ids.shape[1])), None)
        if rng.random() < settings.sketched:
            given = int(rng.integers(PAINTINGS, GROUP))
        else:
            given = (wanted + int(rng.integers(1, PAINTINGS))) % PAINTINGS
        need = int(self.needs[group, given, wanted])
        says = self.says[start + wanted]
        fitting = np.flatnonzero((says & need) == need)
        caption = rng.choice(fitting) if len(fitting) else np.bitwise_count(says & need).argmax()
        low, high = settings.strengths
        if need & bits_of(RECOLOUR):
            low = max(low, settings.recolour_from)
        return Lesson(start + wanted, start + given, int(caption), float(rng.uniform(low, high)))


def starting_noise(
    noise: torch.Tensor, given: torch.Tensor, wanted: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """The noise that leads from `wanted` to where img2img starts with `given`, (B, 4, H, W) each.

    `start` (B,) is the schedule's cumulative product of alphas at the starts, 0 for a plain sample.
    """
    reach = (start / (1 - start)).sqrt()
    return noise + reach[:, None, None, None] * (given - wanted)
