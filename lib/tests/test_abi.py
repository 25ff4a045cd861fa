# SPDX-License-Identifier: MIT
"""Frames, their bytes, and the stream they travel on. No agent is needed."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pvmlab import abi
from pvmlab.abi import BadFrame, Frame
from pvmlab.errors import MachineDied, MachineTimeout, SetupError
from pvmlab.wire import Wire

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
frames = st.builds(
    Frame, seq=u32, op=u32, slot=u32, status=u32, code=u32, want=u32,
    result=st.integers(-2**63, 2**63 - 1), args=st.tuples(*[u64] * 6),
    payload=st.binary(max_size=300))


class StubPort:
    """A port whose other end is the test."""

    timeout = 0.3

    def __init__(self):
        self.sock, self.theirs = socket.socketpair()

    def running(self):
        return contextlib.nullcontext()

    def check(self):
        pass


@pytest.fixture
def port():
    port = StubPort()
    with port.sock, port.theirs:
        yield port


def test_the_layout_is_what_the_agent_compiles():
    assert abi.header_len() == 88
    offset = {name: field.offset for name, field in
              abi.ffi().typeof("struct pvm_frame").fields}
    assert (offset["payload_len"], offset["result"], offset["args"]) == (24, 32, 40)


@given(frames, st.binary(max_size=100))
def test_decoding_undoes_encoding(frame, tail):
    data = frame.encode()
    assert abi.decode(data + tail) == (frame, len(data))


@given(frames, st.data())
def test_an_incomplete_frame_is_none(frame, data):
    encoded = frame.encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    assert abi.decode(encoded[:cut]) is None


@given(st.binary(min_size=88, max_size=200))
def test_junk_is_refused(data):
    if data[:4] != b"PVM1":
        with pytest.raises(BadFrame):
            abi.decode(data)


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 400), max_size=30))
def test_any_cutting_of_the_stream_gives_the_same_frames(sent, cuts):
    port = StubPort()
    with port.sock, port.theirs:
        wire, stream = Wire(port), b"".join(frame.encode() for frame in sent)
        wire._awaited |= {frame.seq for frame in sent}
        for cut in [*cuts, len(stream)]:
            port.theirs.sendall(stream[:cut])
            stream = stream[cut:]
            wire._receive()
        last = {frame.seq: frame for frame in sent}
        assert {seq: wire.take(seq) for seq in last} == last


def test_replies_come_in_any_order(port):
    wire = Wire(port)
    first, second = wire.number(), wire.number()
    for seq in (first, second):
        wire.post(seq, 2, what="a call")
    port.theirs.sendall(Frame(second, 2).encode() + Frame(first, 2).encode())
    assert wire.wait(first, what="a call").seq == first
    assert wire.wait(second, what="a call").seq == second


def test_late_replies_of_what_was_given_up_are_dropped(port):
    wire = Wire(port)
    late, seq = wire.number(), wire.number()
    wire.post(late, 2, what="a call")
    with pytest.raises(MachineTimeout, match="a call: no answer within 0.01 s"):
        wire.wait(late, 0.01, what="a call")
    wire.forget(late)
    wire.post(seq, 2, what="the next")
    port.theirs.sendall(Frame(late, 2).encode() + Frame(seq, 2).encode())
    assert wire.wait(seq, what="the next").seq == seq
    assert wire.take(late) is None and not wire._replies


def test_a_frame_cut_by_an_interrupt_is_finished_first(port):
    wire = Wire(port)
    data = Frame(7, 2, payload=b"x" * 50).encode()
    wire._outgoing.data = data                  # as if send() had taken 10 bytes
    port.sock.send(data[:10])
    wire._outgoing.sent.append(10)
    seq = wire.number()
    wire.post(seq, 2, what="the next")
    got = port.theirs.recv(1000)
    assert got[:len(data)] == data
    assert abi.decode(got[len(data):])[0].seq == seq


def test_a_full_socket_is_a_timeout_not_a_hang(port):
    wire = Wire(port)
    with pytest.raises(MachineTimeout):
        for _ in range(100):
            wire.post(wire.number(), 2, what="a call", payload=bytes(100_000))


def test_a_closed_connection_is_told(port):
    port.theirs.close()
    with pytest.raises(MachineDied):
        Wire(port).wait(1, what="a call")


def test_a_wrong_root_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PVMLAB_ROOT", str(tmp_path))
    with pytest.raises(SetupError, match="PVMLAB_ROOT"):
        abi.find_root()
