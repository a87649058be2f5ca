"""The door for other machines lets requests of nodes through, whole, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from phloem.engines.flower.front import door

pytestmark = pytest.mark.service("flower")


async def echo(request: Request) -> Response:
    body = await request.body()
    names = {"x-path": request.url.path, "x-signature": request.headers.get("signature", "")}
    return Response(body[::-1], status_code=201, headers=names)


def asked(method: str, path: str, **more: Any) -> httpx.Response:
    """What the door answers, with an upstream that turns bodies around."""
    upstream = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])

    async def ask() -> httpx.Response:
        inner = httpx.AsyncClient(transport=httpx.ASGITransport(upstream))
        outer = httpx.ASGITransport(door("https://inside", inner))
        async with httpx.AsyncClient(transport=outer, base_url="https://outside") as client:
            return await client.request(method, path, **more)

    return asyncio.run(ask())


def test_what_a_node_says_goes_through_with_its_headers_and_comes_back() -> None:
    body = bytes(range(256)) * 4096
    answer = asked("POST", "/v1/fleet/push-object", content=body, headers={"signature": "abc"})
    assert answer.status_code == 201
    assert answer.content == body[::-1]
    assert (answer.headers["x-path"], answer.headers["x-signature"]) == ("/v1/fleet/push-object", "abc")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/",
        "/v1/fleet",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol/start-run",
        "//v1/fleet/x",
        "/v1/fleet//x",
        "/V1/FLEET/x",
    ],
)
def test_everything_else_is_refused(path: str) -> None:
    answer = asked("POST", path, content=b"x")
    assert answer.status_code == 404
    assert "x-path" not in answer.headers
