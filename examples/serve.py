"""A model that many clients stream to at once: each WebSocket connection is a session, steps are computed in batches.

pip install -e '.[serve]'
python examples/serve.py model.safetensors --port 8765

A client sends a step as one binary message of float32 numbers (input_size of them, little-endian) and gets h of the
last layer back in the same form, one message for each of its own, in their order. Its state lives as long as
the connection. A batch is computed when everyone who is connected has sent, or a few milliseconds after the first.

Close codes tell a client why it was cut off: 1003 for text, 1007 for a message of a wrong size or with numbers that are
not finite, 1008 for more steps under way than it may have, 1013 when the server is full.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

import numlstm

log = logging.getLogger("serve")
FLOAT = np.dtype("<f4")
T = TypeVar("T")
Refusal = tuple[CloseCode, str]


class Client:
    """One connection: its session, the steps that wait, and the results on their way to it."""

    def __init__(self, connection: ServerConnection, session: Any) -> None:
        self.connection, self.session = connection, session
        self.inputs: deque[Any] = deque()
        self.outputs: asyncio.Queue[bytes] = asyncio.Queue()
        self.under_way = 0  # steps received whose result has not been sent

    async def send_results(self) -> None:
        """Whoever does not read its results waits here, and keeps nobody else waiting."""
        with suppress(ConnectionClosed):
            while True:
                await self.connection.send(await self.outputs.get())
                self.under_way -= 1


class Server:
    """Connections on one side, a pool of sessions on the other.

    Parameters
    ----------
    lstm : numlstm.LSTM
        In one direction.
    capacity : int
        Connections at once.
    patience : float
        Seconds that a step waits for those of others, at most.
    outstanding : int
        Steps that a client may have under way: sent, and the result not received.

    Attributes
    ----------
    batches : Counter
        How many steps were computed of how many sessions.
    """

    def __init__(
        self, lstm: numlstm.LSTM, capacity: int = 1024, patience: float = 0.004, outstanding: int = 16
    ) -> None:
        self.input_size, self.patience, self.outstanding = lstm.input_size, patience, outstanding
        self.pool = lstm.pool(capacity)
        self.clients: set[Client] = set()
        self.ready: set[Client] = set()  # those with steps that wait
        self.go = asyncio.Event()
        self.timer: asyncio.TimerHandle | None = None
        self.thread = ThreadPoolExecutor(1, "steps")  # whatever touches the pool runs here, one after the other
        self.batches: Counter[int] = Counter()

    async def in_thread(self, work: Callable[..., T], *given: Any) -> T:
        """Off the event loop, which goes on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, *given)

    async def run(self, host: str, port: int, started: asyncio.Future[Listener] | None = None) -> None:
        """Serve until cancelled. The reasons for which clients are cut off are in the log."""
        options: dict[str, Any] = {"compression": None, "max_size": 64 + 2 * FLOAT.itemsize * self.input_size}
        try:
            async with (
                asyncio.TaskGroup() as group,
                serve(self.handle, host, port, close_timeout=1, **options) as listener,
            ):
                group.create_task(self.compute())
                if started is not None:
                    started.set_result(listener)
                log.info("listening on ws://%s:%d", *listener.sockets[0].getsockname()[:2])
                await asyncio.Future()
        finally:
            self.thread.shutdown()

    async def handle(self, connection: ServerConnection) -> None:
        """One client, from the first message to the last."""
        try:
            session = await self.in_thread(self.pool.open)
        except (RuntimeError, MemoryError):
            await connection.close(CloseCode.TRY_AGAIN_LATER, f"full: {self.pool.capacity} clients are connected")
            return
        client = Client(connection, session)
        self.clients.add(client)
        sending = asyncio.create_task(client.send_results())
        refusal = None
        try:
            with suppress(ConnectionClosed):
                async for message in connection:
                    if refusal := self.refusal(client, message):
                        break
                    self.arrived(client, message)
        finally:
            self.clients.discard(client)
            self.ready.discard(client)
            self.schedule()  # the others need not wait for it
            sending.cancel()
            await asyncio.shield(self.in_thread(session.close))
        if refusal:
            log.info("%s:%d is cut off: %s", *connection.remote_address[:2], refusal[1])
            await connection.close(*refusal)

    def refusal(self, client: Client, message: bytes | str) -> Refusal | None:
        """Why a client is cut off for this message: a close code, and a reason of 123 bytes at most."""
        if isinstance(message, str):
            return CloseCode.UNSUPPORTED_DATA, "text: a step is a binary message of float32 numbers"
        wanted = FLOAT.itemsize * self.input_size
        if len(message) != wanted:
            return CloseCode.INVALID_DATA, f"{len(message)} bytes: a step has {self.input_size} float32, {wanted} bytes"
        if not np.isfinite(np.frombuffer(message, FLOAT)).all():
            return CloseCode.INVALID_DATA, "a number is NaN or infinite"
        if client.under_way >= self.outstanding:
            return CloseCode.POLICY_VIOLATION, f"more than {self.outstanding} steps under way: read results first"
        return None

    # ------------------------------------------------------------ batches

    def arrived(self, client: Client, message: bytes) -> None:
        """A step that waits for the next batch, or for one after it."""
        client.under_way += 1
        client.inputs.append(np.frombuffer(message, FLOAT))
        self.ready.add(client)
        self.schedule()

    def schedule(self) -> None:
        """Compute at once if nobody is missing, and else within `patience` of the first step that waits."""
        if not self.ready:
            return
        if len(self.ready) == len(self.clients):
            self.go.set()
        elif self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(self.patience, self.go.set)

    async def compute(self) -> None:
        """Batch after batch: a step of each client that has one waiting."""
        while True:
            await self.go.wait()
            self.go.clear()
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None
            batch = {client: client.inputs.popleft() for client in self.ready}
            self.ready = {client for client in self.ready if client.inputs}
            self.schedule()
            if not batch:  # those who were ready have left
                continue
            outputs = await self.in_thread(self.pool.step, {client.session: x for client, x in batch.items()})
            self.batches[len(batch)] += 1
            for client in batch:
                client.outputs.put_nowait(outputs[client.session].astype(FLOAT).tobytes())


# ------------------------------------------------------------ command line


def arguments(given: list[str] | None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Serve an LSTM: each WebSocket connection is a live sequence.")
    parser.add_argument("model", help="a file that numlstm.load reads")
    parser.add_argument("--name", help="which LSTM of the file, where there are several")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8765, help="port to listen on (default 8765; 0: any)")
    parser.add_argument("--capacity", type=int, default=1024, help="connections at once (default 1024)")
    parser.add_argument("--patience", type=float, default=4.0, help="ms that a step waits for others (default 4)")
    parser.add_argument("--outstanding", type=int, default=16, help="steps a client may have under way (default 16)")
    return parser.parse_args(given)


async def main(given: list[str] | None = None) -> None:
    """The command; what goes wrong is a sentence."""
    asked = arguments(given)
    try:
        server = Server(numlstm.load(asked.model, asked.name), asked.capacity, asked.patience / 1000, asked.outstanding)
        await server.run(asked.host, asked.port)
    except (OSError, ValueError) as error:
        raise SystemExit(f"serve: {error}") from None


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)  # it says who connects
    with suppress(KeyboardInterrupt):
        asyncio.run(main())
