"""What goes wrong, when, and for how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.simulation.network import Link
from tests.simulation.services import APNS, OAUTH, Mood
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

LEASE = 30.0
SLEEP = (20.0, 60.0)
"""Seconds for which a worker is stopped: shorter and longer than a lease."""

HARMLESS = (Mood.DOWN, Mood.THROTTLING, Mood.REFUSING)
"""Moods of a service that answers each request: nothing is unknown by them."""

MOMENTS = ("taken", "told", "taken over", "checkpoint")
"""What workers are killed right behind, see `Journal.moment` and `WatchedQueue`."""


class Faults:
    """Draws faults from the world's seed, and takes all of them back in the end."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(f"faults {world.seed}")
        self.calm = self._rng.random() < 0.12
        """Whether nothing gets lost in this run: services refuse, are slow or down, and say so."""
        self._moments: dict[str, float] = {}
        """What a worker is to be killed at, and how many seconds behind it."""
        calm: tuple[tuple[Callable[[], None], int], ...] = ((self._mood, 8), (self._refuse_dials, 2), (self._jump, 1))
        self._kinds: tuple[tuple[Callable[[], None], int], ...] = (
            (self._cut, 6),
            (self._freeze, 4),
            (self._go_away, 4),
            (self._mood, 10),
            (self._refuse_dials, 2),
            (self._silence_dials, 2),
            (self._kill, 4),
            (self._kill_at_a_moment, 6),
            (self._sleep, 5),
            (self._drain, 3),
            (self._fill_disk, 3),
            (self._jump, 2),
        )
        if self.calm:
            self._kinds = calm
        self.counts: dict[str, int] = {}

    def plan(self, start: float, end: float) -> None:
        """Some runs have few faults, some many; each run has its own mixture."""
        share = self._rng.choice([0.3, 0.6, 1.0])
        kinds = [(kind, weight) for kind, weight in self._kinds if self._rng.random() < share]
        if not kinds:
            return
        pause = self._rng.choice([4.0, 12.0, 40.0])
        at = start + self._rng.expovariate(1 / pause)
        while at < end - 1.0:
            (kind,) = self._rng.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            if self._rng.random() < 0.8:  # and there is something for it to happen to
                self._world.servers.call_at(at - self._rng.uniform(0.1, 1.5), self._world.submit)
            self._world.servers.call_at(at, kind)
            at += self._rng.expovariate(1 / pause)

    def end(self) -> None:
        """All is well from now on."""
        world = self._world
        self._moments.clear()
        for service in world.services.values():
            service.mood, service.refuses, service.silent = Mood.FINE, False, False
        for link in world.network.open():
            link.freeze(0.0)
        world.disk.full = False
        world.machine.wall_offset = 0.0
        for worker in world.workers:
            if worker.process.asleep:
                self._wake(worker)
        while sum(not worker.stopped for worker in world.workers) < 2:
            world.start_worker()
        world.log("faults end")

    def _count(self, kind: str, *what: object) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self._world.log("fault", kind, *what)

    def _for_a_while(self, seconds: float, back: Callable[[], None]) -> None:
        self._world.servers.call_later(seconds, back)

    # Connections

    def _some_link(self) -> Link | None:
        links = self._world.network.open()
        return self._rng.choice(links) if links else None

    def _cut(self) -> None:
        link = self._some_link()
        if link is not None:
            self._count("cut", link.process.name)
            link.cut()

    def _freeze(self) -> None:
        link = self._some_link()
        if link is not None:
            self._count("freeze", link.process.name)
            link.freeze(self._rng.choice([2.0, 10.0, 40.0, 1e9]))

    def _go_away(self) -> None:
        service = self._rng.choice(list(self._world.services.values()))
        for session in service.sessions:
            if not session.link.gone and session.highest:
                self._count("goaway", session.link.process.name)
                session.go_away(self._rng.randint(0, 3), self._rng.choice([0, 0, 2]))
                self._for_a_while(self._rng.uniform(0.0, 30.0), session.link.hang_up)

    # Services

    def _mood(self) -> None:
        host = self._rng.choice([*self._world.services, APNS])
        service = self._world.services[host]
        moods = [mood for mood in Mood if mood is not Mood.FINE and not (host == OAUTH and mood is Mood.SLOW)]
        service.mood = self._rng.choice([mood for mood in moods if mood in HARMLESS] if self.calm else moods)
        self._count(f"mood {service.mood.value}", host)

        def back() -> None:
            service.mood = Mood.FINE

        self._for_a_while(self._rng.choice([1.0, 10.0, 60.0]), back)

    def _refuse_dials(self) -> None:
        service = self._rng.choice(list(self._world.services.values()))
        service.refuses = True
        self._count("refuse dials")

        def back() -> None:
            service.refuses = False

        self._for_a_while(self._rng.uniform(1.0, 60.0), back)

    def _silence_dials(self) -> None:
        service = self._rng.choice(list(self._world.services.values()))
        service.silent = True
        self._count("silence dials")

        def back() -> None:
            service.silent = False

        self._for_a_while(self._rng.uniform(1.0, 60.0), back)

    # Workers

    def _some_worker(self) -> Worker | None:
        workers = [worker for worker in self._world.workers if not worker.stopped]
        return self._rng.choice(workers) if workers else None

    def _kill(self) -> None:
        worker = self._some_worker()
        if worker is not None:
            self._count("kill", worker.process.name)
            self._end(worker)

    def _kill_at_a_moment(self) -> None:
        """When it comes next, whoever it is."""
        self._moments[self._rng.choice(MOMENTS)] = self._rng.choice([0.0, 0.005, 0.5, 1.5]) * self._rng.random()
        self._burst(self._some_worker())

    def moment(self, kind: str, process: str) -> None:
        delay = self._moments.pop(kind, None)
        if delay is not None:
            self._for_a_while(delay, lambda: self._kill_there(kind, process))

    def _kill_there(self, kind: str, process: str) -> None:
        for worker in self._world.workers:
            if worker.process.name == process and not worker.stopped:
                self._count(f"kill when {kind}", process)
                self._end(worker)
                return

    def _end(self, worker: Worker) -> None:
        world = self._world
        worker.kill()
        world.network.killed(worker.process)
        world.retire(worker)
        self._for_a_while(self._rng.uniform(0.1, 20.0), self._one_more)

    def _one_more(self) -> None:
        self._world.start_worker()

    def _sleep(self) -> None:
        worker = self._some_worker()
        if worker is None or worker.process.asleep:
            return
        if not self._rng.random() < 0.25:
            self._burst(worker)
            self._for_a_while(self._rng.uniform(0.2, 4.0), lambda: self._put_to_sleep(worker))
            return
        self._put_to_sleep(worker)

    def _burst(self, worker: Worker | None) -> None:
        """More at once than its connections take."""
        for _ in range(self._rng.randint(1, 3)):
            self._world.submit(worker)

    def _put_to_sleep(self, worker: Worker) -> None:
        if worker.stopped or not worker.process.alive or worker.process.asleep:
            return
        seconds = self._rng.uniform(*SLEEP)
        self._count("sleep", worker.process.name, f"{seconds:.1f}")
        worker.process.sleep()
        self._world.excuse(seconds, worker.process)
        self._for_a_while(seconds, lambda: self._wake(worker))

    def _wake(self, worker: Worker) -> None:
        if worker.process.alive and worker.process.asleep:
            self._world.log("wake", worker.process.name)
            worker.process.wake(self._rng.random() < 0.5)

    def _drain(self) -> None:
        worker = self._some_worker()
        if worker is None or not worker.ready:
            return
        self._count("drain", worker.process.name)
        worker.drain()
        self._for_a_while(self._rng.uniform(0.1, 5.0), self._one_more)

    # The machine

    def _fill_disk(self) -> None:
        disk = self._world.disk
        disk.full = True
        seconds = self._rng.choice([1.0, 10.0, 45.0])
        self._count("disk full", seconds)
        if seconds >= LEASE:
            self._world.excuse(seconds + LEASE)

        def back() -> None:
            disk.full = False

        self._for_a_while(seconds, back)

    def _jump(self) -> None:
        seconds = self._rng.choice([-86400.0, -3600.0, -600.0, -20.0, 20.0, 600.0])
        self._world.machine.wall_offset = seconds
        self._count("jump", seconds)
