"""The app of a simulated gateway, with keys of its own."""

from __future__ import annotations

from pathlib import Path

from gateway.settings import Settings
from tests.providers.material import EC_KEY, pem, service_account, written
from tests.simulation.services import WEB


def settings_in(folder: Path, **dispatch: object) -> Settings:
    """Write the keys of the app `shop` into a folder."""
    key = written(folder / "key.p8", pem(EC_KEY))
    return Settings(
        workers=1,
        queue={"path": folder / "queue.db", "lease_seconds": 30.0},  # type: ignore[arg-type]
        dispatch={"backoff_cap": 60.0, **dispatch},  # type: ignore[arg-type]
        apps={
            "shop": {  # type: ignore[dict-item]
                "apns": {"team_id": "TEAMID1234", "key_id": "KEYID12345", "key_file": key, "topic": "com.example.shop"},
                "fcm": {"service_account_file": service_account(folder / "account.json")},
                "webpush": {
                    "vapid_key_file": key,
                    "subject": "mailto:ops@shop.com",
                    # Named here, so that nobody asks the world outside where they are.
                    "endpoints": [f"https://{host}" for host in WEB],
                },
            }
        },
    )
