"""What the image is made of, and what goes to its builder."""

from __future__ import annotations

import re
from collections.abc import Callable

from tests.deploy.conftest import ROOT, Tool

LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text()).splitlines()


def of(instruction: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.startswith(f"{instruction} ")]


def test_everything_that_is_installed_is_checked_against_a_lock() -> None:
    installs = [part.strip() for line in of("RUN") for part in line.split("&&") if "pip install" in part]
    assert len(installs) == 3
    for each in installs:
        locked = "--require-hashes --only-binary :all:" in each
        ours = "--no-deps --no-index /dist/" in each
        assert locked or ours, each


def test_it_runs_as_nobody_of_note() -> None:
    """A number, as Kubernetes' runAsNonRoot wants it."""
    assert of("USER") == ["10001:10001"]
    assert not any("sudo" in line or "chmod 777" in line for line in of("RUN"))


def test_what_it_is_told_is_in_the_argument_form() -> None:
    """A shell in between would not pass SIGTERM on."""
    assert of("ENTRYPOINT") == ['["carillon"]']
    assert of("CMD") == ['["serve"]']
    assert all(" CMD [" in line for line in of("HEALTHCHECK"))


def test_nothing_is_fetched_but_the_base_image() -> None:
    assert not of("ADD")
    assert not any(re.search(r"https?://|curl|wget|apt-get", line) for line in of("RUN"))


def test_the_builder_gets_only_what_it_copies() -> None:
    """All is ignored but for what is named: a key or a queue lying about stays where it is."""
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    sent = {line[1:] for line in rest if line.startswith("!")}
    copied = {name.strip("./") for line in of("COPY") if "--from" not in line for name in line.split()[:-1]}
    assert sent == copied


def test_hadolint_has_nothing_to_say(tool: Callable[[str], Tool]) -> None:
    assert tool("hadolint")(ROOT / "Dockerfile") == ""
