"""One line of the evaluation's table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """`met` is None where there is no aim."""

    name: str
    figure: str
    aim: str = ""
    met: bool | None = None


def table(rows: list[Row]) -> str:
    """Markdown."""
    verdicts = {None: "", True: "met", False: "**missed**"}
    lines = ["| | measured | aim | |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.figure} | {row.aim} | {verdicts[row.met]} |" for row in rows]
    return "\n".join(lines)
