"""The procedural scene painter: `paint(rng)` gives a picture and its labels, `captions.describe` words
for them.
"""
