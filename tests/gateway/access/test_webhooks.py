"""What an operator of a tenant sees of its webhooks, and can do."""

from __future__ import annotations

import base64
from pathlib import Path

from gateway.access.principal import Scope
from tests.gateway.access.house import house, settings

WEBHOOK = {
    "url": "http://127.0.0.1:9/s3cret-path",
    "secrets": ["whsec_" + base64.b64encode(bytes(32)).decode()],
    "private": True,
}


async def test_they_are_listed_tried_enabled_and_replayed_by_those_whose_they_are(tmp_path: Path) -> None:
    apps = {"shop": {"stub": {"key": "k"}, "webhooks": {"crm": WEBHOOK}}}
    limits = {"jobs_per_second": 1000, "queued": 100_000}
    configured = settings({"acme": limits | {"apps": apps}, "globex": limits}, tmp_path / "q.db")
    async with (
        house(configured) as gateway,
        gateway.caller(await gateway.key("acme", Scope.OPERATE)) as mine,
        gateway.caller(await gateway.key("globex", Scope.OPERATE)) as other,
    ):
        async with mine.get("/v1/webhooks") as response:
            text = await response.text()
            (report,) = (await response.json())["webhooks"]
        assert (report["id"], report["state"], report["pending"]) == ("shop.crm", "active", 0)
        assert "s3cret" not in text
        assert "acme" not in text
        async with mine.post("/v1/webhooks/shop.crm/test") as response:
            assert await response.json() == {"taken": False, "status": None, "reason": "ConnectionRefusedError"}
        for step in ("enable", "replay", "replay?since=1790000000"):
            async with mine.post(f"/v1/webhooks/shop.crm/{step}") as response:
                assert (response.status, (await response.json())["app"]) == (200, "shop")
        async with mine.post("/v1/webhooks/shop.crm/replay?since=yesterday") as response:
            assert response.status == 400
        for step in ("enable", "replay", "test"):
            async with other.post(f"/v1/webhooks/shop.crm/{step}") as response:
                assert response.status == 404
        async with other.get("/v1/webhooks") as response:
            assert "shop.crm" not in [each["id"] for each in (await response.json())["webhooks"]]
        async with mine.get("/v1/audit") as response:
            actions = [entry["action"] for entry in (await response.json())["entries"]]
        assert actions[-4:] == ["webhook.test", "webhook.enable", "webhook.replay", "webhook.replay"]
