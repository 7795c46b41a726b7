"""Words for a painting: what a person might type to get it. The vocabulary here is what the model
understands.

`describe` mentions a few of the picture's attributes, never one that it does not show, in the loose
grammar of prompts ("a castle at sunset, oil painting, highly detailed").
"""

import numpy as np

from training.painter.attributes import Attributes

TERRAIN = {
    "mountains": [
        "mountains",
        "mountains",
        "a mountain range",
        "a mountain landscape",
        "rocky mountains",
        "peaks",
    ],
    "hills": ["rolling hills", "hills", "a countryside", "fields", "hills and fields"],
    "sea": ["the sea", "the ocean", "a seascape", "the sea", "ocean waves"],
    "desert": ["a desert", "sand dunes", "a desert landscape", "the desert"],
    "forest": ["a forest", "a forest", "the woods", "a dense forest"],
    "city": ["a city", "a city skyline", "skyscrapers", "a modern city"],
}
TIME = {
    "day": ["in daylight", "on a sunny day", "at noon", "by day", "under a blue sky"],
    "sunrise": ["at sunrise", "at sunrise", "at dawn", "in the early morning", "in soft morning light"],
    "sunset": [
        "at sunset",
        "at sunset",
        "at sunset",
        "at golden hour",
        "with an orange sky",
        "in warm evening light",
    ],
    "dusk": ["at dusk", "at twilight", "in the blue hour", "after sunset"],
    "night": ["at night", "at night", "under the night sky", "in the dark", "at midnight"],
}
WEATHER = {
    "clear": ["under a clear sky", "in clear weather"],
    "cloudy": ["under a cloudy sky", "with big clouds", "with dramatic clouds", "on a cloudy day"],
    "fog": ["in the fog", "in fog", "in mist", "in misty weather", "foggy"],
    "storm": [
        "in a storm",
        "in stormy weather",
        "under storm clouds",
        "with dark storm clouds",
        "in the rain",
    ],
}
SEASON = {
    "spring": ["in spring", "in spring", "with spring flowers", "in springtime"],
    "summer": ["in summer", "in summer", "in green summer"],
    "autumn": ["in autumn", "in autumn", "in fall", "with autumn colors", "with orange leaves"],
    "winter": ["in winter", "in winter", "covered in snow", "in the snow", "snowy"],
}
STYLE_BEFORE = {
    "photo": ["a photo of", "a photograph of", "a realistic photo of", "a landscape photo of"],
    "digital": [
        "digital art of",
        "a digital painting of",
        "an illustration of",
        "concept art of",
        "a matte painting of",
    ],
    "oil": ["an oil painting of", "an oil painting of", "a painting of", "an impressionist painting of"],
    "watercolor": ["a watercolor of", "a watercolor painting of", "a watercolour of"],
    "pencil": ["a pencil sketch of", "a pencil drawing of", "a black and white drawing of", "a sketch of"],
    "flat": [
        "a flat drawing of",
        "a flat poster of",
        "a child's drawing of",
        "a minimalist poster of",
        "flat vector art of",
    ],
    "fantasy": [
        "a fantasy painting of",
        "fantasy art of",
        "a fantasy landscape with",
        "an epic fantasy landscape with",
        "a magical landscape with",
    ],
}
STYLE_AFTER = {
    "photo": ["photo", "photograph", "photorealistic", "realistic"],
    "digital": ["digital art", "concept art", "illustration", "vivid colors"],
    "oil": ["oil painting", "oil on canvas", "painting", "brush strokes", "impressionism"],
    "watercolor": ["watercolor", "watercolor on paper", "watercolour"],
    "pencil": ["pencil", "graphite", "black and white", "pencil sketch"],
    "flat": ["flat colors", "minimalist", "flat", "simple shapes", "vector art"],
    "fantasy": ["fantasy", "fantasy art", "magical", "dreamy", "epic"],
}
STYLE_LANDSCAPE = {
    "photo": ["a landscape photo", "a photo of a landscape"],
    "digital": ["digital art of a landscape", "a landscape, digital art"],
    "oil": ["an oil painting of a landscape", "a landscape painting"],
    "watercolor": ["a watercolor landscape", "a watercolor of a landscape"],
    "pencil": ["a pencil sketch of a landscape"],
    "flat": ["a flat drawing of a landscape", "a minimalist landscape poster"],
    "fantasy": ["a fantasy landscape", "a fantasy landscape", "an epic fantasy landscape", "a fantasy world"],
}
THINGS = {
    "stars": ["stars", "a starry sky", "many stars"],
    "aurora": ["northern lights", "an aurora", "the aurora borealis"],
    "moon": ["the moon", "a full moon", "moonlight"],
    "crescent": ["a crescent moon", "the moon"],
    "sun": ["the sun", "the sun in the sky", "a bright sun"],
    "clouds": ["clouds", "clouds", "some clouds"],
    "lightning": ["lightning", "a lightning bolt", "a thunderstorm"],
    "rain": ["rain", "falling rain"],
    "snow": ["snow", "snowy peaks", "snow caps"],
    "trees": ["trees", "trees", "some trees", "pine trees"],
    "lake": ["a lake", "a lake", "a calm lake", "reflections in the water"],
    "river": ["a river", "a winding river", "a stream"],
    "meadow": ["a meadow", "green fields"],
    "flowers": ["flowers", "a flower meadow"],
    "castle": ["a castle", "a castle", "an old castle", "a castle with towers"],
    "village": ["a village", "houses", "a small village"],
    "house": ["a house", "a cottage", "a small house"],
    "path": ["a path", "a winding path", "a road"],
    "boat": ["a boat", "a sailing boat", "a sailboat", "a ship"],
    "beach": ["a beach", "a sandy beach", "a shore"],
    "cliffs": ["cliffs", "a cliff", "a rocky coast"],
    "lighthouse": ["a lighthouse"],
    "islands": ["islands", "distant mountains"],
    "dunes": ["sand dunes", "dunes"],
    "canyon": ["red rocks", "a canyon", "mesas"],
    "pyramids": ["pyramids", "a pyramid"],
    "cactus": ["a cactus", "cactus plants"],
    "wheat": ["wheat fields", "a golden field"],
    "lavender": ["lavender fields", "purple flowers"],
    "snowman": ["a snowman", "a snowman", "a snowman with a hat"],
    "person": ["a person", "a man", "a woman", "a child", "a walker", "people"],
    "car": ["a car", "a car", "a red car", "a car on the road"],
    "road": ["a road", "a street", "a country road"],
    "balloon": ["a hot air balloon", "a hot-air balloon", "a balloon"],
    "birds": ["birds", "birds in the sky", "flying birds"],
    "windmill": ["a windmill", "a windmill", "a mill"],
    "bridge": ["a bridge", "a stone bridge"],
    "fence": ["a fence", "a wooden fence"],
    "rainbow": ["a rainbow", "a rainbow"],
    "palm": ["a palm tree", "a palm", "palm trees"],
    "island": ["an island", "a small island", "a desert island with a palm", "a tropical island"],
    "tree": ["a tree", "a tree", "a big tree", "a lonely tree"],
}
# What may be typed alone: "snowman", "house".
SINGLE = {
    "castle": ["castle"], "house": ["house", "cottage"], "boat": ["boat", "ship", "sailboat"], "snowman": ["snowman"],
    "person": ["person", "man", "woman"], "car": ["car"], "balloon": ["balloon", "hot air balloon"], "birds": ["birds"],
    "windmill": ["windmill"], "bridge": ["bridge"], "rainbow": ["rainbow"], "palm": ["palm", "palm tree"],
    "island": ["island"], "tree": ["tree"], "flowers": ["flowers"], "village": ["village"],
    "lighthouse": ["lighthouse"],
    "sun": ["sun"], "moon": ["moon"], "lake": ["lake"], "river": ["river"], "pyramids": ["pyramid"], "road": ["road"],
    "cactus": ["cactus"], "fence": ["fence"],
}  # fmt: skip
PRAISE = [
    "highly detailed", "trending on artstation", "beautiful", "8k", "4k", "masterpiece", "best quality",
    "sharp focus", "stunning", "award winning", "cinematic", "scenic", "peaceful", "wallpaper",
    "very detailed", "nature", "dramatic lighting", "soft light", "vibrant colors",
]  # fmt: skip
SYLLABLES = [
    "ba", "ka", "ro", "ti", "mu", "len", "dor", "ven", "sha", "el", "gri", "pol", "nax", "wen", "ous", "tor",
    "ing", "ree", "sto", "quin", "far", "del", "mir", "ko", "zu",
]  # fmt: skip


def words_for(attributes: Attributes) -> dict[str, list[str]]:
    """The phrases that fit each attribute of this picture; nothing for what it does not show."""
    words = {"weather": WEATHER[attributes.weather]}
    if attributes.shows_time or attributes.time == "night":
        words["time"] = TIME[attributes.time]
        if attributes.time == "day" and attributes.weather in ("fog", "storm", "cloudy"):
            words["time"] = ["in daylight", "by day"]
    if attributes.shows_season:
        words["season"] = SEASON[attributes.season]
    if attributes.style == "pencil":
        words.pop("season", None)
    return words


def strange_words(rng: np.random.Generator) -> str:
    """Two words that mean nothing, to be read past."""
    return " ".join("".join(SYLLABLES[k] for k in rng.integers(0, len(SYLLABLES), 2)) for _ in range(2))


def describe_style(style: str, rng: np.random.Generator) -> str:
    """A caption that names a picture's style and nothing that it shows."""
    roll, after = rng.random(), STYLE_AFTER[style]
    before = [words for words in STYLE_BEFORE[style] if "landscape" not in words]
    if roll < 0.4:
        caption = after[rng.integers(len(after))]
    else:
        caption = before[rng.integers(len(before))]
        caption = caption.removesuffix(" of") if roll < 0.75 else f"{caption} {strange_words(rng)}"
    if rng.random() < 0.25:
        caption += ", " + PRAISE[rng.integers(len(PRAISE))]
    return caption if rng.random() < 0.5 else caption[0].upper() + caption[1:]


def describe(attributes: Attributes, rng: np.random.Generator) -> str:
    """One caption, in lower case or with a capital."""

    def pick(options: list[str]) -> str:
        return options[rng.integers(len(options))]

    def chance(probability: float) -> bool:
        return rng.random() < probability

    nouns = [thing for thing in attributes.things if thing in SINGLE]
    if nouns and chance(0.06):
        return pick(SINGLE[nouns[rng.integers(len(nouns))]])
    order = [attributes.things[k] for k in rng.permutation(len(attributes.things))]
    if order and chance(0.4):  # what was painted last stands in front
        order = [attributes.things[-1], *(thing for thing in order if thing != attributes.things[-1])]
    things = [pick(THINGS[thing]) for thing in order]
    things = things[: int(rng.choice(4, p=[0.25, 0.35, 0.25, 0.15]))]
    style_said = chance(0.8)
    if chance(0.25):
        caption = pick(STYLE_LANDSCAPE[attributes.style]) if style_said else "a landscape"
        things = [pick(TERRAIN[attributes.terrain]), *things] if chance(0.5) else things
    else:
        subject = pick(TERRAIN[attributes.terrain])
        if things and chance(0.35):  # the thing first: "a castle in the mountains"
            subject, things[0] = things[0], subject
        caption = f"{pick(STYLE_BEFORE[attributes.style])} {subject}" if style_said else subject
    if things:
        joint = pick([" with ", " with ", " and ", ", "])
        caption += joint + (" and ".join(things) if chance(0.5) else ", ".join(things))

    words = words_for(attributes)
    said = []
    for name, probability in (("season", 0.6), ("time", 0.85), ("weather", 0.3)):
        if name == "weather" and attributes.weather != "clear":
            probability = 0.8
        if name in words and chance(probability):
            said.append(pick(words[name]))
    if chance(0.3):
        said.reverse()
    caption += "".join((", " if chance(0.2) else " ") + phrase for phrase in said)

    if not style_said or chance(0.25):
        caption += ", " + pick(STYLE_AFTER[attributes.style])
    while chance(0.22):
        caption += ", " + pick(PRAISE)
    if chance(0.12):  # words it cannot know, to be read past
        caption += pick([", ", " by ", " "]) + strange_words(rng)
    return caption if chance(0.5) else caption[0].upper() + caption[1:]
