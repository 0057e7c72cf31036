"""One run: workers, services, callers and faults, all drawn from a seed."""

from __future__ import annotations

import hashlib
import random
import traceback
from asyncio import events
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gateway.queue.base import QueueError
from gateway.settings import Settings
from tests.simulation.faults import Faults
from tests.simulation.jobs import Callers, Submission
from tests.simulation.machine import Machine, Process
from tests.simulation.network import Network
from tests.simulation.services import APNS, FCM, OAUTH, WEB, Apns, Fcm, Journal, OAuth, Service, Web
from tests.simulation.worker import Disk, Worker

T = TypeVar("T")

MINUTES = 3
"""Virtual ones for which things go wrong."""
SUBMITTING = 150.0
"""Seconds for which jobs come in."""
PATIENCE = 3600.0
"""Virtual seconds after the last fault in which all has to be over: it is over much sooner, unless the longest holds
follow each other."""


class Window(NamedTuple):
    """When what was on its way may be lost, or told to somebody who has no say any more."""

    start: float
    end: float
    of: Process | None
    """Whose; None means everybody's."""


class World:
    """See the module's docstring."""

    def __init__(
        self, seed: int, folder: Path, settings: Settings, narrate: Callable[[str], None] | None = None
    ) -> None:
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self.machine = Machine()
        self.disk = Disk()
        self.settings = settings
        self.path = folder / "queue.db"
        self.problems: list[str] = []
        self.windows: list[Window] = []
        self.workers: list[Worker] = []
        self.former: list[Worker] = []
        self.accepted: dict[str, Submission] = {}
        """Jobs that were answered with 202."""
        self.unanswered: dict[str, Submission] = {}
        """Jobs whose caller was told nothing: they may be stored or not."""
        self.cancelled: dict[str, float] = {}
        """When jobs were."""
        self.sealed: list[str] = []
        """Jobs with an ordering key, in the order in which they were stored."""
        self.history = hashlib.sha256()
        self._narrate = narrate
        self.servers = self._process("services")
        self.network = Network(self.servers, self.random("network"))
        self.faults = Faults(self)
        self.journal = Journal(self.log, self.faults.moment)
        self.services: dict[str, Service] = {}
        for host, kind in [(APNS, Apns), (FCM, Fcm), (OAUTH, OAuth), *((host, Web) for host in WEB)]:
            self.services[host] = kind(self.servers, self.journal, self.random(host))
        self.network.listeners.update(self.services)
        self.callers = Callers(
            self.random("callers"), settings.apps["shop"].__dict__, self.journal, poison=not self.faults.calm
        )
        self._buried = False
        self._lives = 0
        self._over = False

    def random(self, part: str) -> random.Random:
        return random.Random(f"{part} {self.seed}")

    def _process(self, name: str) -> Process:
        return Process(self.machine, name, self._dial, self.problems.append)

    async def _dial(self, *args: Any) -> Any:
        return await self.network.dial(*args)

    def log(self, *what: object) -> None:
        """The history: two runs of a seed have the same."""
        line = f"{self.machine.now:.6f} " + " ".join(map(str, what))
        self.history.update(line.encode())
        if self._narrate is not None:
            self._narrate(line)

    # Running

    def run(self) -> None:
        for _ in range(self.rng.choice([2, 3])):
            self.start_worker()
        self._plan()
        deadline = self.machine.now + MINUTES * 60 + PATIENCE
        if not self.machine.run(self._finished, deadline):
            self.problems.append("not everything ended in time")
        self.log("over", self.machine.steps)

    def _plan(self) -> None:
        at = self.machine.now + 1.0
        while at < self.machine.now + SUBMITTING:
            self.servers.call_at(at, self.submit)
            at += self.rng.expovariate(1 / 30)
        self.faults.plan(self.machine.now + 2.0, self.machine.now + MINUTES * 60)
        self.servers.call_at(self.machine.now + MINUTES * 60, self._end_faults)

    def _end_faults(self) -> None:
        self.faults.end()
        self._over = True
        self._look()

    def _look(self) -> None:
        """Whether all jobs are finished, from a worker's own mouth, every some seconds.

        An operator puts back what was parked because so many workers were killed.
        """
        self.servers.call_later(5.0, self._look)
        if self._ready():
            self._ready()[0].spawn(self._look_at(self._ready()[0]))

    async def _look_at(self, worker: Worker) -> None:
        for parked in await worker.queue.parked(0, 100):
            self.log("replay", parked.batch_id.hex())
            await worker.queue.replay(parked.batch_id)
            worker.wake()
        for job_id in [*self.accepted, *self.unanswered]:
            status = await worker.receipts.job(job_id)
            if status is not None and not status.finished:
                return
            if status is None and job_id in self.accepted:
                self.problems.append(f"{job_id} was accepted and is not there")
        self._done = True

    _done = False

    def _finished(self) -> bool:
        return self._done or len(self.problems) > 0

    # Workers

    def _ready(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.ready and not worker.process.asleep]

    def start_worker(self) -> Worker:
        self._lives += 1
        name = f"worker-{self._lives}"
        former = events._get_running_loop()
        process = self._process(name)
        events._set_running_loop(process)
        try:
            worker = Worker(process, self.path, self.settings, self.random(name), self._ended, self.faults.moment)
        finally:
            events._set_running_loop(former)
        self.workers.append(worker)
        self.log("start", name)
        return worker

    def _ended(self, worker: Worker, error: BaseException | None) -> None:
        """One that cannot open its queue is started again; nothing else may end a worker."""
        self.log("ended", worker.process.name, type(error).__name__)
        if isinstance(error, QueueError):
            self.servers.call_later(1.0, self._start_again)
        elif error is not None:
            self.problems.append("".join(traceback.format_exception(error)))

    def _start_again(self) -> None:
        if not self._buried:
            self.start_worker()

    def retire(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.former.append(worker)

    def excuse(self, seconds: float, of: Process | None = None) -> None:
        """What is on its way now, or in so many seconds, may reach a service twice."""
        self.windows.append(Window(self.machine.now, self.machine.now + seconds, of))

    # Callers

    def submit(self, at: Worker | None = None) -> None:
        ready = self._ready()
        if at in ready:
            ready = [at]
        if not ready:
            self.servers.call_later(1.0, self.submit)
            return
        worker = self.rng.choice(ready)
        submission = self.callers.submission(self.machine.wall())
        self.unanswered[submission.job.id] = submission
        self.log("submit", worker.process.name, submission.job.id, len(submission.targets))
        worker.spawn(self._accept(worker, submission))

    async def _accept(self, worker: Worker, submission: Submission) -> None:
        try:
            await worker.queue.submit(submission.job, None, submission.batches, b"{}")
        except QueueError as error:
            self.log("refused", submission.job.id, type(error).__name__)
            del self.unanswered[submission.job.id]
            return
        self.log("accepted", submission.job.id)
        self.accepted[submission.job.id] = self.unanswered.pop(submission.job.id)
        worker.wake()
        if self.rng.random() < 0.08:
            self.servers.call_later(self.rng.uniform(0.0, 30.0), self._cancel, submission.job.id)

    def _cancel(self, job_id: str) -> None:
        if self._ready():
            worker = self.rng.choice(self._ready())
            worker.spawn(self._cancel_at(worker, job_id))

    async def _cancel_at(self, worker: Worker, job_id: str) -> None:
        try:
            await worker.queue.cancel(job_id, self.machine.wall())
        except QueueError:
            return
        self.log("cancelled", job_id)
        self.cancelled.setdefault(job_id, self.machine.now)

    # The end

    def ask_somebody(self, question: Callable[[Worker], Coroutine[Any, Any, T]]) -> T | None:
        """What a worker that is up has to say."""
        worker = self._ready()[0]
        task = worker.spawn(question(worker))
        self.machine.run(task.done, self.machine.now + 60.0)
        if task.exception() is not None:
            self.problems.append(repr(task.exception()))
            return None
        return task.result()

    def stop(self) -> None:
        """Drain everybody who is up."""
        up = [worker for worker in self.workers if worker.ready]
        for worker in up:
            worker.drain()
        if not self.machine.run(lambda: all(worker.stopped for worker in up), self.machine.now + 60.0):
            self.problems.append("draining takes more than a minute")

    def bury(self) -> None:
        """Look for what was left behind, and let Python forget the rest."""
        self._buried = True
        everybody = [*self.workers, *self.former]
        stopped = {worker.process for worker in everybody if worker.stopped}
        self.problems += [f"{worker.process.name} left {it}" for worker in everybody for it in worker.left_behind()]
        self.problems += [f"{link.process.name} left {link}" for link in self.network.open() if link.process in stopped]
        for worker in everybody:
            if worker.process.alive and not worker.stopped:
                worker.kill()
        for process in [*(worker.process for worker in everybody), self.servers]:
            process.bury()
