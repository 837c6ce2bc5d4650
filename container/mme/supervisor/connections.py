"""The TCP connections of the front end, as the kernel knows them: who waits for an answer, and how to let in no more.

MMS has no way to be asked either. The kernel counts what each connection has received and sent, and when; it tells
any process, through a netlink socket (linux/inet_diag.h, man 7 sock_diag). Linux only.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_REQUEST_AND_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_ERROR, _DONE = 2, 3  # NLMSG_ERROR, NLMSG_DONE
_INET_DIAG_INFO = 2  # the attribute that holds a struct tcp_info
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = 1, 8, 10
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr
# struct inet_diag_msg: family and state, the port on this side, …, unacknowledged bytes, user, inode
_MESSAGE = struct.Struct("=BBxx2s54xIII")
_MESSAGE_BYTES = 72
_PIDFD_GETFD = 438  # the same number on every architecture; the C library has no function for it


@dataclass(frozen=True)
class Connection:
    """One connection of a client."""

    inode: int
    received_bytes: int
    sent_segments: int
    since_received_ms: int
    since_sent_ms: int
    unacknowledged_bytes: int

    @property
    def awaits_answer(self) -> bool | None:
        """Whether the client has sent (a part of) a request that is not answered; None if that cannot be told.

        Clients of HTTP/1.1 send and receive in turns: where more was received after the last was sent, a request is
        under way. The kernel's clock ticks every 1 to 10 ms: within a tick the order is not known.
        """
        if self.unacknowledged_bytes:
            return True  # it is being answered
        if not self.received_bytes:
            return False
        if not self.sent_segments or self.since_received_ms < self.since_sent_ms:
            return True
        return None if self.since_received_ms == self.since_sent_ms else False


def connections_to(port: int) -> list[Connection]:
    """All connections of clients to ``port`` of this machine (or container). Raises ``OSError`` if nobody tells."""
    found = []
    for message in _dump(1 << _ESTABLISHED | 1 << _CLOSE_WAIT, port):
        information = message.information
        sent_ms, _, received_ms = struct.unpack_from("=III", information, 44)
        (received_bytes,) = struct.unpack_from("=Q", information, 128)
        (sent_segments,) = struct.unpack_from("=I", information, 156)
        found.append(
            Connection(message.inode, received_bytes, sent_segments, received_ms, sent_ms, message.unacknowledged_bytes)
        )
    return found


def stop_listening(pid: int, port: int) -> bool:
    """Makes ``pid``, a descendant, refuse new connections to ``port``; open ones go on. False if that is not allowed.

    The kernel gives us a copy of its listening socket (man 2 pidfd_getfd), which we shut down. Docker's default
    seccomp profile forbids that, unless the container is given CAP_SYS_PTRACE.
    """
    try:
        listening = {message.inode for message in _dump(1 << _LISTEN, port)}
        numbers = [number for number, inode in _sockets_of(pid) if inode in listening]
        pidfd = os.pidfd_open(pid)
        try:
            for number in numbers:
                with socket.socket(fileno=_copy_descriptor(pidfd, number)) as copy:
                    copy.shutdown(socket.SHUT_RDWR)
        finally:
            os.close(pidfd)
    except OSError:
        return False
    return bool(numbers)


def _copy_descriptor(pidfd: int, number: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return copy


def _sockets_of(pid: int) -> Iterator[tuple[int, int]]:
    """(descriptor, inode) of each socket of a process."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            yield int(entry.name), int(target[len("socket:[") : -1])


@dataclass(frozen=True)
class _Message:
    unacknowledged_bytes: int
    inode: int
    information: bytes  # struct tcp_info


def _dump(states: int, port: int) -> Iterator[_Message]:
    for family in (socket.AF_INET, socket.AF_INET6):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
            request = _REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), states)
            header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _REQUEST_AND_DUMP, 0, 0)
            kernel.sendall(header + request)
            for message in _answers(kernel):
                _, _, local_port, unacknowledged_bytes, _, inode = _MESSAGE.unpack_from(message)
                if int.from_bytes(local_port) == port:
                    yield _Message(unacknowledged_bytes, inode, _information(message[_MESSAGE_BYTES:]))


def _answers(kernel: socket.socket) -> Iterator[bytes]:
    while True:
        received = kernel.recv(1 << 18)
        while received:
            length, kind, *_ = _HEADER.unpack_from(received)
            if kind == _DONE:
                return
            if kind == _ERROR:
                (error,) = struct.unpack_from("=i", received, _HEADER.size)
                raise OSError(-error, "sock_diag")
            yield received[_HEADER.size : length]
            received = received[_aligned(length) :]


def _information(attributes: bytes) -> bytes:
    while attributes:
        length, kind = _ATTRIBUTE.unpack_from(attributes)
        if kind == _INET_DIAG_INFO:
            return attributes[_ATTRIBUTE.size : length].ljust(160, b"\0")
        attributes = attributes[_aligned(length) :]
    return bytes(160)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def count_in_flight(connections: Iterable[Connection]) -> int:
    """How many requests may be under way: one for each connection that is not known to await nothing."""
    return sum(connection.awaits_answer is not False for connection in connections)
