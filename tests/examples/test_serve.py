"""examples/serve.py with real clients that connect, drop out, flood it and send garbage.

Limits on time are limits against a hang.
"""

import asyncio
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from judge import same_bits
from needs import need
from scripts import script

import numlstm
from numlstm.runtime.executor import Executor

connect = need("websockets.asyncio.client").connect
connect_in_turn = need("websockets.sync.client").connect
ConnectionClosed = need("websockets.exceptions").ConnectionClosed

SCRIPT = Path(__file__).parents[2] / "examples" / "serve.py"
FOR_EVER = 60.0  # seconds
INPUTS = 6


@pytest.fixture(scope="module")
def example():
    return script(SCRIPT)


@pytest.fixture(scope="module")
def lstm():
    return numlstm.LSTM(INPUTS, 20, num_layers=2, seed=0).eval()


@asynccontextmanager
async def serving(example, lstm, **options):
    """A server, and how to connect to it."""
    server, started = example.Server(lstm, **options), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(server.run("127.0.0.1", 0, started))
    try:
        async with asyncio.timeout(FOR_EVER):
            await asyncio.wait([running, started], return_when=asyncio.FIRST_COMPLETED)
            port = started.result().sockets[0].getsockname()[1]
            yield server, lambda: connect(f"ws://127.0.0.1:{port}", compression=None)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def numbers(message):
    return np.frombuffer(message, "<f4")


class Solo:
    """A connection beside a call for each of its steps."""

    def __init__(self, lstm, connection, seed):
        self.lstm, self.connection, self.state, self.wanted = lstm, connection, None, []
        self.rng, self.received = np.random.default_rng(seed), 0

    async def send(self):
        x = self.rng.standard_normal(INPUTS).astype(np.float32)
        output, self.state = self.lstm(x[None], self.state)
        self.wanted.append(output[0])
        await self.connection.send(x.astype("<f4").tobytes())

    async def receive(self):
        got = numbers(await self.connection.recv())
        assert same_bits(got.astype(np.float32), self.wanted[self.received]), self.received
        self.received += 1

    async def steps(self, count, window=1):
        """So many steps, with `window` of them under way."""
        for n in range(count):
            await self.send()
            if n >= window - 1:
                await self.receive()
        while self.received < len(self.wanted):
            await self.receive()


async def cut_off(connection):
    """The code and the reason with which the server ends a connection."""
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            await connection.recv()
    assert closed.value.rcvd is not None, "the connection broke off without a close frame"
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def visitor(lstm, connecting, seed):
    """One client after the other, each with its own manner and its own end."""
    rng, steps = np.random.default_rng(seed), 0
    for visit in range(4):
        async with connecting() as connection:
            solo = Solo(lstm, connection, (seed, visit))
            for _ in range(int(rng.integers(1, 5))):
                await solo.steps(int(rng.integers(1, 8)), int(rng.integers(1, 6)))
                await asyncio.sleep(rng.random() * 0.01)
            steps += solo.received
            end = rng.integers(3)
            if end > 0:  # with results on the way that nobody will read
                await solo.send()
                await solo.send()
            if end > 1:  # without a word
                connection.transport.abort()
    return steps


async def troublemaker(connecting, seed):
    """Garbage or a flood after some good steps; the reason that it is told."""
    rng = np.random.default_rng(seed)
    good = np.zeros(INPUTS, "<f4").tobytes()
    async with connecting() as connection:
        for _ in range(int(rng.integers(4))):
            await connection.send(good)
            await connection.recv()
        bad = [
            "step",
            good[:-1],
            b"",
            np.full(INPUTS, np.nan, "<f4").tobytes(),
            np.array([0] * (INPUTS - 1) + [-np.inf], "<f4").tobytes(),
            good * 3,
            good * 1000,
        ]
        kind = seed % (len(bad) + 1)
        try:
            if kind < len(bad):
                await connection.send(bad[kind])
            else:
                for _ in range(200):
                    await connection.send(good)
        except ConnectionClosed:
            pass
        code, reason = await cut_off(connection)
        return kind, code, reason.split(":")[0]


REASONS = {
    0: (1003, "text"),
    1: (1007, "23 bytes"),
    2: (1007, "0 bytes"),
    3: (1007, "a number is NaN or infinite"),
    4: (1007, "a number is NaN or infinite"),
    5: (1007, "72 bytes"),
    6: (1009, "frame with 24000 bytes exceeds limit of 112 bytes"),
    7: (1008, "more than 8 steps under way"),
}


def test_clients_come_and_go_beside_floods_and_garbage(example, lstm):
    """Every result is that of a loop of its own; nobody's session stays behind."""

    async def run():
        async with serving(example, lstm, patience=0.002, outstanding=8) as (server, connecting):
            async with asyncio.TaskGroup() as group:
                visitors = [group.create_task(visitor(lstm, connecting, seed)) for seed in range(24)]
                trouble = [group.create_task(troublemaker(connecting, seed)) for seed in range(24)]
            assert sum(task.result() for task in visitors) > 500
            for task in trouble:
                kind, code, reason = task.result()
                assert (code, reason) == REASONS[kind]
            assert max(server.batches) > 5, server.batches
            while server.clients:  # of those who left without a word, the system tells a little later
                await asyncio.sleep(0.01)
            await server.in_thread(lambda: None)
            assert len(server.pool) == 0 and not server.ready

    asyncio.run(run())


@pytest.mark.parametrize("fault", ["results of others", "a step twice", "a step lost"])
def test_planted_faults_are_noticed(example, lstm, fault):
    """A server that mixes up sessions, or steps, does not pass the comparison."""

    async def run():
        async with serving(example, lstm, patience=3600) as (server, connecting):
            step, calls = server.pool.step, []

            def wrong(inputs):
                calls.append(inputs)
                outputs = step(inputs)
                if fault == "results of others":
                    return dict(zip(outputs, list(outputs.values())[::-1], strict=True))
                if len(calls) == 2:
                    return step(inputs) if fault == "a step twice" else step(calls[0])
                return outputs

            server.pool.step = wrong
            async with connecting() as first, connecting() as second:
                solos = [Solo(lstm, first, 1), Solo(lstm, second, 2)]
                while len(server.clients) < 2:
                    await asyncio.sleep(0.001)
                await asyncio.gather(*(solo.steps(4) for solo in solos))

    with pytest.raises(AssertionError):
        asyncio.run(run())


def test_a_batch_waits_for_all_who_are_there_and_no_longer(example, lstm):
    """With patience without end: the last one to send, or to leave, lets the others go on."""

    async def run():
        async with (
            serving(example, lstm, patience=3600) as (server, connecting),
            connecting() as first,
            connecting() as second,
            connecting() as silent,
        ):
            solos = [Solo(lstm, first, 1), Solo(lstm, second, 2)]
            while len(server.clients) < 3:
                await asyncio.sleep(0.001)
            for solo in solos:
                await solo.send()
            while len(server.ready) < 2:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)
            assert not server.batches
            await silent.close()
            await asyncio.gather(*(solo.receive() for solo in solos))
            await asyncio.gather(*(solo.steps(5) for solo in solos))
            assert server.batches == {2: 6}

    asyncio.run(run())


def test_patience_ends(example, lstm):
    """Somebody silent holds nobody up for ever."""

    async def run():
        async with serving(example, lstm, patience=0.01) as (server, connecting), connecting(), connecting() as one:
            while len(server.clients) < 2:
                await asyncio.sleep(0.001)
            await Solo(lstm, one, 1).steps(5)
            assert server.batches == {1: 5}

    asyncio.run(run())


def test_the_loop_goes_on_while_a_step_is_computed(example, lstm, monkeypatch):
    """A step that does not end yet: others connect, are answered, and are refused garbage."""
    entered, let_go, forward = threading.Event(), threading.Event(), Executor.run

    def stuck(*arguments):
        entered.set()
        assert let_go.wait(FOR_EVER)
        forward(*arguments)

    monkeypatch.setattr(Executor, "run", stuck)

    async def run():
        async with serving(example, lstm) as (server, connecting), connecting() as one, connecting() as other:
            while len(server.clients) < 2:
                await asyncio.sleep(0.001)
            solo = Solo(lstm, one, 1)
            await solo.send()
            while not entered.is_set():
                await asyncio.sleep(0.001)
            try:
                await (await other.ping())
                async with connecting() as third:
                    await (await third.ping())
                assert not server.batches
            finally:
                let_go.set()
            await solo.receive()
            await other.send("garbage")
            assert (await cut_off(other))[0] == 1003
            await solo.steps(3)

    asyncio.run(run())


def test_who_does_not_read_is_cut_off_and_holds_nobody_up(example, lstm):
    """As when the system takes no more for a connection, whose ``send`` then does not return."""

    async def run():
        async with (
            serving(example, lstm, outstanding=4, patience=0.001) as (server, connecting),
            connecting() as deaf,
        ):
            good = np.zeros(INPUTS, "<f4").tobytes()
            while not server.clients:
                await asyncio.sleep(0.001)
            (client,) = server.clients
            client.connection.send = lambda data: asyncio.Future()
            await deaf.send(good)
            await deaf.recv()  # which had its ``send`` already
            for _ in range(4):
                await deaf.send(good)
            async with connecting() as other:
                await Solo(lstm, other, 1).steps(20, window=3)
            assert client.under_way == 4 and client in server.clients
            await deaf.send(good)
            assert await cut_off(deaf) == (1008, "more than 4 steps under way: read results first")

    asyncio.run(run())


def test_full(example, lstm):
    async def run():
        async with serving(example, lstm, capacity=2) as (server, connecting):
            async with connecting() as first, connecting():
                while len(server.clients) < 2:
                    await asyncio.sleep(0.001)
                async with connecting() as third:
                    assert await cut_off(third) == (1013, "full: 2 clients are connected")
                await Solo(lstm, first, 1).steps(3)
            while server.clients:
                await asyncio.sleep(0.001)
            async with connecting() as fourth:
                await Solo(lstm, fourth, 4).steps(3)

    asyncio.run(run())


def test_reasons_fit_a_close_frame(example):
    server = example.Server(numlstm.LSTM(10**4, 1), outstanding=10**6)
    client = example.Client(None, None)
    client.under_way = 10**6
    messages = ["", b"", np.full(10**4, np.nan, "<f4").tobytes(), bytes(4 * 10**4)]
    refusals = [server.refusal(client, message) for message in messages]
    assert all(len(reason.encode()) <= 123 for _, reason in refusals)
    assert [int(code) for code, _ in refusals] == [1003, 1007, 1007, 1008]
    client.under_way = 0
    assert server.refusal(client, messages[-1]) is None
    server.thread.shutdown()


def test_the_command(example, lstm, tmp_path):
    """A server of its own, a client as in docs/sessions.md, and Ctrl-C."""
    lstm.save(tmp_path / "model.safetensors")
    command = [sys.executable, str(SCRIPT), str(tmp_path / "model.safetensors"), "--port", "0"]
    # ignored in what a shell starts in the background, and by its children then
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        signal.signal(signal.SIGINT, before)
        try:
            address = next(line.split()[-1] for line in server.stderr if "ws://" in line)  # after what the log says
            x, state = np.ones((3, INPUTS), np.float32), None
            with connect_in_turn(address, compression=None) as connection:
                for step in x:
                    connection.send(step.astype("<f4").tobytes())
                    output, state = lstm(step[None], state)
                    assert same_bits(numbers(connection.recv(timeout=FOR_EVER)).astype(np.float32), output[0])
            server.send_signal(signal.SIGINT)
            assert server.wait(FOR_EVER) == 0, server.stderr.read()
        finally:
            server.kill()


@pytest.mark.parametrize("given, says", [(["none.safetensors"], "none.safetensors"), (["x.npz", "--port", "a"], "")])
def test_the_command_says_what_is_wrong(example, given, says, capsys):
    with pytest.raises(SystemExit) as ended:
        asyncio.run(example.main(given))
    assert says in str(ended.value) and (says or "invalid int value" in capsys.readouterr().err)
