"""How many pictures at once are fastest on this device: found out on the pictures themselves, not assumed."""

from __future__ import annotations

_GAIN = 0.97
"""A larger batch holds more memory, so it must save at least this share of the time."""


class BatchSize:
    """Starts with one picture and doubles as long as that takes less time a pixel, then stays with the fastest.

    The first batch of each size is not counted: libraries choose their kernels with it.
    """

    def __init__(self, largest: int = 16) -> None:
        self.current = 1
        self._largest = largest
        self._fastest = 1
        self._seconds: float | None = None
        """A pixel, of the fastest."""
        self._warm = False
        self._settled = False

    def took(self, pictures: int, pixels: int, seconds: float) -> None:
        """A batch of `pictures` with `pixels` in all was computed in `seconds`."""
        if self._settled or pictures != self.current:
            return
        if not self._warm:
            self._warm = True
            return
        if self._seconds is not None and seconds / pixels > _GAIN * self._seconds:
            self._settle()
            return
        self._fastest, self._seconds = pictures, seconds / pixels
        if 2 * pictures > self._largest:
            self._settle()
        else:
            self.current, self._warm = 2 * pictures, False

    def too_large(self) -> None:
        """The current one did not fit into memory."""
        self._largest = max(1, self.current // 2)
        self._fastest = min(self._fastest, self._largest)
        self._settle()

    def _settle(self) -> None:
        self.current, self._settled = self._fastest, True
