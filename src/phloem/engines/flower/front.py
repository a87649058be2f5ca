"""The door for other machines: passes on what nodes say to Flower's Fleet API, and nothing else.

A SuperLink serves nodes, runs and its own parts on one port, and asks only nodes for their keys: whoever reaches the
port may start an app on the server. So a SuperLink listens on loopback alone, and this, where others can reach it,
forwards requests under /v1/fleet/ (which are signed with the nodes' keys) and refuses all others.

    python -m phloem.engines.flower.front HOST PORT UPSTREAM CA_CERTIFICATE CERTIFICATE KEY
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

OPEN = "/v1/fleet/"
_OWN = {
    "connection",
    "keep-alive",
    "transfer-encoding",
    "host",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
}
_SECONDS = 300.0  # that the SuperLink may take over one request


def door(upstream: str, client: httpx.AsyncClient) -> Starlette:
    """The application that forwards Fleet requests to `upstream`."""

    async def forward(request: Request) -> Response:
        path = request.url.path
        plainly = (
            request.scope["raw_path"].decode("latin-1") == path and ".." not in path and "//" not in path
        )
        if not (path.startswith(OPEN) and plainly):
            return PlainTextResponse("only nodes are served here", status_code=404)
        headers = [(k, v) for k, v in request.headers.raw if k.decode("latin-1").lower() not in _OWN]
        asked = client.build_request(
            request.method,
            upstream + path,
            params=request.url.query,
            headers=headers,
            content=request.stream(),
        )
        try:
            answer = await client.send(asked, stream=True)
        except (httpx.HTTPError, ClientDisconnect):
            return PlainTextResponse("the SuperLink does not answer", status_code=502)

        async def body() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        response = StreamingResponse(body(), status_code=answer.status_code)
        response.raw_headers = [
            (k, v) for k, v in answer.headers.raw if k.decode("latin-1").lower() not in _OWN
        ]
        return response

    methods = ["GET", "POST", "PUT", "DELETE"]
    return Starlette(routes=[Route("/{path:path}", forward, methods=methods)])


def main(arguments: Sequence[str]) -> None:
    """Serves until it is ended."""
    host, port, upstream, authority, certificate, key = arguments
    trust = ssl.create_default_context(cafile=authority)
    client = httpx.AsyncClient(verify=trust, timeout=_SECONDS, trust_env=False)
    options: dict[str, Any] = {"ssl_certfile": certificate, "ssl_keyfile": key, "log_level": "warning"}
    uvicorn.run(
        door(f"https://{upstream}", client), host=host, port=int(port), server_header=False, **options
    )


if __name__ == "__main__":
    main(sys.argv[1:])
