"""What a scene is of: the labels that the painter obeys, the captions say, and the evaluation judges."""

from dataclasses import dataclass

TERRAINS = ("mountains", "hills", "sea", "desert", "forest", "city")
TIMES = ("day", "sunrise", "sunset", "dusk", "night")
WEATHERS = ("clear", "cloudy", "fog", "storm")
SEASONS = ("spring", "summer", "autumn", "winter")
STYLES = ("photo", "digital", "oil", "watercolor", "pencil", "flat", "fantasy")

# How often each is painted. Mountains lead because people draw mountains; day and sunset because they
# type them.
WEIGHTS = {
    "terrain": (40, 17, 18, 8, 10, 7),
    "time": (38, 9, 27, 10, 16),
    "weather": (58, 22, 10, 10),
    "season": (18, 38, 22, 22),
    "style": (19, 20, 18, 8, 6, 11, 18),
}
CHOICES = {"terrain": TERRAINS, "time": TIMES, "weather": WEATHERS, "season": SEASONS, "style": STYLES}

# Where nothing green grows, the picture cannot show the season: it is neither captioned nor judged there.
SEASONAL_TERRAINS = ("mountains", "hills", "forest")


@dataclass(frozen=True)
class Attributes:
    """`things` are the objects that were painted, in no particular order; each has words in `captions`."""

    terrain: str
    time: str
    weather: str
    season: str
    style: str
    things: tuple[str, ...] = ()

    @property
    def shows_season(self) -> bool:
        return self.terrain in SEASONAL_TERRAINS

    @property
    def shows_time(self) -> bool:
        """A pencil drawing has no colours to tell the hour by, only night from day."""
        return self.style != "pencil"
