"""The push services: their manners, their moods, and a journal of what they took."""

from __future__ import annotations

import enum
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

from tests.simulation.machine import Process
from tests.simulation.network import Link
from tests.simulation.session import REFUSED_STREAM, Request, Session

APNS = "api.push.apple.com"
FCM = "fcm.googleapis.com"
OAUTH = "oauth2.googleapis.com"
WEB = ("updates.push.services.mozilla.com", "web.push.apple.com")

INTERNAL_ERROR = 2


class Mood(enum.Enum):
    """How a service behaves for a while."""

    FINE = "fine"
    SLOW = "slow"
    DOWN = "down"
    THROTTLING = "throttling"
    SILENT = "silent"
    REFUSING = "refusing"
    SUSPICIOUS = "suspicious"
    LEAVING = "leaving"
    FLAKY = "flaky"


class Taking:
    """A service took a notification."""

    __slots__ = ("apns_id", "key", "sent_at", "sent_by", "told_at")

    def __init__(self, key: str, sent_by: Process, sent_at: float, apns_id: str) -> None:
        self.key = key
        self.sent_by = sent_by
        self.sent_at = sent_at
        self.apns_id = apns_id
        self.told_at: float | None = None
        """When its sender read the answer."""


class Journal:
    """What all services took and refused, by target. Each target of a run belongs to one recipient."""

    def __init__(self, log: Callable[..., None], moment: Callable[[str, str], None]) -> None:
        """`moment` is told what just happened to a process of that name."""
        self.log = log
        self.moment = moment
        self.takings: defaultdict[str, list[Taking]] = defaultdict(list)
        self.refused: defaultdict[str, int] = defaultdict(int)
        self.dead: set[str] = set()
        """Targets that the services hold for dead; for ever."""
        self.bad: set[str] = set()
        """Targets that get a final refusal."""
        self.poison: set[str] = set()
        """Targets at which the service falls off its chair: it ends the connection."""


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes
    taken: bool = False


class Service:
    """What they have in common. A subclass says how its requests and answers read."""

    def __init__(self, servers: Process, journal: Journal, rng: random.Random) -> None:
        self.mood = Mood.FINE
        self.pace = rng.choice([0.05, 0.5, 3.0])
        """Mean seconds to an answer."""
        self.streams = rng.choice([2, 5, 100])
        """How many requests a connection may have open at a time."""
        self.refuses = False
        self.silent = False
        self.journal = journal
        self.sessions: list[Session] = []
        self._servers = servers
        self._rng = rng

    def connected(self, link: Link) -> Session:
        session = Session(link, self.streams_at_first or self.streams, self._requested)
        self.sessions = [former for former in self.sessions if not former.link.gone]
        self.sessions.append(session)
        return session

    streams_at_first = 0
    """Instead of `streams` until the first answer; 0 where there is no such manner."""

    def _requested(self, request: Request) -> None:
        mood = self.mood
        if self.target(request) in self.journal.poison:
            self.journal.log("poisoned", self.target(request))
            request.session.link.cut()
            return
        if mood is Mood.FLAKY:
            mood = self._rng.choice([Mood.FINE, Mood.FINE, Mood.DOWN, Mood.SILENT, Mood.REFUSING, Mood.LEAVING])
        wait = self._rng.uniform(0.1, 1.9) * self.pace
        match mood:
            case Mood.REFUSING:
                request.session.reset(request.stream, REFUSED_STREAM)
                return
            case Mood.LEAVING:
                self._leave(request)
                return
            case Mood.SILENT:
                self._swallow(request)
                return
            case Mood.SLOW:
                wait = self._rng.uniform(0.5, 20.0)
            case _:
                pass
        reply = self.judge(request, mood)
        told = self._take(request).tell if reply.taken else _nothing
        self._servers.call_later(wait, self._answer, request, reply, told)

    def _swallow(self, request: Request) -> None:
        """No answer, whether it was taken or not; sometimes the stream is reset as well."""
        if self.target(request) not in self.journal.dead | self.journal.bad and self._rng.random() < 0.5:
            self._take(request)
        if self._rng.random() < 0.3:
            request.session.reset(request.stream, INTERNAL_ERROR)

    def _leave(self, request: Request) -> None:
        """GOAWAY: some of what was sent last is not processed, this one included. Then the end of the connection."""
        session = request.session
        session.go_away(self._rng.randint(1, 3), 0)
        # What is at or below the last stream and was read is answered still.
        self._servers.call_later(self._rng.uniform(0.0, 2.0), session.link.hang_up)

    def _take(self, request: Request) -> _Told:
        key = self.target(request)
        taking = Taking(key, request.session.link.process, request.sent_at, request.headers.get("apns-id", ""))
        self.journal.takings[key].append(taking)
        request.session.processed = request.stream
        self.journal.log("taken", key, taking.sent_by.name, len(self.journal.takings[key]))
        self.journal.moment("taken", taking.sent_by.name)
        return _Told(taking, self._servers, self.journal)

    def _answer(self, request: Request, reply: Reply, told: Callable[[], None]) -> None:
        request.session.answer(request.stream, reply.status, reply.headers, reply.body, told)

    def target(self, request: Request) -> str:
        raise NotImplementedError

    def judge(self, request: Request, mood: Mood) -> Reply:
        raise NotImplementedError


class _Told:
    def __init__(self, taking: Taking, clock: Process, journal: Journal) -> None:
        self._journal = journal
        self._taking = taking
        self._clock = clock

    def tell(self) -> None:
        self._taking.told_at = self._clock.time()
        self._journal.moment("told", self._taking.sent_by.name)


def _nothing() -> None:
    return


def _error(status: int, word: str, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps({"reason": word}).encode())


class Apns(Service):
    """One stream until the first answer, then many."""

    streams_at_first = 1

    def target(self, request: Request) -> str:
        return request.headers[":path"].removeprefix("/3/device/")

    def judge(self, request: Request, mood: Mood) -> Reply:
        target, journal = self.target(request), self.journal
        assert request.headers["authorization"].startswith("bearer ")
        if mood is Mood.DOWN:
            return _error(503, "ServiceUnavailable")
        if mood is Mood.THROTTLING:
            return _error(429, "TooManyRequests")
        if mood is Mood.SUSPICIOUS:
            return _error(403, self._rng.choice(["ExpiredProviderToken", "InvalidProviderToken"]))
        if target in journal.dead:
            return Reply(410, {}, b'{"reason":"Unregistered","timestamp":1700000000000}')
        if target in journal.bad:
            return _error(400, "DeviceTokenNotForTopic")
        return Reply(200, {}, b"", taken=True)

    def _answer(self, request: Request, reply: Reply, told: Callable[[], None]) -> None:
        super()._answer(request, reply, told)
        request.session.limit_streams(self.streams)


class Fcm(Service):
    """Wants an access token that `OAuth` gave."""

    _TOKEN = re.compile(rb'"token":"([^"]+)"')

    def target(self, request: Request) -> str:
        found = self._TOKEN.search(request.body)
        assert found is not None, "an FCM message has a token"
        return found[1].decode()

    def judge(self, request: Request, mood: Mood) -> Reply:
        target, journal = self.target(request), self.journal
        assert request.headers["authorization"].startswith("Bearer ya29.")
        if mood is Mood.DOWN:
            return self._failure(503, "UNAVAILABLE", self._retry_after())
        if mood is Mood.THROTTLING:
            return self._failure(429, "QUOTA_EXCEEDED", self._retry_after())
        if mood is Mood.SUSPICIOUS:
            return self._failure(401, "UNAUTHENTICATED", {})
        if target in journal.dead:
            return self._failure(404, "UNREGISTERED", {})
        if target in journal.bad:
            return self._failure(403, "SENDER_ID_MISMATCH", {})
        return Reply(200, {}, b'{"name":"projects/shop-1/messages/0"}', taken=True)

    def _retry_after(self) -> dict[str, str]:
        return {"retry-after": str(self._rng.randint(1, 40))} if self._rng.random() < 0.5 else {}

    def _failure(self, status: int, code: str, headers: dict[str, str]) -> Reply:
        detail = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}
        return Reply(status, headers, json.dumps({"error": {"status": code, "details": [detail]}}).encode())


class OAuth(Service):
    """Grants access tokens of a short life."""

    def judge(self, request: Request, mood: Mood) -> Reply:
        if mood in (Mood.DOWN, Mood.THROTTLING):
            return Reply(503, {}, b'{"error":"temporarily_unavailable"}')
        if mood is Mood.SUSPICIOUS:
            return Reply(400, {}, b'{"error":"invalid_grant"}')
        life = self._rng.choice([120, 600, 3600])
        return Reply(200, {}, b'{"access_token":"ya29.%d","expires_in":%d}' % (self._rng.getrandbits(60), life))

    def target(self, request: Request) -> str:
        return ""

    def _swallow(self, request: Request) -> None:
        """Nothing is taken here."""


class Web(Service):
    """A browser's push service."""

    def target(self, request: Request) -> str:
        return f"https://{request.headers[':authority']}{request.headers[':path']}"

    def judge(self, request: Request, mood: Mood) -> Reply:
        target, journal = self.target(request), self.journal
        if mood is Mood.DOWN:
            return Reply(503, {"retry-after": str(self._rng.randint(1, 40))}, b"")
        if mood is Mood.THROTTLING:
            return Reply(429, {"retry-after": str(self._rng.randint(1, 40))}, b"")
        if mood is Mood.SUSPICIOUS:
            return Reply(401, {}, b"")
        if target in journal.dead:
            return Reply(410, {}, b"")
        if target in journal.bad:
            return Reply(413, {}, b"")
        return Reply(201, {"location": "/m/1"}, b"", taken=True)
