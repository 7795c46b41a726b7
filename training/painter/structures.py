"""Larger things that stand or lie in a scene: roads, bridges, windmills, fences, palms, and the painter's own house,
castle, tree and boat where they are what a scene is about. `foot` is the row they stand on.
"""

import numpy as np

from training.painter.canvas import Canvas, part
from training.painter.noise import COLUMNS, ROWS, SIZE, curve, smoothstep
from training.painter.terrain import SANDS, winding_band
from training.painter.things import Pen, boat, broadleaf, castle, conifer, house

TIMBER = (0.45, 0.30, 0.18)
LOUD = [
    (0.86, 0.20, 0.16), (0.95, 0.75, 0.18), (0.20, 0.42, 0.78), (0.24, 0.58, 0.34), (0.92, 0.48, 0.16),
    (0.58, 0.28, 0.62), (0.93, 0.93, 0.93), (0.90, 0.45, 0.60),
]  # fmt: skip


@part("road")
def road(canvas: Canvas, row: float, width: float) -> None:
    """A street across the picture with a dashed line."""
    tilt = (np.arange(SIZE) / SIZE - 0.5) * canvas.between(-18, 18)
    top = (row + tilt).astype(np.float32)
    asphalt = canvas.shade(
        np.array((0.34, 0.34, 0.36), np.float32) * (1 + 0.05 * canvas.noise("grain")[..., None]), 0.5
    )
    canvas.lay(asphalt, canvas.below(top) * (1 - canvas.below(top + width)))
    middle = top + width / 2
    dashes = [[(x, middle[x]), (x + 10, middle[min(x + 10, SIZE - 1)])] for x in range(4, SIZE - 4, 24)]
    canvas.lay(canvas.shade(np.array((0.95, 0.95, 0.9), np.float32), 0.7), canvas.lines(dashes, 2))


@part("windmill")
def windmill(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A tower mill with four sails."""
    wall, cap = (
        canvas.pick([(0.90, 0.88, 0.84), (0.70, 0.52, 0.40), (0.80, 0.74, 0.62)]),
        canvas.pick(LOUD[:3]),
    )
    turn = canvas.between(0, np.pi / 2)
    if canvas.symbol("windmill", x, foot, height):
        return
    pen = Pen(canvas, 0.03)
    wide, narrow, top = 0.19 * height, 0.11 * height, foot - 0.72 * height
    pen.polygon([(x - wide, foot), (x - narrow, top), (x, top), (x, foot)], pen.ink(wall, pen.light))
    pen.polygon([(x, foot), (x, top), (x + narrow, top), (x + wide, foot)], pen.ink(wall, pen.dark))
    pen.polygon(
        [(x - narrow * 1.25, top), (x, top - 0.16 * height), (x + narrow * 1.25, top)], pen.ink(cap, 0.6)
    )
    pen.box(x - 0.04 * height, foot - 0.15 * height, x + 0.04 * height, foot, pen.ink(TIMBER, 0.4))
    pen.box(x - 0.03 * height, foot - 0.45 * height, x + 0.03 * height, foot - 0.38 * height, pen.glow)
    for k in range(4):
        angle = turn + k * np.pi / 2
        along = np.array((np.cos(angle), np.sin(angle))) * height * 0.42
        beside = np.array((-along[1], along[0])) * 0.22
        hub = np.array((x, top - 0.02 * height))
        corners = [hub + along * 0.2, hub + along, hub + along + beside, hub + along * 0.2 + beside]
        pen.polygon([tuple(corner) for corner in corners], pen.ink((0.93, 0.91, 0.85), 0.7))
        pen.line([tuple(hub), tuple(hub + along)], max(1.0, 0.018 * height), pen.ink(TIMBER, 0.4))
    pen.finish()


@part("bridge")
def bridge(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A stone bridge of one to three arches across the picture."""
    stone, count = (
        canvas.pick([(0.62, 0.57, 0.52), (0.70, 0.62, 0.50), (0.55, 0.56, 0.60)]),
        int(canvas.rng.integers(1, 4)),
    )
    half = height * canvas.between(0.9, 1.2) * (0.7 + 0.6 * count)
    left, right, deck = x - half, x + half, foot - height * 0.62
    hump = height * canvas.between(0.0, 0.35)
    share = np.clip((COLUMNS[0] - left) / (right - left), 0, 1)
    top = (deck - hump * np.sin(np.pi * share)).astype(np.float32)
    inside = ((left <= COLUMNS) & (right >= COLUMNS)).astype(np.float32)
    mask = canvas.below(top) * (1 - canvas.below(np.full(SIZE, foot, np.float32))) * inside
    span = (right - left) / count
    for k in range(count):
        middle = left + (k + 0.5) * span
        out = ((COLUMNS - middle) / (span * 0.36)) ** 2 + ((ROWS - foot) / (height * 0.5)) ** 2
        mask = mask * smoothstep(out, 0.94, 1.06)
    blocks = np.array(stone, np.float32) * (1 + 0.07 * canvas.noise("grain")[..., None])
    canvas.lay(canvas.shade(blocks, 0.55), mask)
    rail = canvas.below(top - height * 0.1) * (1 - canvas.below(top)) * inside
    canvas.lay(canvas.shade(np.array(stone, np.float32) * 0.9, 0.8), rail)


@part("fence")
def fence(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """Posts with two rails along the ground, from side to side or up to a gap."""
    wood = canvas.pick([(0.93, 0.92, 0.88), TIMBER, (0.58, 0.46, 0.34)])
    if canvas.symbol("fence", x, foot, height):
        return
    pen, step = Pen(canvas, 0.0), height * canvas.between(0.7, 1.1)
    line = foot + curve(canvas.rng, 1.2, 2) * 5
    begin, end = (0, SIZE) if canvas.chance(0.6) else ((0, x) if canvas.chance(0.5) else (x, SIZE))
    posts = np.arange(begin + 3, end - 2, step)
    for up in (0.35, 0.75):
        rail = [(float(p), float(line[int(p)]) - up * height) for p in posts]
        if len(rail) > 1:
            pen.line(rail, 0.13 * height, pen.ink(wood, 0.6))
    for p in posts:
        base = float(line[int(p)])
        pen.box(p - 0.08 * height, base - height, p + 0.08 * height, base, pen.ink(wood, 0.85))
    pen.finish()


@part("palm")
def palm(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A leaning trunk and a crown of fronds."""
    lean = height * canvas.between(-0.28, 0.28)
    count, droop = int(canvas.rng.integers(6, 9)), canvas.between(0.25, 0.5)
    if canvas.symbol("palm", x, foot, height):
        return
    pen = Pen(canvas, 0.0)
    share = np.linspace(0, 1, 8)
    trunk = [(x + lean * s**1.6, foot - height * 0.84 * s) for s in share]
    pen.line(trunk, 0.065 * height, pen.ink((0.50, 0.38, 0.24), 0.6))
    top = np.array(trunk[-1])
    for k in range(count):
        angle = np.pi * (0.02 + 0.96 * k / (count - 1))
        out = np.array((np.cos(angle), -np.sin(angle) * 0.75)) * height * 0.42
        tip = top + out + (0, height * droop * 0.5)
        over, under = top + out * 0.6 - (0, height * 0.05), top + out * 0.55 + (0, height * 0.07)
        light = pen.light if out[0] < 0 else pen.dark
        pen.polygon([tuple(top), tuple(over), tuple(tip), tuple(under)], pen.ink((0.22, 0.48, 0.18), light))
    pen.finish()


@part("island")
def island(canvas: Canvas, x: float, foot: float, height: float) -> None:
    """A small island of sand with a palm or two."""
    half, rise = height * canvas.between(0.7, 1.1), height * canvas.between(0.16, 0.26)
    share = np.clip(1 - ((COLUMNS[0] - x) / half) ** 2, 0, 1)
    top = (foot - rise * np.sqrt(share)).astype(np.float32)
    mask = canvas.below(top) * (1 - canvas.below(np.full(SIZE, foot, np.float32))) * (share > 0)
    sand = np.array(canvas.pick(SANDS), np.float32) * (1 + 0.04 * canvas.noise("grain")[..., None])
    canvas.lay(canvas.shade(sand, 0.7), mask)
    for _ in range(canvas.rng.integers(1, 3)):
        palm(
            canvas,
            x + canvas.between(-0.35, 0.35) * half,
            foot - rise * 0.7,
            height * canvas.between(0.8, 1.1),
        )


@part("road")
def winding_road(canvas: Canvas, _: float, __: float, ___: float) -> None:
    """A grey road winding towards the viewer."""
    mask, _ = winding_band(canvas, canvas.horizon + 6, canvas.between(18, 30))
    canvas.lay(canvas.shade(np.array((0.36, 0.36, 0.38), np.float32), 0.5), mask)


@part("house")
def big_house(canvas: Canvas, x: float, foot: float, height: float, season: str) -> None:
    house(canvas, x, foot, height, 0.0, season)


@part("castle")
def big_castle(canvas: Canvas, x: float, foot: float, height: float) -> None:
    castle(canvas, x, foot, height, 0.0)


@part("tree")
def lone_tree(canvas: Canvas, x: float, foot: float, height: float, season: str) -> None:
    plant = conifer if canvas.chance(0.35) else broadleaf
    plant(canvas, x, foot, height, 0.0, season)


@part("boat")
def big_boat(canvas: Canvas, x: float, foot: float, height: float) -> None:
    boat(canvas, x, foot, height)
