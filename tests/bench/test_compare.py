"""The comparison: what makes a row, what makes a ratio, and who is left out with which words."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from bench import compare
from bench.compare import OURS, SEND, WHOLE, Contender, Figure
from bench.peers import building, running
from bench.peers.building import CannotBuild
from bench.peers.catalogue import LEFT_OUT, PEERS, Peer
from bench.processes import ProcessFailed

HONEST = """
import os, ssl, sys
print("ready", flush=True); sys.stdin.readline()
print("done", os.environ["ACCEPTS"], flush=True); sys.stdin.readline()
"""


def contender(name: str, costs: list[float], *, what: str = SEND, service: str = "apns", complete: bool = True):
    figures = [Figure(cost, 1000.0, 50.0, complete, 0.5) for cost in costs]
    made = Contender(name, "1", "Python", what, service, 100, lambda: figures[0])
    made.figures.extend(figures)
    return made


def test_ratios_are_taken_within_a_repetition():
    """A machine that turned slow in the second round moves both sides of its ratio, not the ratio."""
    rows = compare.rows(
        [
            contender(OURS, [1.0, 10.0, 2.0]),
            contender(OURS, [4.0, 40.0, 8.0], what=WHOLE),
            contender("peer", [8.0, 80.0, 16.0]),
        ]
    )
    row = next(row for row in rows if row["peer"] == "peer")
    assert (row["ratio_to_wire"], row["ratio_to_whole_path"]) == (8.0, 2.0)
    assert (row["cpu_us"], row["spread"]) == (16.0, [8.0, 80.0])


def test_a_peer_is_compared_with_our_path_for_its_own_service():
    """There is no wire of ours alone for FCM, and APNs' figures are no yardstick for it."""
    rows = compare.rows(
        [
            contender(OURS, [1.0]),
            contender(OURS, [4.0], what=WHOLE),
            contender(OURS, [10.0], what=WHOLE, service="fcm"),
            contender("peer", [1000.0], service="fcm"),
        ]
    )
    row = next(row for row in rows if row["peer"] == "peer")
    assert (row["ratio_to_wire"], row["ratio_to_whole_path"]) == (None, 100.0)


def test_rows_have_the_documented_fields():
    (row,) = compare.rows([contender(OURS, [1.0])])
    fields = "peer version language what cpu_us spread per_second rss_mib ratio_to_wire ratio_to_whole_path"
    assert set(fields.split()) <= set(row)


def test_an_incomplete_run_is_not_clean(monkeypatch: pytest.MonkeyPatch):
    """A peer that lost one is shown so, and the run's exit status follows from `clean`."""
    lossy = contender("peer", [], complete=True)
    lossy.measure = lambda: Figure(1.0, 1.0, 1.0, False, 0.1)
    monkeypatch.setattr(compare, "assemble", lambda count, names: ([lossy], []))
    result = compare.run(10, 1)
    assert not result["clean"]
    assert not result["rows"][0]["complete"]


def test_a_peer_that_breaks_down_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch):
    """It is told as failed, with its words, and the others are measured to the end."""

    def breaks() -> Figure:
        raise ProcessFailed("peer ended")

    broken, sound = contender("broken", []), contender("sound", [])
    broken.measure, sound.measure = breaks, lambda: Figure(1.0, 1.0, 1.0, True, 0.1)
    monkeypatch.setattr(compare, "assemble", lambda count, names: ([broken, sound], []))
    result = compare.run(10, 3)
    assert result["failed"] == [{"peer": "broken", "why": "peer ended"}]
    assert not result["clean"]
    assert len(sound.figures) == 3


def test_what_cannot_be_built_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    def refuse(folder: str) -> list[str]:
        raise CannotBuild("cargo is not installed")

    monkeypatch.setattr(compare, "PEERS", (Peer("a2", "1", "Rust", "a2", refuse, 1.0, 1),))
    contenders, skipped = compare.assemble(10)
    assert {"peer": "a2", "why": "cargo is not installed"} in skipped
    assert {each.name for each in contenders} == {OURS}


def test_an_unknown_peer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"nobody: no such peer; there are .*pushy"):
        compare.assemble(10, ["nobody"])


def test_a_missing_tool_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(CannotBuild, match=r"h2load is not installed \(Debian's package nghttp2-client\)"):
        building.installed("h2load", "nghttp2-client")("h2load")


def test_a_failed_build_says_where_its_log_is_and_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A build that failed leaves no stamp, so that the next run does not take half a program for a whole one."""
    (tmp_path / "sources" / "peer").mkdir(parents=True)
    monkeypatch.setattr(building, "ROOT", tmp_path)
    monkeypatch.setattr(building, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(building, "BUILT", tmp_path / "built")
    for _ in range(2):
        with pytest.raises(CannotBuild, match=r"failed; see built/peer/build\.log"):
            building._once("peer", lambda work: building._step(work, sys.executable, "-c", "raise SystemExit(3)"))


def test_a_built_program_is_kept_until_its_folder_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = tmp_path / "sources" / "peer"
    source.mkdir(parents=True)
    monkeypatch.setattr(building, "SOURCES", tmp_path / "sources")
    monkeypatch.setattr(building, "BUILT", tmp_path / "built")
    builds: list[Path] = []
    for text in ("one", "one", "two"):
        (source / "program").write_text(text)
        building._once("peer", builds.append)
    assert len(builds) == 2


@pytest.mark.parametrize("service", ["apns", "fcm", "webpush"])
def test_the_payload_is_a_rendered_one_of_the_usual_size(service: str):
    text = running.payload(service)
    json.loads(text)
    assert "{{" not in text
    assert 230 <= len(text) <= 310


@pytest.mark.parametrize(("accepts", "complete"), [(0, False), (5, False)])
def test_what_a_program_says_is_held_against_the_sink(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, accepts: int, complete: bool
):
    """A program that claims five acceptances while the sink saw none is not believed."""
    monkeypatch.setenv("ACCEPTS", str(accepts))
    peer = Peer("liar", "1", "Python", "liar", lambda folder: [], 1.0, 1)
    measured = running.run(peer, [sys.executable, "-c", HONEST], 5, cpu=None, sink_cpu=None)
    assert (measured.sent, measured.accepted, measured.taken) == (5, accepts, 0)
    assert measured.complete is complete


def test_a_program_that_ends_early_is_told_with_the_end_of_its_log():
    peer = Peer("early", "1", "Python", "early", lambda folder: [], 1.0, 1)
    command = [sys.executable, "-c", "raise SystemExit('no such key')"]
    with pytest.raises(ProcessFailed, match=r"early ended before it was ready.*\n.*no such key"):
        running.run(peer, command, 5, cpu=None, sink_cpu=None)


def test_every_peer_has_its_folder_its_pin_and_its_reason():
    """Versions shown are the versions built, and the README says why each is written as it is."""
    readme = (building.SOURCES / "README.md").read_text()
    for peer in PEERS:
        assert f"| {peer.name} (" in readme
        if peer.folder == "h2load":
            continue
        manifests = [building.SOURCES / peer.folder / name for name in _MANIFESTS]
        text = "".join(manifest.read_text() for manifest in manifests if manifest.exists())
        assert re.search(rf"{peer.name}\b.{{0,40}}{re.escape(peer.version)}", text, re.DOTALL), peer.name
    for name in LEFT_OUT:
        assert name in readme


_MANIFESTS = ("requirements.in", "Cargo.toml", "go.mod", "pom.xml")
