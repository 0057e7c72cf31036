"""h2load: nghttp2's load generator as it comes, with one connection: what a client in C costs that keeps nothing."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import partial

from bench.peers import workload

STREAMS = 1000


def send(work: workload.Workload, targets: Sequence[str]) -> int:
    with tempfile.NamedTemporaryFile("w", suffix=".uris") as uris:
        uris.writelines(f"{work.origin}/3/device/{target}\n" for target in targets)
        uris.flush()
        command = ["h2load", "-n", str(len(targets)), "-c", "1", "-t", "1", "-m", str(STREAMS), "-i", uris.name]
        command += ["-d", os.environ["PAYLOAD"]]
        command += ["-H", f"authorization: bearer {os.environ['PROVIDER_TOKEN']}"]
        command += ["-H", f"apns-topic: {os.environ['TOPIC']}", "-H", "apns-push-type: alert"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"status codes: (\d+) 2xx", said)
    return int(found[1]) if found else 0


def main() -> None:
    work = workload.load()
    workload.measure_driven(partial(send, work, work.warm_up), partial(send, work, work.counted))


if __name__ == "__main__":
    main()
