"""Skies: the light of every hour and weather, then stars, sun, clouds and what falls out of them."""

import numpy as np
from PIL import Image, ImageFilter

from training.painter.canvas import Body, Canvas, Light
from training.painter.noise import COLUMNS, ROWS, SIZE, curve, patch, smoothstep

# Zenith, middle, horizon; several skies for each hour, kept apart enough that a classifier (and a person) can
# name the hour from the picture alone.
SKIES = {
    "day": [
        ((0.20, 0.43, 0.80), (0.45, 0.68, 0.93), (0.82, 0.91, 0.97)),
        ((0.12, 0.36, 0.74), (0.36, 0.62, 0.90), (0.72, 0.87, 0.95)),
        ((0.30, 0.58, 0.86), (0.56, 0.78, 0.93), (0.90, 0.94, 0.92)),
    ],
    "sunset": [
        ((0.24, 0.14, 0.36), (0.82, 0.34, 0.28), (1.00, 0.70, 0.28)),
        ((0.30, 0.20, 0.42), (0.94, 0.48, 0.26), (1.00, 0.82, 0.42)),
        ((0.34, 0.12, 0.28), (0.88, 0.28, 0.20), (1.00, 0.58, 0.18)),
    ],
    "sunrise": [
        ((0.46, 0.62, 0.84), (0.95, 0.78, 0.76), (1.00, 0.93, 0.74)),
        ((0.56, 0.64, 0.86), (0.98, 0.76, 0.74), (1.00, 0.90, 0.70)),
    ],
    "dusk": [
        ((0.10, 0.12, 0.34), (0.30, 0.28, 0.54), (0.66, 0.46, 0.60)),
        ((0.10, 0.16, 0.38), (0.24, 0.32, 0.58), (0.58, 0.52, 0.66)),
    ],
    "night": [
        ((0.03, 0.04, 0.14), (0.07, 0.12, 0.30), (0.17, 0.26, 0.46)),
        ((0.02, 0.04, 0.11), (0.06, 0.10, 0.24), (0.14, 0.21, 0.38)),
        ((0.05, 0.04, 0.18), (0.13, 0.12, 0.34), (0.24, 0.24, 0.48)),
    ],
}
ENCHANTED = {
    "day": [
        ((0.10, 0.42, 0.62), (0.36, 0.74, 0.80), (0.98, 0.90, 0.78)),
        ((0.34, 0.30, 0.72), (0.66, 0.56, 0.90), (0.98, 0.82, 0.92)),
    ],
    "sunset": [
        ((0.26, 0.07, 0.40), (0.78, 0.25, 0.52), (1.00, 0.62, 0.40)),
        ((0.30, 0.05, 0.30), (0.88, 0.28, 0.36), (1.00, 0.76, 0.38)),
    ],
    "sunrise": [((0.52, 0.56, 0.90), (0.96, 0.74, 0.86), (1.00, 0.92, 0.80))],
    "dusk": [
        ((0.14, 0.06, 0.38), (0.38, 0.22, 0.66), (0.80, 0.44, 0.78)),
        ((0.06, 0.12, 0.40), (0.16, 0.34, 0.62), (0.42, 0.62, 0.80)),
    ],
    "night": [
        ((0.05, 0.03, 0.18), (0.14, 0.10, 0.38), (0.30, 0.26, 0.56)),
        ((0.02, 0.07, 0.16), (0.05, 0.19, 0.32), (0.14, 0.40, 0.48)),
    ],
}
# Ambient light, then what the sun or moon adds on lit slopes.
LIGHTS = {
    "day": ((0.50, 0.56, 0.66), (0.62, 0.58, 0.48)),
    "sunset": ((0.42, 0.32, 0.38), (0.85, 0.46, 0.22)),
    "sunrise": ((0.54, 0.50, 0.54), (0.62, 0.48, 0.38)),
    "dusk": ((0.26, 0.27, 0.42), (0.28, 0.22, 0.28)),
    "night": ((0.25, 0.31, 0.50), (0.26, 0.31, 0.42)),
}
GREY_OF_STORM = ((0.15, 0.17, 0.22), (0.30, 0.33, 0.38), (0.55, 0.57, 0.58))
GREY_OF_FOG = ((0.64, 0.68, 0.72), (0.76, 0.79, 0.81), (0.87, 0.88, 0.87))
BRIGHTNESS_OF_WEATHER = {"day": 1.0, "sunset": 0.85, "sunrise": 0.95, "dusk": 0.55, "night": 0.36}

CHANCE_OF_BODY = 0.55
CHANCE_OF_RAYS = 0.5  # in a flat drawing
BODY_COLOURS = {
    "day": (1.0, 0.98, 0.86),
    "sunset": (1.0, 0.88, 0.55),
    "sunrise": (1.0, 0.95, 0.78),
    "dusk": (0.95, 0.95, 0.90),
    "night": (0.95, 0.95, 0.90),
}


def light_of(rng: np.random.Generator, time: str, weather: str, enchanted: bool) -> Light:
    """The light of an hour, greyed by storm or fog."""
    table = ENCHANTED if enchanted else SKIES
    sky = np.array(table[time][rng.integers(len(table[time]))], np.float32)
    sky = sky + rng.normal(0, 0.025, sky.shape).astype(np.float32)
    ambient, direct = (np.array(colour, np.float32) for colour in LIGHTS[time])
    brightness = BRIGHTNESS_OF_WEATHER[time]
    if weather == "storm":
        sky = sky * 0.22 + np.array(GREY_OF_STORM, np.float32) * 0.78 * brightness
        ambient, direct = ambient * 0.8, direct * 0.25
    elif weather == "fog":
        sky = sky * 0.35 + np.array(GREY_OF_FOG, np.float32) * 0.65 * brightness
        ambient, direct = ambient * 1.05, direct * 0.3
    sky = np.clip(sky, 0, 1)
    return Light(sky[0], sky[1], sky[2], ambient, direct)


def paint_sky(canvas: Canvas, time: str, weather: str, low_sun: bool) -> None:
    canvas.fill_sky()
    clear_enough = weather in ("clear", "cloudy")
    body, fair_clouds = canvas.chance(CHANCE_OF_BODY), canvas.chance(0.35)
    with canvas.by_look():
        if time == "night" and clear_enough:
            paint_stars(canvas)
            if canvas.chance(0.3):
                paint_aurora(canvas)
    with canvas.part():
        if body and clear_enough:
            paint_body(canvas, time, low_sun)
    with canvas.part():
        if weather in ("storm", "cloudy") or (weather == "clear" and fair_clouds):
            paint_clouds(canvas, time, weather)
    with canvas.by_look():
        if weather == "storm" and canvas.chance(0.45):
            paint_lightning(canvas)


def paint_stars(canvas: Canvas) -> None:
    rng = canvas.rng
    count = int(rng.integers(50, 130))
    row = (rng.random(count) ** 1.3 * canvas.horizon * 0.95).astype(int)
    column = rng.integers(1, SIZE - 2, count)
    brightness = rng.uniform(0.45, 1, count).astype(np.float32)[:, None]
    canvas.pixels[row, column] += brightness * 0.8
    big = brightness[:, 0] > 0.7
    for down, right in ((0, 1), (1, 0), (1, 1)):
        canvas.pixels[row[big] + down, column[big] + right] += 0.6
    canvas.note("stars")


def paint_aurora(canvas: Canvas) -> None:
    foot = canvas.pick([(0.15, 0.9, 0.55), (0.2, 0.8, 0.8), (0.2, 0.95, 0.4)])
    head = canvas.pick([(0.5, 0.2, 0.8), (0.1, 0.6, 0.9), (0.6, 0.3, 0.9)])
    foot, head = np.array(foot, np.float32), np.array(head, np.float32)
    for _ in range(canvas.rng.integers(1, 3)):
        base = canvas.horizon * (canvas.between(0.5, 0.8) + curve(canvas.rng, 1.2, 2) * 0.2)
        rise = (base[None] - ROWS) / (canvas.horizon * canvas.between(0.4, 0.6))
        glow = np.where(rise > 0, np.exp(-np.maximum(rise, 0) * 2.6) * smoothstep(rise, 0, 0.08), 0)
        glow = np.clip(glow * (0.75 + 0.25 * curve(canvas.rng, 9, 2)[None]), 0, 1)
        share = np.clip(rise, 0, 1)[..., None]
        canvas.pixels += (foot * (1 - share) + head * share) * glow[..., None] * 0.9
    canvas.note("aurora")


def paint_body(canvas: Canvas, time: str, low: bool) -> None:
    """The sun, or by night the moon; `low` above the horizon, or high up."""
    x = canvas.between(0.12, 0.88) * SIZE
    y = canvas.horizon * (canvas.between(0.55, 0.9) if low else canvas.between(0.14, 0.5))
    radius = canvas.between(9, 18)
    colour = np.array(BODY_COLOURS[time], np.float32)
    moon = time in ("dusk", "night")
    distance = np.hypot(COLUMNS - x, ROWS - y)
    if not canvas.flat:
        glow = np.exp(-distance / (radius * (2.2 if moon else 4.0))) * (0.4 if moon else 0.7)
        canvas.pixels += (colour - canvas.pixels * 0.3) * glow[..., None]
    disc = smoothstep(radius - distance, -1, 1)
    crescent = canvas.chance(0.3) and moon
    if crescent:
        offset = radius * canvas.between(0.4, 0.7)
        disc = disc * (
            1 - smoothstep(radius - np.hypot(COLUMNS - x - offset, ROWS - y + offset * 0.3), -1, 1)
        )
    with canvas.part("crescent" if crescent else "moon" if moon else "sun"):
        if canvas.flat and not moon:
            colour = np.array((1.0, 0.88, 0.32), np.float32)
            if canvas.chance(CHANCE_OF_RAYS):
                canvas.lay(colour, rays(canvas, x, y, radius))
        canvas.lay(colour, disc)
    canvas.body = Body(x, y, radius, colour)
    canvas.lit_from = 1 if x > SIZE / 2 else -1


def rays(canvas: Canvas, x: float, y: float, radius: float) -> np.ndarray:
    """The strokes that a child puts around the sun, as a mask."""
    count, turn, reach = int(canvas.rng.integers(8, 15)), canvas.between(0, 1), canvas.between(1.7, 2.6)
    strokes = []
    for angle in (np.arange(count) + turn) / count * 2 * np.pi:
        across, down = np.cos(angle) * radius, np.sin(angle) * radius
        strokes.append([(x + across * 1.3, y + down * 1.3), (x + across * reach, y + down * reach)])
    return canvas.lines(strokes, max(2, int(radius / 4)))


def cloud_colours(canvas: Canvas, time: str, weather: str) -> tuple[np.ndarray, np.ndarray]:
    """The lit and the shaded side."""
    light = canvas.light
    if weather == "storm":
        return light.horizon * 0.95, light.zenith * 0.75
    if time == "night":
        return light.horizon * 1.35, light.middle * 0.8
    if time == "day":
        return np.ones(3, np.float32), light.middle * 0.5 + 0.36
    return np.clip(light.horizon * 1.08 + 0.05, 0, 1), light.middle * 0.55 + light.zenith * 0.35


def paint_clouds(canvas: Canvas, time: str, weather: str) -> None:
    """Heaps here and there, or a cover of cloud; fair weather has heaps, a storm is covered."""
    lit, dark = cloud_colours(canvas, time, weather)
    heaps, field = canvas.chance(0.5), patch(canvas.rng, "cloud" if canvas.chance(0.5) else "soft")
    field = field * 0.9 + patch(canvas.rng, "rough") * 0.25
    softness, edge = canvas.between(0.5, 0.9), canvas.between(-0.15, 0.2)
    if (heaps and weather == "cloudy") or weather == "clear":
        field = heaped(canvas, weather)
        cover = smoothstep(field, 0.0, 0.25 * canvas.texture + 0.05)
    elif canvas.flat:
        field = heaped(canvas, weather)
        cover = smoothstep(field, -0.05, 0.05)
    else:
        threshold = -0.7 if weather == "storm" else edge
        cover = smoothstep(field, threshold, threshold + softness)
        cover = cover * smoothstep(canvas.horizon + 6 - ROWS, 0, 60)
    if canvas.flat:
        canvas.lay(lit if weather != "storm" else dark, cover)
    else:
        # Clouds are lit from the sun's side, and from below when it stands low.
        down = -5 if time in ("sunset", "sunrise") else 5
        facing = np.zeros_like(field)
        side = 3 * canvas.lit_from
        facing[5:-5, 5:-5] = field[5:-5, 5:-5] - field[5 - down : SIZE - 5 - down, 5 + side : SIZE - 5 + side]
        facing = np.clip(0.55 + facing * 0.6, 0, 1)[..., None]
        canvas.lay(dark + (lit - dark) * facing, cover * 0.95)
    canvas.note("clouds")


def heaped(canvas: Canvas, weather: str) -> np.ndarray:
    """Heaps of cloud as a field, above 0 where one is."""
    field = np.full((SIZE, SIZE), -1.0, np.float32)
    for _ in range(canvas.rng.integers(1, 3) if weather == "clear" else canvas.rng.integers(4, 7)):
        x, width = canvas.between(0, SIZE), canvas.between(20, 40)
        y = canvas.between(0.1, 0.55) * canvas.horizon
        for k in (-1.2, -0.4, 0.4, 1.2):
            across = (COLUMNS - x - k * width * 0.5) / (width * 0.45)
            down = (ROWS - y - canvas.between(-4, 4)) / (width * 0.32)
            field = np.maximum(field, 1 - across**2 - down**2)
    return field + canvas.noise("rough") * 0.22


def paint_lightning(canvas: Canvas) -> None:
    x, y = canvas.between(0.15, 0.85) * SIZE, 0.0
    bolt = [(x, y)]
    while y < canvas.horizon * 0.95:
        x, y = x + canvas.rng.normal(0, 9), y + canvas.between(8, 20)
        bolt.append((x, y))
    mask = canvas.lines([bolt], 3)
    halo = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(8))
    canvas.pixels += (np.asarray(halo, np.float32) / 255 * 1.2)[..., None] * np.array(
        (0.7, 0.75, 1), np.float32
    )
    canvas.lay((0.97, 0.97, 1), mask)
    canvas.note("lightning")


def paint_mist(canvas: Canvas, weather: str) -> None:
    """Fog lies over the land in banks; drawn after it."""
    if weather == "fog":
        depth = 0.68 - 0.38 * smoothstep(ROWS, canvas.horizon, SIZE * 1.0)
        bank = np.clip(depth + 0.10 * canvas.noise("cloud"), 0, 0.9) * smoothstep(
            ROWS, -40, canvas.horizon * 0.7
        )
        canvas.lay(np.clip(canvas.light.haze * 1.03, 0, 1), bank)


def paint_rain(canvas: Canvas, weather: str) -> None:
    if canvas.chance(0.5) and weather == "storm" and not canvas.flat:
        slant = canvas.between(-0.35, 0.35)
        drops = []
        for _ in range(130):
            x, y, length = canvas.between(-20, SIZE + 20), canvas.between(-10, SIZE), canvas.between(9, 18)
            drops.append([(x, y), (x + slant * length, y + length)])
        canvas.lay(np.clip(canvas.light.horizon * 1.3, 0, 1), canvas.lines(drops, 1) * 0.38)
        canvas.note("rain")
