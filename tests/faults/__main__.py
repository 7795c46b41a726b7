"""`python -m tests.faults [--write]`: tries every fault and prints the table, or writes it into docs/faults.md."""

from __future__ import annotations

import argparse
import sys

from starlette.applications import Starlette

from backend.settings import Settings
from backend.studio import Studio
from tests.conftest import small_picture
from tests.faults.matrix import FAULTS
from tests.faults.outcome import try_all
from tests.faults.table import DOC, replaced, table
from tests.serving import serve


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"Write the table into {DOC.name}.")
    options = parser.parse_args()
    studio = Studio(Settings(device="cpu", model="builtin"))
    with serve(Starlette(routes=studio.routes())) as url:
        studio.self_url = url
        made = table(try_all(FAULTS, studio, small_picture()))
    if options.write:
        DOC.write_text(replaced(DOC.read_text(), made))
    else:
        print(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
