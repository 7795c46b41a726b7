"""Commands that remake every figure the README and the notes quote; each prints JSON last."""
