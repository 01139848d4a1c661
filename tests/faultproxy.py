"""A TCP proxy that does to a connection what networks do: a small asyncio server in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

FAULTS = ("pass", "refuse", "stall", "stall_after_headers", "throttle", "reset", "delay", "replace")


class FaultProxy:
    """Listens on a free loopback port and passes on to `upstream`, under the fault that is set.

    pass; refuse (nothing listens); stall (accepts, never answers); stall_after_headers; throttle (`rate` bytes a
    second, headers included); reset (RST on the first byte); delay (`seconds` before the answer begins); replace
    (answers `answer`, raw bytes). A fault counts for connections made after it is set; those that are open are cut.
    """

    def __init__(self, upstream: tuple[str, int]) -> None:
        self.upstream = upstream
        self.fault = "pass"
        self.rate = 1.0
        self.seconds = 1.0
        self.answer = b""
        self.connections = 0
        with socket.socket() as probe:  # the port stays ours by name while `refuse` has nothing listen on it
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, fault: str, **settings: Any) -> None:
        """Another fault from now on, with `rate`, `seconds` or `answer` where it takes one."""
        assert fault in FAULTS, fault
        for name, value in settings.items():
            assert hasattr(self, name), name
            setattr(self, name, value)
        self.fault = fault
        self._run(self._close())
        if fault != "refuse":
            self._run(self._listen())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, OSError):
                await self._answer(reader, writer)
        except asyncio.CancelledError:
            pass  # the fault has changed
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.fault == "stall":
            await asyncio.Event().wait()
        if self.fault == "reset":
            await reader.read(1)
            option = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
            return
        if self.fault == "replace":
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.answer)
            await writer.drain()
            return
        up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        sending = asyncio.create_task(_copy(reader, up_writer))
        try:
            await self._back(up_reader, writer)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            up_writer.close()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = True
        while data := await reader.read(65_536):
            if self.fault == "stall_after_headers":
                head, end, _ = data.partition(b"\r\n\r\n")
                writer.write(head + end)
                await writer.drain()
                await asyncio.Event().wait()
            if self.fault == "delay" and first:
                await asyncio.sleep(self.seconds)
            first = False
            if self.fault == "throttle":
                for byte in data:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1 / self.rate)
            else:
                writer.write(data)
                await writer.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
