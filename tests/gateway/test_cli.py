"""The command line, against a small server that stands in for the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from gateway.advice import REASONS, STATES
from gateway.cli import app
from gateway.commands.access import SettingsLog
from gateway.commands.sending import ROWS_SHOWN
from gateway.commands.serving import _renewed
from gateway.model import TERMINAL_STATES
from gateway.settings import load

JOB = "job_" + "0" * 32


class FakeGateway:
    """Takes jobs, and has receipts in pages; an empty page is one that a caller has to come back for."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.pages: list[list[dict[str, Any]]] = []
        self.finished = True
        self.parked: list[dict[str, Any]] = []
        self.decided: list[tuple[str, str]] = []
        self.problem: dict[str, Any] | None = None
        self.url = ""
        self.unknown = 0
        """How often a job is not found before it is: one that went over Kafka is seen some moments later."""

    async def submit(self, request: web.Request) -> web.Response:
        if self.problem is not None:
            return web.json_response(self.problem, status=422, content_type="application/problem+json")
        self.jobs.append(await request.json())
        return web.json_response({"job": JOB, "accepted": 1, "refused": [], "refused_count": 0}, status=202)

    async def receipts(self, request: web.Request) -> web.Response:
        self.unknown -= 1
        if request.match_info["id"] != JOB or self.unknown >= 0:
            return web.json_response({"status": 404, "detail": "There is no such job."}, status=404)
        at = int(request.query.get("after", "0"))
        page = self.pages[at] if at < len(self.pages) else []
        last = at + 1 >= len(self.pages)
        headers = {"Next-Cursor": str(min(at + 1, len(self.pages)))}
        if not (last and self.finished):
            headers["Link"] = '<next>; rel="next"'
        body = "".join(json.dumps(receipt) + "\n" for receipt in page)
        return web.Response(text=body, content_type="application/x-ndjson", headers=headers)

    async def parked_page(self, request: web.Request) -> web.Response:
        at = int(request.query.get("after", "0"))
        page = self.parked[at : at + 1]
        return web.json_response({"parked": [each["batch"] for each in page], "cursor": str(at + len(page))})

    async def parked_batch(self, request: web.Request) -> web.Response:
        found = [each for each in self.parked if each["batch"]["id"] == request.match_info["id"]]
        if not found:
            return web.json_response({"status": 404, "detail": "No such batch is parked."}, status=404)
        if request.method == "GET":
            return web.json_response(found[0])
        self.parked.remove(found[0])
        self.decided.append((request.method, request.match_info["id"]))
        return web.json_response(found[0]["batch"])

    def run(self, started: threading.Event, stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        async def main() -> None:
            application = web.Application()
            application.router.add_post("/v1/jobs", self.submit)
            application.router.add_get("/v1/jobs/{id}/receipts", self.receipts)
            application.router.add_get("/v1/parked", self.parked_page)
            application.router.add_get("/v1/parked/{id}", self.parked_batch)
            application.router.add_delete("/v1/parked/{id}", self.parked_batch)
            application.router.add_post("/v1/parked/{id}/replay", self.parked_batch)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = "http://{}:{}".format(*runner.addresses[0])
            started.set()
            await stop.wait()
            await runner.cleanup()

        loop.run_until_complete(main())
        loop.close()


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    fake, started, stop = FakeGateway(), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=fake.run, args=(started, stop, loop))
    thread.start()
    assert started.wait(10)
    yield fake
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)


def receipt(state: str = "accepted", number: int = 0, **more: object) -> dict[str, Any]:
    return {
        "id": f"01900000-0000-7000-8000-{number:012x}",
        "job": JOB,
        "recipient": f"u{number}",
        "app": "shop",
        "provider": "apns",
        "state": state,
        **more,
    }


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "TERM": "dumb", **environ})


def send(gateway: FakeGateway, *more: str) -> Result:
    token = ("--app", "shop", "--provider", "apns", "--token", "00fc13ad")
    return run("send", *token, "--url", gateway.url, *more)


# --- help


@pytest.mark.parametrize(
    "command", ["serve", "send", "receipts", "parked", "keys", "audit", "doctor", "demo", "version"]
)
def test_every_command_explains_itself(command: str) -> None:
    """A sentence, the options, and for those that need one an example that could be typed."""
    result = run(command, "--help")
    assert result.exit_code == 0
    assert command == "version" or f"Example: carillon {command}" in result.output


def test_help_lists_the_commands_and_exit_statuses() -> None:
    """The worker's own command is not for people."""
    result = run("--help")
    assert "Exit status" in result.output
    assert not re.search(r"^│ worker", result.output, re.MULTILINE)


# --- send


def test_send_submits_one_notification(gateway: FakeGateway) -> None:
    """What was given is in the job, what was not is left out; the answer tells how to go on."""
    result = send(gateway, "--title", "Hello", "--body", "[World]", "--data", "sku=A=1", "--data", "x=", "--ttl", "6h")
    assert result.exit_code == 0
    assert gateway.jobs == [
        {
            "app": "shop",
            "class": "transactional",
            "ttl": "6h",
            "message": {"title": "Hello", "body": "[World]", "data": {"sku": "A=1", "x": ""}},
            "recipients": [{"id": "by-hand", "provider": "apns", "token": "00fc13ad"}],
        }
    ]
    assert f"carillon receipts {JOB} --url {gateway.url}" in result.output


def test_send_takes_a_subscription_as_text_or_file(gateway: FakeGateway, tmp_path: Path) -> None:
    """As the browser gives it."""
    subscription = {"endpoint": "https://push.example/x", "keys": {"p256dh": "a", "auth": "b"}}
    file = tmp_path / "subscription.json"
    file.write_text(json.dumps(subscription))
    for given in (json.dumps(subscription), f"@{file}"):
        target = ("--provider", "webpush", "--subscription", given)
        assert run("send", "--app", "shop", *target, "--url", gateway.url).exit_code == 0
    assert [job["recipients"][0]["subscription"] for job in gateway.jobs] == [subscription] * 2


def test_send_waits_for_the_receipt(gateway: FakeGateway) -> None:
    """With --wait the push service's answer is the answer; what is accepted is not called delivered."""
    gateway.pages = [[receipt()]]
    result = send(gateway, "--wait")
    assert result.exit_code == 0
    assert result.output.startswith("accepted: ")
    assert "delivered" not in result.output


def test_send_waits_until_its_job_can_be_seen(gateway: FakeGateway) -> None:
    """A job that was taken a moment ago and is not found yet is no wrong answer."""
    gateway.pages, gateway.unknown = [[receipt()]], 2
    assert send(gateway, "--wait").output.startswith("accepted: ")
    gateway.unknown = 1_000
    assert json.loads(send(gateway, "--wait", "--timeout", "0", "--json").stdout)["state"] == "pending"


def test_send_says_why_not_and_what_to_do(gateway: FakeGateway) -> None:
    """State, reason, advice; exit status 1."""
    gateway.pages = [[receipt("invalid_token", reason="BadDeviceToken")]]
    result = send(gateway, "--wait")
    assert result.exit_code == 1
    assert result.output.startswith("invalid_token (BadDeviceToken): ")
    assert "environment" in result.output


def test_send_gives_up_waiting(gateway: FakeGateway) -> None:
    """No receipt in time is told as pending; exit status 1."""
    gateway.finished = False
    result = send(gateway, "--wait", "--timeout", "0", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"job": JOB, "state": "pending"}


def test_send_speaks_json(gateway: FakeGateway) -> None:
    """The gateway's answer, or with --wait the receipt."""
    assert json.loads(send(gateway, "--json").stdout)["job"] == JOB
    gateway.pages = [[receipt("rejected", reason="PayloadTooLarge")]]
    result = send(gateway, "--json", "--wait")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["reason"] == "PayloadTooLarge"


def test_send_shows_a_refusal(gateway: FakeGateway) -> None:
    """Every error with its pointer, every refused recipient with its reason."""
    gateway.problem = {
        "title": "Unprocessable Content",
        "status": 422,
        "detail": "The job cannot be taken as it is.",
        "errors": [{"pointer": "/app", "detail": "is not configured"}],
        "refused": [{"index": 0, "id": "by-hand", "reason": "the token is not hexadecimal"}],
    }
    result = send(gateway)
    assert result.exit_code == 1
    assert "/app is not configured" in result.stderr
    assert "recipient 0: the token is not hexadecimal" in result.stderr
    assert json.loads(send(gateway, "--json").stdout) == gateway.problem


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--token", "00", "--subscription", "{}"],
        ["--subscription", "not json"],
        ["--subscription", "@/nowhere"],
        ["--token", "00", "--data", "novalue"],
    ],
)
def test_send_refuses_wrong_use(wrong: list[str]) -> None:
    """Exit status 2, before anything is sent."""
    assert run("send", "--app", "shop", "--provider", "apns", *wrong).exit_code == 2


def test_no_gateway_is_told() -> None:
    """Exit status 3, and how to start one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    result = run("receipts", JOB, "--url", url)
    assert result.exit_code == 3
    assert "carillon serve" in result.stderr


def test_the_url_can_be_set_once(gateway: FakeGateway) -> None:
    """By CARILLON_URL; a proxy in the environment is not used."""
    result = run(
        *("send", "--app", "shop", "--provider", "apns", "--token", "00"),
        CARILLON_URL=gateway.url,
        http_proxy="http://127.0.0.1:1",
    )
    assert result.exit_code == 0


# --- parked batches


def parked(number: int) -> dict[str, Any]:
    batch = {
        "id": receipt(number=number)["id"], "job": JOB, "app": "shop", "provider": "apns", "origin": "",
        "class": "promotional", "size": 1000, "crashes": 3, "parked_at": 1_800_000_000.0, "reason": "3 processes died",
    }  # fmt: skip
    delivery = {"id": batch["id"], "recipient": "u1", "target": "00fc13…3f2a11d0c4be", "sent": True}
    return {"batch": batch, "message": {"title": 12}, "left": 700, "deliveries": [delivery]}


def test_parked_batches_are_listed(gateway: FakeGateway) -> None:
    """All pages, as a table or as NDJSON; and a sentence where there is none."""
    assert "No batch is parked" in run("parked", "list", "--url", gateway.url).output
    gateway.parked = [parked(number) for number in range(3)]
    result = run("parked", "list", "--url", gateway.url)
    assert result.exit_code == 0
    for text in (parked(2)["batch"]["id"], JOB, "1,000", "2027-01-15 08:00:00"):
        assert text in result.output
    listed = run("parked", "list", "--url", gateway.url, "--json").stdout.splitlines()
    assert [json.loads(line) for line in listed] == [each["batch"] for each in gateway.parked]


def test_a_parked_batch_is_shown(gateway: FakeGateway) -> None:
    gateway.parked = [parked(0)]
    batch = parked(0)["batch"]["id"]
    result = run("parked", "show", batch, "--url", gateway.url)
    for text in ("3 processes died", "title 12", "00fc13…3f2a11d0c4be", "maybe", "700 of 1,000"):
        assert text in result.output
    assert json.loads(run("parked", "show", batch, "--url", gateway.url, "--json").stdout) == parked(0)


@pytest.mark.parametrize(("command", "method"), [("replay", "POST"), ("purge", "DELETE")])
def test_a_parked_batch_is_decided_upon(gateway: FakeGateway, command: str, method: str) -> None:
    """The sentence leads to its receipts; what is not parked any more is an error that says so."""
    gateway.parked = [parked(0), parked(1)]
    first, second = (parked(number)["batch"]["id"] for number in range(2))
    result = run("parked", command, first, "--url", gateway.url)
    assert f"carillon receipts {JOB}" in result.output
    assert json.loads(run("parked", command, second, "--url", gateway.url, "--json").stdout)["id"] == second
    assert gateway.decided == [(method, first), (method, second)]
    again = run("parked", command, first, "--url", gateway.url)
    assert again.exit_code == 1
    assert "No such batch is parked" in again.output


# --- receipts


def test_receipts_of_few_deliveries_are_a_table(gateway: FakeGateway) -> None:
    """Each delivery, and the sums by provider and state."""
    gateway.pages = [[receipt(number=1), receipt("expired", 2)], [receipt("rejected", 3, reason="BadTopic")]]
    result = run("receipts", JOB, "--url", gateway.url)
    assert result.exit_code == 0
    for text in ("u1", "u2", "u3", "BadTopic", "3 receipts"):
        assert text in result.output


def test_receipts_of_many_deliveries_are_sums(gateway: FakeGateway) -> None:
    """Nobody reads a table of a campaign; how to get all is said."""
    gateway.pages = [[receipt(number=number) for number in range(ROWS_SHOWN + 1)]]
    result = run("receipts", JOB, "--url", gateway.url)
    assert "u1" not in result.output
    assert f"{ROWS_SHOWN + 1} receipts" in result.output
    assert "--json" in result.output


def test_receipts_as_ndjson_are_all_of_them(gateway: FakeGateway) -> None:
    """One a line, as the gateway gave them, over all pages."""
    gateway.pages = [[receipt(number=1)], [receipt(number=2)]]
    result = run("receipts", JOB, "--url", gateway.url, "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [receipt(number=1), receipt(number=2)]


def test_receipts_follow_until_the_job_is_finished(gateway: FakeGateway) -> None:
    """An empty page of a job that goes on is asked for again; without --follow it is the end."""
    gateway.pages = [[receipt(number=1)], [], [receipt(number=2)]]
    followed = run("receipts", JOB, "--url", gateway.url, "--json", "--follow")
    assert len(followed.stdout.splitlines()) == 2
    assert len(run("receipts", JOB, "--url", gateway.url, "--json").stdout.splitlines()) == 1


def test_receipts_of_a_job_that_has_none_yet(gateway: FakeGateway) -> None:
    """Is a sentence, not an empty table."""
    gateway.pages = [[]]
    assert "No delivery" in run("receipts", JOB, "--url", gateway.url).output


def test_receipts_of_an_unknown_job(gateway: FakeGateway) -> None:
    """The gateway's own words; exit status 1."""
    result = run("receipts", "job_unknown", "--url", gateway.url)
    assert result.exit_code == 1
    assert "no such job" in result.stderr


def test_there_is_advice_for_every_state() -> None:
    """A state that a person can meet is explained."""
    assert {state.word for state in TERMINAL_STATES} | {"pending"} == STATES.keys()
    assert all(text.endswith(".") for text in (*STATES.values(), *REASONS.values()))


# --- serve, doctor, and what is run elsewhere


def test_serve_tells_all_mistakes_before_it_starts(tmp_path: Path) -> None:
    """Exit status 2 and a list; nothing is created."""
    path = tmp_path / "carillon.toml"
    path.write_text('[http]\nprt = 1\n[queue]\npath = "data/q.db"\nretention = "x"\n')
    result = run("serve", "--config", str(path))
    assert result.exit_code == 2
    assert "http.prt" in result.stderr
    assert "queue.retention" in result.stderr
    assert not (tmp_path / "data").exists()


def test_serve_tells_all_unusable_credentials(tmp_path: Path) -> None:
    """Before any worker is started, once and not once a worker."""
    path = tmp_path / "carillon.toml"
    path.write_text('[apps.a.stub]\nkey = "not one"\n[apps.b.stub]\nkey = "nor this"\n')
    result = run("serve", "--config", str(path), "--workers", "2")
    assert result.exit_code == 2
    assert "apps.a.stub" in result.stderr
    assert "apps.b.stub" in result.stderr
    assert "nor this" not in result.stderr


def test_doctor_for_machines_is_one_object(tmp_path: Path) -> None:
    """`ok` and the findings; the exit status says the same."""
    path = tmp_path / "carillon.toml"
    path.write_text('[http]\nport = 0\n[queue]\npath = "q.db"\n')
    result = run("doctor", "--config", str(path), "--json")
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert result.exit_code == 0
    assert {"check", "level", "detail", "remedy"} == report["findings"][0].keys()
    path.write_text("workers = 0")
    result = run("doctor", "--config", str(path), "--json")
    assert json.loads(result.stdout)["ok"] is False
    assert result.exit_code == 1


def test_doctor_for_people_says_what_to_do(tmp_path: Path) -> None:
    """A line for each finding, and below it the remedy."""
    path = tmp_path / "carillon.toml"
    path.write_text("workers = 0")
    result = run("doctor", "--config", str(path))
    assert result.exit_code == 1
    assert re.search(r"failed +configuration: workers: .*\n +→ correct it", result.output)


def test_the_configuration_of_the_working_directory_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """carillon.toml, if there is one; CARILLON_CONFIG names another and is no key itself."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "carillon.toml").write_text("workers = 0")
    assert "workers" in run("serve").stderr
    (tmp_path / "other.toml").write_text("[http]\nport = -1")
    assert "http.port" in run("serve", CARILLON_CONFIG="other.toml").stderr


def test_demo_hands_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options reach the bench, and its exit status comes back."""
    calls: list[dict[str, object]] = []
    bench = ModuleType("bench.demo")
    bench.main = lambda **options: calls.append(options) or 1  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.demo", bench)
    assert run("demo", "--count", "10", "--kill", "--json").exit_code == 1
    assert calls == [{"count": 10, "kill": True, "json": True, "workers": 2}]


def test_simulate_has_the_simulators_own_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they are called with on their own works here as well, and so does their help."""
    calls: list[tuple[str, float]] = []

    def main(services: str = "apns", rtt: float = 0.0) -> None:
        """Run simulators."""
        calls.append((services, rtt))

    simulators = ModuleType("bench.simulators.__main__")
    simulators.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bench.simulators.__main__", simulators)
    assert run("simulate", "--services", "fcm", "--rtt", "2.5").exit_code == 0
    assert calls == [("fcm", 2.5)]
    shown = run("simulate", "--help")
    assert shown.exit_code == 0
    assert "carillon simulate" in shown.output
    assert "--rtt" in shown.output
    assert run("simulate", "--nonsense").exit_code == 2


def test_version_names_the_parts() -> None:
    """For people and machines."""
    assert run("version").output.startswith("carillon ")
    assert "apsw" in json.loads(run("version", "--json").stdout)


def test_serve_passes_its_number_of_workers_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--workers wins over the file; more than one means a supervisor, whose status is the command's."""
    seen: list[tuple[int, list[str]]] = []

    class FakeSupervisor:
        def __init__(self, command: Any, workers: int, **_: object) -> None:
            seen.append((workers, command(1, 7)))

        async def run(self) -> int:
            return 42

    monkeypatch.setitem(sys.modules, "gateway.supervisor", SimpleNamespace(Supervisor=FakeSupervisor))  # type: ignore[arg-type]
    monkeypatch.setattr("gateway.observe.logs.configure", lambda *_, **__: None)
    path = tmp_path / "carillon.toml"
    path.write_text("workers = 1\n[http]\nport = 0\n")
    assert run("serve", "--config", str(path), "--workers", "3").exit_code == 42
    ((workers, command),) = seen
    assert workers == 3
    assert command[1:4] == ["-m", "gateway", "worker"]
    assert command[4:-1] == [*("--config", str(path), "--worker", "1", "--workers", "3", "--parent", "7", "--listener")]


def test_serve_names_an_address_that_is_taken(tmp_path: Path) -> None:
    """Exit status 2 and one sentence, before any worker is started."""
    path = tmp_path / "carillon.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(f"[http]\nport = {port}\n")
        result = run("serve", "--config", str(path))
    assert result.exit_code == 2
    assert f"127.0.0.1:{port}" in result.stderr


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workers = 2\n", "workers can only be changed by a restart"),
        ('[queue]\npath = "elsewhere/q.db"\n', "queue.path can only"),
        ("[http]\nport = 8081\n", "http.port can only"),
        ("[http]\nprt = 1\n", "http.prt"),
        ('[apps.a.stub]\nkey = "not one"\n', "apps.a.stub"),
        ("workers = ", "is not TOML"),
        ("[dispatch]\nmax_attempts = 7\n", None),
    ],
)
def test_settings_are_checked_anew_before_workers_are_replaced(tmp_path: Path, text: str, named: str | None) -> None:
    """What cannot be used, or not without a restart, is named, and then nothing is replaced."""
    path = tmp_path / "carillon.toml"
    path.write_text("")
    former = load(path, {})
    noted = SettingsLog(former)
    path.write_text(text)
    problem = _renewed(former, path, {}, noted)
    assert problem is None if named is None else named in (problem or "")
