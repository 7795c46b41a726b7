"""What goes wrong with remote stages, against servers that really misbehave: `python -m tests.faults --write`.

    server.py     a real endpoint behind a loopback server that spoils its answers, and worse servers
    matrix.py     the faults, and what each must come to
    outcome.py    one fault tried: as a stage, under a whole run, and with `auto`
    table.py      docs/faults.md from the outcomes

The sentences in docs/faults.md are those that came back; a test fails when the file says others.
"""
