"""Deep merge of provider blocks: raw overrides of the caller over what a provider makes of a message."""

from __future__ import annotations

from typing import Any


def merge(base: Any, override: Any) -> Any:
    """Objects are merged key by key, everything else is replaced. Neither argument is changed."""
    if not isinstance(base, dict) or not isinstance(override, dict):
        return override
    merged = dict(base)
    for key, value in override.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return merged
