"""Does an endpoint speak Hybrid Inference, in every dialect of the known clients? `python -m backend.conformance URL`

URL is …/vae/NAME of a Latent Relay server, or the bare address of any other; `--encode` and `--decode` name the two
directions apart, as the public endpoints have them. Every check compares with one plain float decode or encode of the
same server, so nothing about its weights must be known. The same checks are this project's own test suite.

    target.py    the endpoint under test and its reference answers
    check.py     one check, and how it is run
    decode.py, encode.py, refusals.py    the checks, gathered in checks.py

Importing this package does not import torch.
"""
