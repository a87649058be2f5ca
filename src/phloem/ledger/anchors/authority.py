"""Time stamps from an authority, over HTTP. Source: RFC 3161 section 3.4."""

from __future__ import annotations

import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPException
from typing import IO

from phloem.errors import FormatError, StoreError
from phloem.ledger.anchors.base import LARGEST_PROOF
from phloem.ledger.anchors.servers import host_of
from phloem.ledger.anchors.timestamp import TimestampProof, proof_of, query

TIMEOUT_SECONDS = 30.0
_LARGEST_ANSWER = LARGEST_PROOF // 4  # it is written in hexadecimal


def stamp(url: str, text: bytes, timeout_seconds: float = TIMEOUT_SECONDS) -> TimestampProof:
    """The proof that the authority at `url` stamped a note's text, of which the signature has not been verified.

    Raises:
        ConfigError: `url` is no address. StoreError: nobody answers there, or with an error.
        FormatError: the answer is no time stamp. ProofError: it is a refusal, or the answer to another request.
    """
    host = host_of(url, "a time-stamping authority")
    asked = query(text)
    request = urllib.request.Request(  # noqa: S310  # host_of lets http and https pass only
        url,
        data=asked.data,
        headers={"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"},
    )
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds) as response:
            answer = response.read(_LARGEST_ANSWER + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise StoreError(f"the authority at {host} answered with HTTP status {error.code}") from None
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise StoreError(
            f"the authority at {host} cannot be reached: {getattr(reason, 'strerror', None) or type(reason).__name__}"
        ) from None
    if len(answer) > _LARGEST_ANSWER:
        raise FormatError(f"the authority at {host} answered with more than {_LARGEST_ANSWER} bytes")
    return proof_of(text, asked, answer)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection would be followed with the request left out: it is an error here."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """No request, so that the redirection is raised as the error that it is."""
        return
