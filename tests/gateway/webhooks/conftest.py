"""Fixtures of this folder."""

from tests.gateway.webhooks.running import hasty, queue, receive, tell  # noqa: F401
