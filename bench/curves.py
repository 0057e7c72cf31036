"""`python -m bench.curves`: what OpenSSL's elliptic curves cost here, as a floor under Web Push.

Each message to a new subscription needs a fresh key pair and one ECDH with it (RFC 8291 section 3.1). Both through
`cryptography`, with the subscriber's point already loaded, and nothing else.
"""

from __future__ import annotations

import json
import time
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec

PORTION = 200


def main(seconds: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 1.0) -> None:
    """Print one line of JSON: microseconds of CPU for a key generation and an ECDH."""
    subscriber = ec.generate_private_key(ec.SECP256R1()).public_key()
    done, began = 0, time.process_time()
    while done == 0 or time.process_time() - began < seconds:
        for _ in range(PORTION):
            ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), subscriber)
        done += PORTION
    print(json.dumps({"cpu_us": (time.process_time() - began) / done * 1e6}), flush=True)


if __name__ == "__main__":
    typer.run(main)
