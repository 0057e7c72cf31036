"""What a gateway is configured with to reach the simulators: as JSON for programs, as TOML to include."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import credentials as names
from .certificates import Certificates
from .credentials import Credentials
from .simulator import Simulator


def block(simulator: Simulator, tls: Certificates, credentials: Credentials) -> dict[str, Any]:
    """The settings of `[apps.NAME.PROVIDER]`."""
    endpoint = simulator.endpoints[0]
    own: dict[str, dict[str, Any]] = {
        "apns": {
            "team_id": names.TEAM_ID,
            "key_id": names.KEY_ID,
            "key_file": str(credentials.apns_key_file),
            "topic": names.TOPIC,
            "environment": "production",
            "endpoint": endpoint,
        },
        "fcm": {"service_account_file": str(credentials.service_account_file), "endpoint": endpoint},
        "webpush": {
            "vapid_key_file": str(credentials.vapid_key_file),
            "subject": names.SUBJECT,
            "endpoints": simulator.endpoints,
        },
        "stub": {"key": credentials.stub_key, "endpoint": endpoint},
    }
    return {**own[simulator.name], "ca_file": str(tls.ca_file)}


def document(
    simulators: Sequence[Simulator], tls: Certificates, credentials: Credentials, *, mode: str, control: str
) -> dict[str, Any]:
    """Everything a program needs to know of running simulators."""
    return {
        "pid": os.getpid(),
        "mode": mode,
        "control": control,
        "ca_file": str(tls.ca_file),
        "services": {
            simulator.name: {
                "endpoints": simulator.endpoints,
                "settings": block(simulator, tls, credentials),
                **({"token_uri": simulator.token_uri} if simulator.token_uri else {}),
            }
            for simulator in simulators
        },
    }


def public(described: dict[str, Any]) -> dict[str, Any]:
    """Without the settings, which hold the stub's key."""
    services = {
        name: {key: value for key, value in service.items() if key != "settings"}
        for name, service in described["services"].items()
    }
    return {**described, "services": services}


def toml(app: str, described: dict[str, Any]) -> str:
    """The fragment of `carillon.toml` for an app; JSON's strings and lists are TOML's too."""
    sections = []
    for name, service in described["services"].items():
        lines = [f"{key} = {json.dumps(value)}" for key, value in service["settings"].items()]
        sections.append("\n".join([f"[apps.{app}.{name}]", *lines, ""]))
    return "\n".join(sections)


def write(path: Path, app: str, described: dict[str, Any]) -> None:
    """`path` as JSON and, beside it, the fragment as TOML; both whole or not at all, as others wait for them."""
    for target, text in ((path.with_suffix(".toml"), toml(app, described)), (path, json.dumps(described, indent=2))):
        draft = target.with_name(target.name + ".new")
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(target)
