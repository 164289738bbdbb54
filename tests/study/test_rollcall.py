"""The roll call: strangers and silent connections do no harm, a folder not shared is named."""

import socket
import threading
import time

import pytest
from ports import free_port

from fairkd_jax.launch import rollcall

pytestmark = pytest.mark.quick


def call(*folders, seconds: float = 10.0, meanwhile=lambda port: None) -> list:
    """What each process is told: an error, or None; `meanwhile` is called beside process 0."""
    port, told = free_port(), [None] * len(folders)

    def report(i):
        hosts = rollcall.Hosts(f"localhost:{port}", len(folders), i)
        try:
            rollcall.meet(hosts, seconds, folders[i])
        except Exception as error:
            told[i] = error

    threads = [threading.Thread(target=report, args=(i,)) for i in range(len(folders))]
    threads[0].start()
    kept = meanwhile(port - 1)
    [t.start() for t in threads[1:]]
    [t.join() for t in threads]
    [line.close() for line in kept or ()]
    return told


def test_all_meet(tmp_path):
    assert call(tmp_path / "w", tmp_path / "w", tmp_path / "w") == [None] * 3
    assert not list((tmp_path / "w").iterdir())
    assert call(None, None) == [None, None]


def connected(port: int) -> socket.socket:
    """As soon as somebody listens there."""
    until = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("localhost", port))
        except ConnectionRefusedError:
            assert time.monotonic() < until, "nobody listens"
            time.sleep(0.02)


def strangers(port: int) -> list:
    """A port scan, an HTTP probe, noise, a wrong number, and connections that say nothing."""
    for text in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(range(256)) * 40,
                 b"fairkd_jax 7\n", b"fairkd_jax 0\n", b"1"):  # fmt: skip
        with connected(port) as line:
            line.sendall(text)
    return [connected(port) for _ in range(3)]


def test_strangers_do_no_harm(tmp_path):
    begun = time.monotonic()
    assert call(tmp_path, tmp_path, meanwhile=strangers) == [None, None]
    assert time.monotonic() - begun < 8


def test_one_that_does_not_come_is_named_beside_strangers(tmp_path):
    port = free_port()
    hosts = rollcall.Hosts(f"localhost:{port}", 3, 0)
    told = []

    def wait():
        with pytest.raises(TimeoutError, match="process 1, process 2 of 3 did not report") as e:
            rollcall.meet(hosts, 1.0, tmp_path)
        told.append(e)

    thread = threading.Thread(target=wait)
    thread.start()
    kept = strangers(port - 1)
    thread.join(5)
    [line.close() for line in kept]
    assert told


def test_a_folder_that_is_not_shared_is_named_by_all_in_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(rollcall, "LOOK_SECONDS", 0.5)
    (tmp_path / "b").mkdir()
    first, second, third = call(tmp_path / "a", tmp_path / "a", tmp_path / "b")
    for error in (first, second, third):
        assert isinstance(error, rollcall.NotShared)
        assert f"process 2, {tmp_path / 'b'} on " in str(error) and "process 1" not in str(error)
        assert "a --workdir that all hosts share" in str(error)
