"""A caller of a running gateway's HTTP API: what `carillon send` and `carillon receipts` speak through. Blocks."""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, ProxyHandler, Request, build_opener

TIMEOUT = 30.0
"""Seconds of silence from the gateway."""


class Unreachable(Exception):
    """No gateway answers there."""


class Refused(Exception):
    """The gateway answered with a problem (RFC 9457)."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        super().__init__(status, problem)
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        lines = [str(self.problem.get("detail") or self.problem.get("title") or f"status {self.status}")]
        lines += [f"  {error['pointer'] or '/'} {error['detail']}" for error in self.problem.get("errors", ())]
        lines += [f"  recipient {refusal['index']}: {refusal['reason']}" for refusal in self.problem.get("refused", ())]
        return "\n".join(lines)


class Page(NamedTuple):
    """Some receipts of a job."""

    receipts: list[dict[str, Any]]
    cursor: str
    """Where the next page begins."""
    finished: bool
    """Whether there will never be a next page."""


class _NoRedirects(HTTPRedirectHandler):
    """A gateway sends nobody elsewhere, and a key does not go where a stranger says."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Client:
    """Speaks to the gateway at `url`. Proxies of the environment are not used: a gateway is one's own.

    Args:
        key: what opens it; None where nothing is asked for.
        ca_file: authorities to trust instead of the system's.
    """

    def __init__(self, url: str, key: str | None = None, ca_file: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._credential = {} if key is None else {"Authorization": f"Bearer {key}"}
        trusted = HTTPSHandler(context=ssl.create_default_context(cafile=ca_file))
        self._opener = build_opener(ProxyHandler({}), trusted, _NoRedirects())

    def submit(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Hand in a job; the answer of 202.

        Raises:
            Refused, Unreachable: as all methods.
        """
        with self._request("POST", "/v1/jobs", json.dumps(job).encode()) as response:
            return _object(response)

    def receipts(self, job_id: str, cursor: str | None = None) -> Page:
        """A page of a job's receipts, from its start or a cursor."""
        path = f"/v1/jobs/{quote(job_id, safe='')}/receipts" + (f"?after={quote(cursor)}" if cursor else "")
        with self._request("GET", path) as response:
            receipts = [json.loads(line) for line in response if line.strip()]
            return Page(receipts, response.headers["Next-Cursor"], "Link" not in response.headers)

    def parked(self, cursor: str | None = None) -> dict[str, Any]:
        """A page of parked batches, from the start or a cursor."""
        return self._asked("GET", "/v1/parked" + (f"?after={quote(cursor)}" if cursor else ""))

    def parked_batch(self, batch_id: str) -> dict[str, Any]:
        """What a parked batch holds, masked."""
        return self._asked("GET", f"/v1/parked/{quote(batch_id, safe='')}")

    def replay(self, batch_id: str) -> dict[str, Any]:
        """Have a parked batch sent once more; it as it was."""
        return self._asked("POST", f"/v1/parked/{quote(batch_id, safe='')}/replay")

    def purge(self, batch_id: str) -> dict[str, Any]:
        """Dead-letter a parked batch; it as it was."""
        return self._asked("DELETE", f"/v1/parked/{quote(batch_id, safe='')}")

    def credentials(self) -> list[dict[str, Any]]:
        """All credentials, without their secrets."""
        found: list[dict[str, Any]] = self._asked("GET", "/v1/credentials")["credentials"]
        return found

    def credential_history(self, cursor: str | None = None) -> dict[str, Any]:
        """A page of what happened to credentials, from the start or a cursor."""
        return self._asked("GET", "/v1/credentials/history" + (f"?after={quote(cursor)}" if cursor else ""))

    def add_credential(self, app: str, provider: str, material: Mapping[str, str]) -> dict[str, Any]:
        """Have a credential checked and stored; it as it is by then."""
        body = {"app": app, "provider": provider, "material": material}
        with self._request("POST", "/v1/credentials", json.dumps(body).encode()) as response:
            return _object(response)

    def credential_step(self, number: str, step: str) -> dict[str, Any]:
        """`probe`, `rotate`, `promote`, `rollback` or `retire` one; it as it is by then."""
        return self._asked("POST", f"/v1/credentials/{quote(number, safe='')}/{step}")

    def webhooks(self) -> list[dict[str, Any]]:
        """Who is told of receipts."""
        found: list[dict[str, Any]] = self._asked("GET", "/v1/webhooks")["webhooks"]
        return found

    def webhook_step(self, app: str, name: str, step: str, since: int | None = None) -> dict[str, Any]:
        """`enable`, `replay` or `test` one; it as it is by then, or what became of the test."""
        query = "" if since is None else f"?since={since}"
        return self._asked("POST", f"/v1/webhooks/{quote(f'{app}.{name}', safe='')}/{step}{query}")

    def _asked(self, method: str, path: str) -> dict[str, Any]:
        with self._request(method, path) as response:
            return _object(response)

    def _request(self, method: str, path: str, body: bytes | None = None) -> HTTPResponse:
        headers = self._credential | ({"Content-Type": "application/json"} if body is not None else {})
        request = Request(self._url + path, body, headers, method=method)
        try:
            response = self._opener.open(request, timeout=TIMEOUT)
        except HTTPError as error:
            with error:
                raise Refused(error.code, _problem(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"No gateway answers at {self._url} ({reason})") from None
        assert isinstance(response, HTTPResponse)
        return response


def on_this_machine(url: str) -> bool:
    """Whether a URL leads to loopback, by its text alone."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _object(response: HTTPResponse) -> dict[str, Any]:
    answer = json.load(response)
    assert isinstance(answer, dict)
    return answer


def _problem(error: HTTPError) -> dict[str, Any]:
    try:
        problem = json.load(error)
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {"detail": f"status {error.code} {error.reason}"}
