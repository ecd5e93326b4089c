"""Open thousands of idle sockets on one process, see each of them pinged, and drain them all with SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from benchmarks import results, servers

CONNECTING_AT_ONCE = 100
RESTART = 1012


class Idler(WSListener):
    """Answers pings, remembers how it ended, and says nothing of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.pings = 0
        self.closing_messages = 0
        self.close_code: object = None
        self.gone_at: float | None = None

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            self.pings += 1
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            text = frame.get_payload_as_bytes()
            if b'"system.ping"' in text:
                self.pings += 1
                transport.send(WSMsgType.TEXT, text.replace(b"system.ping", b"system.pong"))
            elif b'"system.closing"' in text:
                self.closing_messages += 1
        elif frame.msg_type == WSMsgType.CLOSE:
            code = frame.get_close_code()
            self.close_code = code
            transport.send_close(code)
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone_at = time.monotonic()


async def run(options: argparse.Namespace, server: servers.Server) -> dict[str, Any]:
    """Connect, hold, drain; return what was seen."""
    memory_before = server.resident_bytes()
    began = time.monotonic()
    opened = await asyncio.gather(
        *_connections(options, f"ws://127.0.0.1:{server.port}/idle"), return_exceptions=True
    )
    idlers = [one for one in opened if isinstance(one, Idler)]
    refused = collections.Counter(type(one).__name__ for one in opened if not isinstance(one, Idler))
    connecting = time.monotonic() - began
    print(
        f"{len(idlers)} connected in {connecting:.1f} s, {sum(refused.values())} refused {dict(refused)}",
        flush=True,
    )
    memory = server.resident_bytes()
    cpu = server.cpu_seconds()
    await asyncio.sleep(options.hold)
    idle_cpu = server.cpu_seconds()
    lost = sum(idler.gone_at is not None for idler in idlers)
    silent = sum(not idler.pings for idler in idlers)
    print(f"held for {options.hold:g} s: {lost} lost, {silent} never pinged", flush=True)
    began = time.monotonic()
    server.terminate()
    exit_code = await asyncio.to_thread(server.process.wait, options.drain + 30)
    draining = time.monotonic() - began
    # What the server sent last may still be in the kernel.
    await asyncio.sleep(0.5)
    codes = collections.Counter(str(idler.close_code) for idler in idlers)
    print(f"drained in {draining:.1f} s, exit code {exit_code}, close codes {dict(codes)}")
    return {
        "sockets": options.sockets,
        "connected": len(idlers),
        "refused": dict(refused),
        "connect_seconds": round(connecting, 2),
        "connects_per_second": round(len(idlers) / connecting, 1),
        "kib_per_socket": _per_socket(memory_before, memory, len(idlers)),
        "hold_seconds": options.hold,
        "idle_cpu_share": None
        if cpu is None or idle_cpu is None
        else round((idle_cpu - cpu) / options.hold, 3),
        "lost": lost,
        "never_pinged": silent,
        "pings": sum(idler.pings for idler in idlers),
        "drain_seconds": round(draining, 2),
        "exit_code": exit_code,
        "close_codes": dict(codes),
        "told_of_closing": sum(idler.closing_messages for idler in idlers),
    }


def _connections(options: argparse.Namespace, url: str) -> list[Any]:
    turn = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one(number: int) -> Idler:
        def made(_: Any) -> socket.socket:
            made_socket = socket.socket()
            made_socket.setblocking(False)
            made_socket.bind((f"127.0.0.{1 + number % options.addresses}", 0))
            return made_socket

        async with turn:
            _transport, idler = await ws_connect(
                Idler,
                url,
                websocket_handshake_timeout=30,
                enable_auto_pong=False,
                read_buffer_init_size=512,
                socket_factory=made,
                use_aiofastnet=False,
            )
            return cast("Idler", idler)

    return [one(number) for number in range(options.sockets)]


def _per_socket(before: int | None, after: int | None, count: int) -> float | None:
    return None if before is None or after is None or not count else round((after - before) / 1024 / count, 1)


def faults(result: dict[str, Any]) -> list[str]:
    """Return what did not go as it should."""
    wanted = {"connected": result["sockets"], "lost": 0, "never_pinged": 0, "exit_code": 0}
    found = [
        f"{name} is {result[name]}, not {value}" for name, value in wanted.items() if result[name] != value
    ]
    if result["close_codes"] != {str(RESTART): result["sockets"]}:
        found.append(f"close codes are {result['close_codes']}, not {RESTART} for all")
    return found


def main() -> int:
    """Run it; 1 if a socket was refused, lost, forgotten or not sent away properly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sockets", type=int, default=5000)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between heartbeats (5)")
    parser.add_argument("--hold", type=float, default=20.0, help="seconds the sockets are held (20)")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds the server has for draining (30)")
    parser.add_argument(
        "--addresses", type=int, default=8 if sys.platform == "linux" else 1, help="source addresses"
    )
    parser.add_argument("--out", type=Path, help="file for the JSON (benchmarks/results/...)")
    options = parser.parse_args()
    files = servers.raise_file_limit()
    if files < options.sockets + 100:
        parser.error(
            f"{options.sockets} sockets need as many open files, and this machine allows {files}: ulimit -n"
        )
    server_core, load_core = servers.cores() or (None, None)
    settings = {
        "REALTIME_HEARTBEAT_INTERVAL": options.interval,
        "REALTIME_HEARTBEAT_TIMEOUT": options.interval * 3,
        "REALTIME_DRAIN_TIMEOUT": options.drain,
    }
    with servers.serving(servers.Launch("daphne", "ours"), server_core, settings) as server:
        if load_core is not None:
            os.sched_setaffinity(0, {load_core})
        result = uvloop.run(run(options, server))
    found = faults(result)
    print("\n".join(found) or "as it should be")
    print(results.write("idle", result, options.out))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
