"""Apps and their tenants. Nobody else takes a full name apart.

An app of the default tenant is called by its plain name all the way down (`shop`), one of another tenant by both
(`acme/shop`). Everywhere below the HTTP side that string is opaque: rows, routes, metrics, caches and keys that are by
app are by (tenant, app) with it.
"""

from __future__ import annotations

DEFAULT = "default"
"""The tenant of what is configured without one."""

_BETWEEN = "/"


def full_name(tenant: str, app: str) -> str:
    """What an app is called inside the gateway."""
    return app if tenant == DEFAULT else f"{tenant}{_BETWEEN}{app}"


def split(name: str) -> tuple[str, str]:
    """The tenant and the app that a full name stands for."""
    tenant, between, app = name.partition(_BETWEEN)
    return (tenant, app) if between else (DEFAULT, name)
