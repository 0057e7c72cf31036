"""`python -m bench.simulators`: simulators in a process of their own."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
import uvloop

from . import configuration
from .certificates import Certificates
from .control import Control
from .credentials import Credentials
from .script import Script
from .simulator import SERVICES, Mode, Name, Options, start

MODES = ("strict", "quick", "fast")


def main(
    folder: Annotated[Path, typer.Option(help="Certificates, credentials and settings go here.")],
    services: Annotated[str, typer.Option(help="Which, with commas between.")] = ",".join(SERVICES),
    mode: Annotated[
        str, typer.Option(help="strict (library h2), quick (as strict, frames by hand) or fast (answers only).")
    ] = "strict",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    app: Annotated[str, typer.Option(help="Name of the app in the TOML fragment.")] = "shop",
    ports_file: Annotated[
        Path | None, typer.Option(help="Where to describe what runs; default simulators.json in the folder.")
    ] = None,
    script: Annotated[Path | None, typer.Option(help="JSON: service -> script, or one script for all.")] = None,
    shares: Annotated[
        str, typer.Option(help="Instead: shares of targets, such as unregistered=0.05,throttled=0.05.")
    ] = "",
    attempts: Annotated[int, typer.Option(help="How often a target of --shares gets a transient answer.")] = 1,
    seed: Annotated[int, typer.Option(help="Chooses the shares.")] = 0,
    rtt: Annotated[float, typer.Option(help="Milliseconds that every answer takes.")] = 0.0,
    streams: Annotated[int | None, typer.Option(min=1, help="MAX_CONCURRENT_STREAMS, with --mode fast.")] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="SERVICE=PROFILE, such as apns=apple or webpush=mozilla.")
    ] = None,
    origins: Annotated[int, typer.Option(help="Listening ports of Web Push.")] = 1,
    decrypt_every: Annotated[int, typer.Option(help="Web Push decrypts one message of so many; 0: none.")] = 1,
    pin: Annotated[int | None, typer.Option(help="Run on this CPU only.")] = None,
) -> None:
    """Run simulators until SIGTERM or Ctrl-C. Prints one line of JSON when they are ready."""
    chosen = [name.strip() for name in services.split(",")]
    for name in chosen:
        if name not in SERVICES:
            raise typer.BadParameter(f"{name!r} is no service: take from {', '.join(SERVICES)}")
    if mode not in MODES:
        raise typer.BadParameter(f"{mode!r} is no mode: take one of {', '.join(MODES)}")
    if pin is not None:
        os.sched_setaffinity(0, {pin})
    profiles = dict(item.partition("=")[::2] for item in profile or ())
    options = {
        name: Options(
            mode=cast(Mode, mode),
            script=_script(name, script, shares, attempts, seed),
            profile=profiles.get(name),
            rtt=rtt / 1000,
            streams=streams,
            decrypt_every=decrypt_every,
        )
        for name in chosen
    }
    try:
        uvloop.run(_serve(options, folder.resolve(), host, app, ports_file or folder / "simulators.json", origins))
    except (KeyError, ValueError) as error:
        raise typer.BadParameter(str(error.args[0])) from None


def _script(name: str, path: Path | None, shares: str, attempts: int, seed: int) -> Script:
    if shares:
        parts = (item.partition("=")[::2] for item in shares.split(","))
        return Script.shares({word: float(share) for word, share in parts}, seed, attempts=attempts)
    if path is None:
        return Script(seed=seed)
    document = json.loads(path.read_text())
    chosen = document.get(name, {}) if "rules" not in document else document
    return msgspec.convert(chosen, Script)


async def _serve(
    options: dict[str, Options], folder: Path, host: str, app: str, ports_file: Path, origins: int
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tls, credentials = Certificates.make(folder), Credentials.make(folder)
    simulators = [
        await start(cast(Name, name), tls=tls, credentials=credentials, host=host, origins=origins, options=chosen)
        for name, chosen in options.items()
    ]
    control = Control(simulators)
    port = await control.start()
    mode = next(iter(options.values())).mode
    described = configuration.document(simulators, tls, credentials, mode=mode, control=f"http://127.0.0.1:{port}")
    configuration.write(ports_file, app, described)
    gc.freeze()
    print(json.dumps(configuration.public(described)), flush=True)
    await stop.wait()
    await control.close()
    for simulator in simulators:
        await simulator.close()


if __name__ == "__main__":
    typer.run(main)
