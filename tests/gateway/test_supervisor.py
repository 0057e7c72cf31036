"""The parent of the workers, with real processes: small programs that stand in for workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gateway.supervisor import Supervisor

WORKER = """
import os, signal, sys, time
from pathlib import Path
from gateway.supervisor import Parent

worker, fd, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
parent = Parent(fd, grace=5)

def say(word):
    with open(folder / "journal", "a") as journal:
        journal.write(f"{worker} {word} {os.getpid()}\\n")
"""
OBEDIENT = """
def leave(number, frame):
    say(signal.Signals(number).name)
    sys.exit(0)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, leave)
say("ready")
parent.say_ready()
while True:
    time.sleep(60)
"""
DEAF = """
signal.signal(signal.SIGTERM, lambda *_: say("heard"))
say("ready")
while True:
    time.sleep(60)
"""
MORTAL = """
say("ready")
parent.say_ready()
sys.exit(1)
"""
SILENT = """
say("ready")
parent.say_ready()
for _ in range(3):
    time.sleep(0.01)
    parent.say_alive()
os.kill(os.getpid(), signal.SIGSTOP)
"""
TALKING = OBEDIENT.replace("time.sleep(60)", "time.sleep(0.01); parent.say_alive()")
FAILING = """
say("ready")
sys.exit(78)
"""
SORE_LOSER = """
def leave(number, frame):
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
say("ready")
while True:
    time.sleep(60)
"""


class Stage:
    """A folder in which worker programs note what happens to them."""

    def __init__(self, folder: Path, body: str) -> None:
        self.folder = folder
        self.program = folder / "worker.py"
        self.program.write_text(WORKER + body)
        self.journal = folder / "journal"
        self.journal.touch()

    def command(self, worker: int, parent_fd: int) -> list[str]:
        return [sys.executable, str(self.program), str(worker), str(parent_fd), str(self.folder)]

    def lines(self, word: str) -> list[tuple[int, int]]:
        """(worker, pid) of those who said it."""
        entries = (line.split() for line in self.journal.read_text().splitlines())
        return [(int(worker), int(pid)) for worker, said, pid in entries if said == word]

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(supervisor: Supervisor) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(supervisor.run())
    try:
        yield task
    finally:
        if not task.done():
            supervisor.stop(signal.SIGTERM)
            supervisor.stop(signal.SIGTERM)
            await task


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_passed_on_and_all_leave(tmp_path: Path, number: signal.Signals) -> None:
    """The first signal reaches every worker once, as it is; when all have left by themselves, the status is 0."""
    stage = Stage(tmp_path, OBEDIENT)
    async with running(Supervisor(stage.command, 3)) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 3)
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(task, 20) == 0
    assert sorted(worker for worker, _ in stage.lines(number.name)) == [0, 1, 2]


async def test_a_dead_worker_is_replaced_under_its_number(tmp_path: Path) -> None:
    """What dies is started again with the same number, and counted; the others are left alone."""
    stage = Stage(tmp_path, OBEDIENT)
    restarts: list[None] = []
    supervisor = Supervisor(stage.command, 2, restarted=lambda: restarts.append(None), first_delay=0.01)
    async with running(supervisor) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        before = dict(stage.lines("ready"))
        os.kill(before[1], signal.SIGKILL)
        await stage.until(lambda: len(stage.lines("ready")) == 3)
        assert [worker for worker, _ in stage.lines("ready")].count(1) == 2
        assert alive(before[0])
        assert len(restarts) == 1
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 0


async def test_what_does_not_leave_in_time_is_killed(tmp_path: Path) -> None:
    """A worker that runs on after the grace is killed, and the status says so."""
    stage = Stage(tmp_path, DEAF)
    supervisor = Supervisor(stage.command, 1, grace=0.2)
    async with running(supervisor) as task:
        await stage.until(lambda: bool(stage.lines("ready")))
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 1
    assert stage.lines("heard")


async def test_a_second_signal_means_at_once(tmp_path: Path) -> None:
    """After a second signal nothing is waited for; the status is 128 and its number, as a shell would say."""
    stage = Stage(tmp_path, DEAF)
    supervisor = Supervisor(stage.command, 2, grace=600)
    async with running(supervisor) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        supervisor.stop(signal.SIGINT)
        supervisor.stop(signal.SIGINT)
        assert await asyncio.wait_for(task, 20) == 130


async def test_a_failure_while_stopping_shows_in_the_status(tmp_path: Path) -> None:
    """A worker that leaves with an error after the signal makes the status 1."""
    stage = Stage(tmp_path, SORE_LOSER)
    supervisor = Supervisor(stage.command, 1)
    async with running(supervisor) as task:
        await stage.until(lambda: bool(stage.lines("ready")))
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 1


async def test_a_mistake_that_no_restart_cures_ends_it(tmp_path: Path) -> None:
    """When no worker can be started, it gives up after some tries and tells the worker's own status."""
    stage = Stage(tmp_path, FAILING)
    supervisor = Supervisor(stage.command, 1, first_delay=0.001)
    async with running(supervisor) as task:
        assert await asyncio.wait_for(task, 30) == 78
    assert len(stage.lines("ready")) == 5


async def test_what_kills_workers_that_got_ready_is_no_mistake_of_the_settings(tmp_path: Path) -> None:
    """However fast they die once they serve, they are started again: somebody kills them, or one of their jobs."""
    stage = Stage(tmp_path, MORTAL)
    async with running(Supervisor(stage.command, 1, first_delay=0.001)) as task:
        await stage.until(lambda: len(stage.lines("ready")) > 6)
        assert not task.done()


async def test_a_worker_that_falls_silent_is_killed_and_started_again(tmp_path: Path) -> None:
    """One that hangs, which may hold the queue's lock, does not say that it lives any more."""
    stage = Stage(tmp_path, SILENT)
    async with running(Supervisor(stage.command, 1, silence=0.5, first_delay=0.01)) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        assert not alive(stage.lines("ready")[0][1])
        assert not task.done()


async def test_a_worker_that_says_that_it_lives_is_left_alone(tmp_path: Path) -> None:
    """However long; and one that is not ready yet is not expected to say anything."""
    stage = Stage(tmp_path, "if worker == 1:\n" + textwrap.indent(DEAF, "    ") + TALKING)
    async with running(Supervisor(stage.command, 2, silence=0.5)):
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        await asyncio.sleep(1.5)  # three times the silence that is allowed
        assert len(stage.lines("ready")) == 2
        assert all(alive(pid) for _, pid in stage.lines("ready"))


async def test_a_parent_that_does_not_listen_keeps_no_worker_waiting(tmp_path: Path) -> None:
    """A worker says that it lives without waiting: a parent that stands still must not stop its loop."""
    stage = Stage(tmp_path, "for _ in range(10_000):\n    parent.say_alive()\nsay('through')\ntime.sleep(60)")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = stage.command(0, theirs.fileno())
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[theirs.fileno()])
        try:
            await stage.until(lambda: bool(stage.lines("through")))
        finally:
            process.kill()
            await process.wait()


async def test_one_broken_worker_does_not_end_the_others(tmp_path: Path) -> None:
    """While one worker crashes over and over, the others go on."""
    stage = Stage(tmp_path, "if worker == 1: say('crash'); sys.exit(1)\n" + OBEDIENT)
    supervisor = Supervisor(stage.command, 2, first_delay=0.001)
    async with running(supervisor) as task:
        await stage.until(lambda: len(stage.lines("crash")) > 5)
        assert not task.done()
        assert len(stage.lines("ready")) == 1
        supervisor.stop(signal.SIGTERM)
        await asyncio.wait_for(task, 20)
    assert stage.lines("SIGTERM") == [stage.lines("ready")[0]]


async def test_a_signal_during_a_pause_is_not_waited_out(tmp_path: Path) -> None:
    """A worker that waits for its restart is not started any more once a signal came."""
    stage = Stage(tmp_path, FAILING)
    supervisor = Supervisor(stage.command, 1, first_delay=600)
    async with running(supervisor) as task:
        await stage.until(lambda: bool(stage.lines("ready")))
        pid = stage.lines("ready")[0][1]
        await stage.until(lambda: not alive(pid))
        supervisor.stop(signal.SIGTERM)
        await asyncio.wait_for(task, 20)
    assert len(stage.lines("ready")) == 1


async def test_workers_are_replaced_one_after_the_other(tmp_path: Path) -> None:
    """A former worker is told to leave when its successor is ready, and the next one is started when it has left."""
    stage = Stage(tmp_path, OBEDIENT)
    supervisor = Supervisor(stage.command, 2)
    async with running(supervisor) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        former = {pid for _, pid in stage.lines("ready")}
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("SIGHUP")) == 2)
        words = [line.split()[1] for line in stage.journal.read_text().splitlines()]
        assert words == ["ready", "ready", "ready", "SIGHUP", "ready", "SIGHUP"]
        assert {pid for _, pid in stage.lines("SIGHUP")} == former
        assert {number for number, _ in stage.lines("ready")} <= {0, 1, 2}
        assert not task.done()
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 0
    assert len(stage.lines("SIGTERM")) == 2


async def test_wrong_settings_replace_nobody(tmp_path: Path) -> None:
    """What is wrong is told, and the former workers stay; the next signal asks again."""
    stage = Stage(tmp_path, OBEDIENT)
    problems = ["wrong", "wrong", None]
    async with running(Supervisor(stage.command, 1, renew=lambda: problems.pop(0))):
        await stage.until(lambda: len(stage.lines("ready")) == 1)
        for left in (2, 1):
            os.kill(os.getpid(), signal.SIGHUP)
            await stage.until(lambda left=left: len(problems) == left)  # type: ignore[misc]
        assert len(stage.lines("ready")) == 1
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("SIGHUP")) == 1)


async def test_a_successor_that_does_not_get_ready_replaces_nobody(tmp_path: Path) -> None:
    """It failed, so the former worker goes on as if nothing had happened."""
    stage = Stage(tmp_path, "if (folder / 'spoilt').exists(): say('failed'); sys.exit(1)\n" + OBEDIENT)
    async with running(Supervisor(stage.command, 1)) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 1)
        (tmp_path / "spoilt").touch()
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("failed")) == 1)
        (tmp_path / "spoilt").unlink()
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("ready")) == 2)
        assert not task.done()
    assert len(stage.lines("SIGHUP")) == 1


async def test_a_successor_is_kept_alive_as_its_predecessor_was(tmp_path: Path) -> None:
    """Who fills a place is started again when it dies, also while its predecessor is still leaving."""
    slow = OBEDIENT.replace("    sys.exit(0)", "    time.sleep(2 * (number == signal.SIGHUP)); sys.exit(0)")
    stage = Stage(tmp_path, slow)
    async with running(Supervisor(stage.command, 1, first_delay=0.01)):
        await stage.until(lambda: len(stage.lines("ready")) == 1)
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("SIGHUP")) == 1)
        os.kill(stage.lines("ready")[1][1], signal.SIGKILL)
        await stage.until(lambda: len(stage.lines("ready")) == 3)
        assert alive(stage.lines("ready")[0][1])


async def test_stopping_during_a_replacement_leaves_nobody_behind(tmp_path: Path) -> None:
    """A worker that is being started, and one that is leaving, hear the signal too."""
    stage = Stage(tmp_path, OBEDIENT.replace('say("ready")', "say('begun'); time.sleep(0.5); say('ready')"))
    supervisor = Supervisor(stage.command, 1)
    async with running(supervisor) as task:
        await stage.until(lambda: len(stage.lines("ready")) == 1)
        os.kill(os.getpid(), signal.SIGHUP)
        await stage.until(lambda: len(stage.lines("begun")) == 2)
        supervisor.stop(signal.SIGTERM)
        assert await asyncio.wait_for(task, 20) == 0
    assert not any(alive(pid) for _, pid in stage.lines("begun"))


async def test_a_mistake_in_words_is_told_once(tmp_path: Path) -> None:
    """Exit status 2 of every worker means that the settings or the queue cannot be used: no restart cures that."""
    stage = Stage(tmp_path, FAILING.replace("78", "2"))
    async with running(Supervisor(stage.command, 1)) as task:
        assert await asyncio.wait_for(task, 30) == 2
    assert len(stage.lines("ready")) == 1


async def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    """kill -9 of the parent is, for its workers, the signal to drain."""
    stage = Stage(tmp_path, OBEDIENT)
    parent = tmp_path / "parent.py"
    parent.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        from gateway.supervisor import Supervisor
        command = lambda worker, fd: [sys.executable, {str(stage.program)!r}, str(worker), str(fd), {str(tmp_path)!r}]
        asyncio.run(Supervisor(command, 2).run())
        """)
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(parent), stderr=asyncio.subprocess.DEVNULL)
    try:
        await stage.until(lambda: len(stage.lines("ready")) == 2)
    finally:
        process.kill()
        await process.wait()
    await stage.until(lambda: not any(alive(pid) for _, pid in stage.lines("ready")))
    assert len(stage.lines("SIGTERM")) == 2
