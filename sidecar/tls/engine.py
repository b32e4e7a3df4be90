"""One TLS connection without a socket: bytes from the wire go in, bytes for the wire come out, for both roles.

Theory of operation
===================

OpenSSL sits between two memory BIOs. What the peer sent is put into the *incoming* one, what OpenSSL wants to send is
found in the *outgoing* one. A memory BIO never blocks, so only one answer of OpenSSL's retry dance is left: WantRead,
"I have used up the incoming bytes". The owner of an engine therefore always does the same three things::

    engine.receive(data)         # or receive_eof()
    engine.handshake(now)        # until it has returned True once, then
    plain = engine.read()
    wire = engine.to_send()      # after every call above, and after write() and close_write()

and when a call raises, once more ``to_send()``: it then holds the alert, or nothing, and never anything that must not
leave.

**The gate.** The one promise of this file is that nothing passes in either direction before the peer is proven.

* No application byte: ``SSL_read`` and ``SSL_write`` would run a handshake by themselves, so neither is reachable before
  ``handshake`` has returned True, nor after a failure.
* Nothing of our last flight. When ``do_handshake`` returns, the outgoing BIO holds it: a client's Certificate,
  CertificateVerify and Finished, a server's session tickets. ``TlsContext.prove`` runs before the owner can read that
  BIO. If it refuses, the BIO is emptied: the impostor has not seen our certificate, the refused caller has no ticket.
  Nobody is told: an alert would have to be a record behind those that were dropped, and its number would be wrong.
* What OpenSSL itself refuses (no certificate, unknown authority, wrong key, old version) it puts into an alert, which
  does leave. On the client, a failure can also come from our own signature, when parts of the flight lie before the
  alert; so a client's outgoing BIO is dropped when it holds more than an alert can be.

**States.** ``TRANSITIONS`` below is the whole machine. The two halves of an open connection end separately (RFC 8446
6.1): ours by ``close_write``, the peer's by close_notify or by the end of the bytes.

**Closing.** ``SSL_shutdown`` writes close_notify and then, when Python calls it a second time within the same
``unwrap()``, looks for the peer's. If it finds application data instead, the data is lost and the object is dead, hence:
everything readable is decrypted first and kept for ``read``, ``unwrap()`` is called exactly once, and its WantRead is
the expected answer. After that only ``read`` is used, which finds the peer's close_notify by itself. That the peer's
bytes ended *without* one is never asked of OpenSSL: ``receive_eof`` tells us, and an option of OpenSSL cannot hide it.

**Bounds.** A memory BIO keeps its largest size for ever, so neither BIO is ever given more than ``FEED_BYTES`` at once;
the rest waits in ``_held`` or ``_ready``. A peer may send ``HANDSHAKE_BYTES`` before its handshake has to be finished.

**Ownership.** While a handshake step runs nobody else may touch the SSLObject or its BIOs, so that the step can run in
another thread, where a device with our key may take its time. For that ``work`` (and ``handshake``, where nobody has called
it) is the only method that feeds or steps a connection in its handshake, and in that state ``receive`` and ``receive_eof``
only put things aside. ``to_send`` and ``handshake`` are not for the time of a step: the owner calls ``work`` in the thread,
and when it has returned ``handshake`` in its own, which takes over what came of it. So peers are proven, and every state
but that of OpenSSL changes, in one thread.
"""

from __future__ import annotations

import ssl
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, NoReturn

from sidecar.identity.peer import Peer, Role
from sidecar.tls.failure import SigningFailedError, TlsCode, TlsError, code_of, is_alert, reason_of
from sidecar.tls.hello import HELLO_BYTES, server_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.tls.contexts import Proving
    from sidecar.tls.site import Site

#: The most that a memory BIO is given at once.
FEED_BYTES = 64 * 1024
#: What a peer may send in its handshake. OpenSSL takes certificate messages up to 100 KiB; the rest is the other
#: messages and the records around them. What follows the handshake in the same segment does not count.
HANDSHAKE_BYTES = 128 * 1024
#: What may be held aside while a handshake step runs; one more ``receive`` is refused.
HELD_BYTES = 256 * 1024
#: More than the records around a TLS 1.3 alert can be: change_cipher_spec (6) and an encrypted alert (24), with padding
#: to spare; less than any certificate.
ALERT_BYTES = 128
#: More than a HelloRetryRequest with its change_cipher_spec can be (RFC 8446 4.1.4), and less than a server's flight, also
#: of a resumed handshake.
RETRY_BYTES = 128
#: Asked of OpenSSL at once: it gives one record, at most 16 KiB. A reused buffer was measured and is slower, because
#: the bytes have to be copied out of it.
_RECORD = 16 * 1024


class State(Enum):
    """Where a connection stands."""

    HANDSHAKE = "handshake"
    OPEN = "open"
    WRITE_CLOSED = "write_closed"
    """Our close_notify lies in ``to_send()`` or is gone; the peer may still send."""
    READ_CLOSED = "read_closed"
    """The peer has ended; we may still send."""
    CLOSED = "closed"
    FAILED = "failed"


class Event(Enum):
    """What moves a connection from state to state."""

    PROVEN = "proven"
    WRITE_END = "write_end"
    READ_END = "read_end"
    FAILURE = "failure"


#: The whole machine: what is not here cannot happen.
TRANSITIONS: dict[State, dict[Event, State]] = {
    State.HANDSHAKE: {Event.PROVEN: State.OPEN, Event.FAILURE: State.FAILED},
    State.OPEN: {
        Event.WRITE_END: State.WRITE_CLOSED,
        Event.READ_END: State.READ_CLOSED,
        Event.FAILURE: State.FAILED,
    },
    State.WRITE_CLOSED: {Event.READ_END: State.CLOSED, Event.FAILURE: State.FAILED},
    State.READ_CLOSED: {Event.WRITE_END: State.CLOSED, Event.FAILURE: State.FAILED},
    State.CLOSED: {},
    State.FAILED: {},
}

_WRITABLE = frozenset({State.OPEN, State.READ_CLOSED})


def _not_writable(_data: bytes | memoryview) -> NoReturn:
    msg = "write() is for a connection whose handshake is done and whose sending side is open"
    raise RuntimeError(msg)


class TlsEngine:
    """One TLS connection; see the top of this file for how it is driven.

    ``server_name`` is the SNI that a client sends (compared with nothing between sidecars); ``session`` one that this very context
    gave before, from ``context.sessions``. A name that is none (empty label, over 63 bytes) raises ValueError.

    ``ended`` becomes True when nothing more will come out of ``read``; ``eof`` (the peer's close_notify) and
    ``truncated`` (its bytes ended without) say how. A failure that follows data of the same segment also sets ``ended``,
    and the next ``read`` raises it.
    """

    __slots__ = (
        "_context",
        "_failure",
        "_fed",
        "_flowing",
        "_held",
        "_hello",
        "_incoming",
        "_object",
        "_overflow",
        "_raw",
        "_read",
        "_ready",
        "_received",
        "_session_id",
        "_unread",
        "_unsigned",
        "_wire_ended",
        "_worked",
        "_write",
        "ended",
        "eof",
        "handshake_bytes_in",
        "handshake_bytes_out",
        "outgoing",
        "peer",
        "resumed",
        "server_name_received",
        "site",
        "state",
        "truncated",
    )

    def __init__(
        self,
        context: Proving,
        *,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self.state = State.HANDSHAKE
        self.peer: Peer | None = None
        self.site: Site | None = None
        self.resumed = False
        self.server_name_received: str | None = None
        self.ended = self.eof = self.truncated = False
        self.handshake_bytes_in = self.handshake_bytes_out = 0
        self._context = context
        self._incoming = ssl.MemoryBIO()
        #: For its owner to look at ``pending`` alone: whether ``to_send`` has something.
        self.outgoing = ssl.MemoryBIO()
        self._object = context.sslcontext.wrap_bio(
            self._incoming,
            self.outgoing,
            server_side=context.role is Role.SERVER,
            server_hostname=server_name,
            session=session,
        )
        #: What `ssl.SSLObject` wraps: the same two methods with one call less for each record.
        self._raw = getattr(self._object, "_sslobj", self._object)
        self._session_id = session.id if session is not None else b""
        self._hello: bytes | None = b"" if context.role is Role.SERVER else None
        #: Received bytes that the incoming BIO has not been given yet.
        self._held: deque[bytes | memoryview] = deque()
        #: How much was ever put aside, and fed. Each has one writer, so that a step may run in a thread.
        self._received = self._fed = 0
        self._overflow = False
        #: Encrypted bytes taken out of the outgoing BIO before their turn, to keep it small.
        self._ready = b""
        #: Decrypted bytes that ``read`` has not returned yet.
        self._unread = b""
        self._failure: TlsError | SigningFailedError | None = None
        #: What came of ``work``, until ``handshake`` takes it: whether OpenSSL is done, or what it or a limit objects to.
        self._worked: bool | Exception | None = None
        #: Why our own key did not sign, where that is what OpenSSL objects to.
        self._unsigned: BaseException | None = None
        self._wire_ended = False
        #: The receiving side is open and nothing is held: bytes may go straight to OpenSSL. The only test on the hot path.
        self._flowing = False
        self._read = self._raw.read
        self._write: Callable[[bytes | memoryview], int] = _not_writable

    # -- bytes from the wire ------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Takes bytes as they arrived; never raises.

        Once the connection is open they should be fetched by ``read`` before the next ``receive``. What arrives after
        the end is ignored (RFC 8446 6.1).
        """
        if self._flowing and len(data) <= FEED_BYTES:
            self._incoming.write(data)
        else:
            self._hold(data)

    def receive_eof(self) -> None:
        """Takes note that the peer's bytes have ended; ``handshake`` or ``read`` says what that means."""
        self._wire_ended = True
        self._flowing = False

    @property
    def answered(self) -> bool:
        """Whether our flight as a server is made: what is left of the handshake needs no signature.

        A HelloRetryRequest is none: whoever asks for one has still to be signed for.
        """
        return self.handshake_bytes_out > RETRY_BYTES

    @property
    def held(self) -> int:
        """Bytes that were received and that OpenSSL has not been given yet."""
        return self._received - self._fed

    def _hold(self, data: bytes) -> None:
        if self.state is State.HANDSHAKE and self._received - self._fed >= HELD_BYTES:
            self._overflow = True  # the next step refuses
        elif not self.ended:
            self._held.append(data)
            self._received += len(data)
            self._flowing = False

    def _feed(self) -> None:
        """Moves held bytes to the incoming BIO, as many as it may be given at once."""
        held, room = self._held, FEED_BYTES
        while held and room:
            data = held.popleft()
            if len(data) > room:
                view = memoryview(data)
                held.appendleft(view[room:])
                data = view[:room]
            if self._hello is not None and len(self._hello) < HELLO_BYTES:
                self._hello += data
            room -= self._incoming.write(data)
        self._fed += FEED_BYTES - room

    # -- the handshake ------------------------------------------------------------------------------------------------

    def handshake(self, now: float) -> bool:
        """Goes on with the handshake; True when it is done and who is there is proven, also later.

        ``peer`` is set then, or ``site`` where the context is for one of the web.

        ``now`` is the wall clock in seconds since the epoch. Raises TlsError or VerificationError, SigningFailedError
        where our own key did not sign, or what the context's expectation raises; the connection is FAILED then, and
        ``to_send()`` holds the alert or nothing.
        """
        if self.state is State.FAILED:
            msg = "handshake() on a connection that has failed"
            raise RuntimeError(msg)
        if self.state is not State.HANDSHAKE:
            return True
        try:
            if not self._take_work():
                return False
            self._demand_all()
            self.resumed = bool(self._object.session_reused)
            proven = self._context.prove(self._object, now)
        except ssl.SSLError as error:
            raise self._openssl_refused(error) from error
        except BaseException:
            self._silence()
            raise
        if isinstance(proven, Peer):
            self.peer = proven
        else:
            self.site = proven
        self._move(Event.PROVEN)
        self._write = self._raw.write
        return True

    def work(self) -> None:
        """Makes OpenSSL's part of the next step, for ``handshake`` to take over. In any thread; never raises."""
        try:
            self._worked = self._advance()
        except Exception as error:  # noqa: BLE001 - raised by ``handshake``
            self._worked = error

    def _take_work(self) -> bool:
        worked, self._worked = self._worked, None
        if worked is None:
            return self._advance()
        if isinstance(worked, Exception):
            raise worked
        return worked

    def _advance(self) -> bool:
        """Lets OpenSSL work on everything that was received; True when its handshake is done."""
        while not self._step():
            if not self._held:
                return False
        return True

    def _step(self) -> bool:
        """Feeds what may be fed and lets OpenSSL work on it once; True when its handshake is done."""
        self._demand_all()
        self._feed()
        before = self.outgoing.pending
        self._context.take_failure()  # of another connection's step in this thread
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            if self._fed > HANDSHAKE_BYTES:
                raise TlsError(
                    TlsCode.HANDSHAKE_TOO_LARGE, f"the handshake is not finished after {HANDSHAKE_BYTES} bytes"
                ) from None
            if self._wire_ended and not self._held:
                raise self.cut_short() from None
            return False
        except ssl.SSLError:
            self._unsigned = self._context.take_failure()
            raise
        finally:
            written = self.outgoing.pending - before
            self.handshake_bytes_in = self._fed
            self.handshake_bytes_out += written
            if written and self._hello is not None:
                # OpenSSL has answered, so the ClientHello was complete.
                self.server_name_received = server_name(self._hello)
                self._hello = None
        return True

    def _demand_all(self) -> None:
        """Refuses where something was not held: it would be missing, before the handshake's end or behind it."""
        if self._overflow:
            raise TlsError(TlsCode.HANDSHAKE_TOO_LARGE, f"more than {HELD_BYTES} bytes arrived during one step")

    def cut_short(self) -> TlsError:
        """Says what it means that the peer's bytes have ended in the handshake; touches nothing."""
        if not self._received:
            return TlsError(TlsCode.CLOSED_BEFORE_HELLO, "the peer closed without sending a byte")
        return TlsError(TlsCode.HANDSHAKE_TRUNCATED, "the peer closed in the middle of the handshake")

    # -- data ---------------------------------------------------------------------------------------------------------

    def read(self) -> bytes:
        """Returns everything that can be decrypted now; b"" when that is nothing, or after the end.

        Raises TlsError when the peer sent an alert or something that is no TLS; what was decrypted before it is
        returned first. RuntimeError before the handshake is done.
        """
        return self._decrypted() if self._flowing else self._read_slowly()

    def take(self, data: bytes) -> bytes:
        """Takes bytes as they arrived and returns what they make readable: ``receive`` and ``read`` in one step."""
        if self._flowing and len(data) <= FEED_BYTES:
            self._incoming.write(data)
            return self._decrypted()
        self._hold(data)
        return self.read()

    def _decrypted(self) -> bytes:
        try:
            data = self._read(_RECORD)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            self._stop(error)
            return self._deliver([])
        if data and not self._incoming.pending:
            return data  # one whole record: the common case
        pieces = [data]
        if data:
            self._drain(pieces)
        else:
            self._end_reading(clean=True)
        return self._deliver(pieces)

    def _read_slowly(self) -> bytes:
        """``read`` wherever something is out of the ordinary: held or kept bytes, an end, or no permission to read."""
        if self.state is State.HANDSHAKE:
            msg = "read() before the handshake is done"
            raise RuntimeError(msg)
        pieces = [self._unread]
        self._unread = b""
        self._decrypt(pieces)
        if not self.ended:
            if self._wire_ended:
                self._end_reading(clean=False)
            else:
                self._flowing = True
        return self._deliver(pieces)

    def _decrypt(self, pieces: list[bytes]) -> None:
        """Decrypts everything that was received."""
        while not self.ended:
            self._feed()
            self._drain(pieces)
            if not self._held:
                break

    def _drain(self, pieces: list[bytes]) -> None:
        """Decrypts what OpenSSL has been given, to WantRead, close_notify or failure."""
        read = self._read
        try:
            while data := read(_RECORD):
                pieces.append(data)
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            self._stop(error)
        else:
            self._end_reading(clean=True)

    def _stop(self, error: ssl.SSLError) -> None:
        """Ends reading by what OpenSSL raised; a failure is kept until the data before it was returned."""
        if isinstance(error, ssl.SSLZeroReturnError):  # close_notify, where ours went out before
            self._end_reading(clean=True)
        else:
            self._fail_later(error)

    def _fail_later(self, error: ssl.SSLError) -> None:
        self._failure = self._openssl_refused(error)
        self._failure.__cause__ = error

    def _deliver(self, pieces: list[bytes]) -> bytes:
        data = b"".join(pieces)
        if not data and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return data

    def write(self, data: bytes | memoryview) -> None:
        """Encrypts all of ``data``; ``to_send`` has it.

        After a failure the data goes nowhere, since a peer can cause one at any time. RuntimeError before the handshake
        is done and after ``close_write``.
        """
        size = len(data)
        if size > FEED_BYTES:
            self._write_slowly(memoryview(data))
        elif size and (written := self._write(data)) < size:
            self._write_slowly(memoryview(data)[written:])

    def _write_slowly(self, view: memoryview) -> None:
        """Writes in portions, and moves each out of the BIO before the next."""
        pieces = [self._ready]
        while view:
            view = view[self._write(view[:FEED_BYTES]) :]
            pieces.append(self.outgoing.read())
        self._ready = b"".join(pieces)

    def to_send(self) -> bytes:
        """Returns and forgets the bytes that have to go to the peer, in order; b"" when there are none."""
        if self._ready:
            ready, self._ready = self._ready, b""
            return ready + self.outgoing.read()
        return self.outgoing.read()

    # -- the end ------------------------------------------------------------------------------------------------------

    def close_write(self) -> None:
        """Ends our side: close_notify lies in ``to_send()``, behind everything written; the peer may go on sending.

        A second call does nothing, nor does one after a failure. RuntimeError before the handshake is done.
        """
        if self.state is State.HANDSHAKE:
            msg = "close_write() before the handshake is done"
            raise RuntimeError(msg)
        if self.state not in _WRITABLE:
            return
        # ``unwrap`` would lose what lies undecrypted.
        pieces = [self._unread]
        self._decrypt(pieces)
        self._unread = b"".join(pieces)
        self._flowing = False
        if self.state not in _WRITABLE:
            return  # what lay there ended in a failure, which ``read`` will raise
        self._write = _not_writable
        try:
            self._object.unwrap()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self._fail_later(error)
            return
        self._move(Event.WRITE_END)

    def close(self) -> None:
        """Ends both sides: close_notify lies in ``to_send()`` and what the peer still sends is ignored. Never raises.

        Before the handshake is done, and after a failure, there is nothing that may be said: then nothing is sent.
        """
        if self.state is State.HANDSHAKE:
            self._silence()
            return
        self.close_write()
        self._unread, self._failure = b"", None
        if not self.ended:
            self._end_reading(clean=False)
            self.truncated = False  # nobody asked

    def _end_reading(self, *, clean: bool) -> None:
        self._move(Event.READ_END)
        self.ended = True
        self.eof = clean
        self.truncated = not clean
        self._flowing = False
        self._held.clear()

    def _openssl_refused(self, error: ssl.SSLError) -> TlsError | SigningFailedError:
        """The connection has failed by OpenSSL's verdict: lets its alert pass, if there is one."""
        in_handshake = self.state is State.HANDSHAKE
        code = code_of(error)
        if code is TlsCode.TRUNCATED and in_handshake:
            code = TlsCode.HANDSHAKE_TRUNCATED
        elif code is TlsCode.NOT_TLS and not in_handshake:
            code = TlsCode.BAD_RECORD
        if in_handshake and self._context.role is Role.CLIENT and self.outgoing.pending > ALERT_BYTES:
            self.outgoing.read()  # our certificate: nobody at the other end is proven yet
        alert = not is_alert(code) and self.outgoing.pending > 0
        self._fail()
        if self._unsigned is not None:
            return SigningFailedError.of(self._unsigned, alert_sent=alert)
        where = "the TLS handshake failed" if in_handshake else "the TLS connection failed"
        detail = getattr(error, "verify_message", "") or reason_of(error) or error.strerror or "no reason given"
        return TlsError(code, f"{where}: {detail}", alert_sent=alert)

    def _silence(self) -> None:
        """Fails without a word: nothing that was not sent yet will be."""
        self._fail()
        self.outgoing.read()
        self._ready = b""

    def _fail(self) -> None:
        self._move(Event.FAILURE)
        self.ended = True
        self._flowing = False
        self._hello = None
        self._write = len  # what is written from now on goes nowhere
        self._held.clear()

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state][event]

    # -- what was negotiated ------------------------------------------------------------------------------------------

    @property
    def alpn(self) -> str | None:
        """The protocol both sides chose, or None."""
        return self._object.selected_alpn_protocol()

    @property
    def version(self) -> str | None:
        """``TLSv1.3`` once there is one."""
        return self._object.version()

    @property
    def cipher(self) -> str | None:
        """The name of the cipher suite, once there is one."""
        cipher = self._object.cipher()
        return cipher[0] if cipher else None

    def session(self) -> ssl.SSLSession | None:
        """Returns the newest session that the server gave a ticket for, once; None where there is no new one.

        A client's alone. Tickets come with the first data, so ask when the connection has been read from: when it
        becomes idle, or ends.
        """
        session = self._object.session if self._context.role is Role.CLIENT else None
        if session is None or not session.has_ticket or session.id == self._session_id:
            return None
        self._session_id = session.id
        return session
