"""Tens of thousands of wrong requests at a running endpoint: `python -m tests.fuzz --requests 50000 --minutes 60`.

    attacks.py    hypothesis: valid requests, mutated in path, query, headers, body, and as raw bytes
    described.py  schemathesis: what the endpoint's own OpenAPI description allows and forbids
    structures.py hypothesis: PNG and latents files, JSON, chunked bodies, endpoints' descriptions
    page.py       sends these to the whole app, as its page, its API and its clients do
    campaign.py   sends them, judges each answer, and keeps the tally

A few hundred of each run with the other tests, in tests/endpoint/test_fuzz.py.
"""
