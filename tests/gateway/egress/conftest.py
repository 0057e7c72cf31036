"""Connections are tested on both loops, and on one whose clock jumps."""

from tests.gateway.loops import pytest_asyncio_loop_factories, wall_follows_the_loop  # noqa: F401
