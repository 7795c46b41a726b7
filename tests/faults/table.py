"""docs/faults.md from the outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.faults.outcome import Outcome, StageOutcome, as_in_the_docs

DOC = Path(__file__).parent.parent.parent / "docs" / "faults.md"
BEGIN, END = "<!-- made by python -m tests.faults --write -->", "<!-- end -->"


def table(outcomes: Mapping[str, Outcome]) -> str:
    """One row a fault; what a stage of encode reads stands below decode's where it differs."""
    rows = [
        "| What goes wrong | What the person reads | Posted again | `auto`, without memory here |",
        "| --- | --- | --- | --- |",
    ]
    for title, outcome in outcomes.items():
        said = {stage: _said(found) for stage, found in outcome.stage.items()}
        first = said.get("decode", said.get("encode", ""))
        text = first if len(set(said.values())) == 1 else f"{first}<br>Encoding: {said['encode']}"
        some = next(iter(outcome.stage.values()))
        rows.append(f"| {title} | {text} | {_again(some)} | {_auto(outcome)} |")
    return "\n".join(rows)


def _said(found: StageOutcome) -> str:
    if found.error is None:
        return "Nothing but the wait: it succeeds."
    return as_in_the_docs(found.error.sentence).replace("|", "\\|").replace("<", "&lt;")


def _again(found: StageOutcome) -> str:
    if found.tries is None:
        return "yes" if found.error is not None and "Nothing answers" in str(found.error) else "no"
    if found.error is None:
        return f"yes, answered at post {found.tries}"
    return "no" if found.tries == 1 else "yes, until the deadline" if found.tries > 2 else "yes, once"


def _auto(outcome: Outcome) -> str:
    mode = outcome.auto.mode
    return "stays remote" if mode == "remote" else f"falls to {mode}, and quotes the sentence"


def replaced(document: str, made: str) -> str:
    """The document with the table between its marks made anew."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"
