"""How pages and files are answered: packed where the browser takes it, and not at all where it has them already."""

from __future__ import annotations

import gzip
import hashlib
from functools import lru_cache

import anyio.to_thread
from fastapi import Request
from starlette.responses import Response

from serving.page.assets import Asset, Assets

HTML = "text/html"
SMALL = 1_000  # bytes that are not worth packing
FOR_EVER = "public, max-age=31536000, immutable"


async def packed(request: Request, body: bytes, media_type: str) -> Response:
    """An answer with an ETag over its content; 304 where the browser has that already."""
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Accept-Encoding"}
    if _has(request, etag):
        return Response(status_code=304, headers=headers)
    if len(body) > SMALL and _takes_gzip(request):
        body = await anyio.to_thread.run_sync(_squeezed, body)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type=media_type, headers=headers)


@lru_cache(maxsize=16)  # several who look at the same page between two cycles
def _squeezed(body: bytes) -> bytes:
    return gzip.compress(body, 5, mtime=0)


def file(request: Request, assets: Assets, version: str, name: str) -> Response | None:
    """One of our files; None where there is none. An address of another version is answered, but not to be kept."""
    found: Asset | None = assets.files.get(name)
    if found is None:
        return None
    kept = FOR_EVER if version == assets.version else "no-cache"
    headers = {"ETag": found.etag, "Cache-Control": kept, "Vary": "Accept-Encoding"}
    if _has(request, found.etag):
        return Response(status_code=304, headers=headers)
    if _takes_gzip(request):
        return Response(found.packed, media_type=found.media_type, headers={**headers, "Content-Encoding": "gzip"})
    return Response(found.body, media_type=found.media_type, headers=headers)


def _has(request: Request, etag: str) -> bool:
    return etag in [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]


def _takes_gzip(request: Request) -> bool:
    for part in request.headers.get("accept-encoding", "").split(","):
        coding, _, weight = part.strip().partition(";")
        if coding.strip().lower() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
