"""How the built-in model is made: paint scenes, train a small VAE and a small UNet on them, export,
measure.
"""
