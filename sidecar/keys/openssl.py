"""Lets an ``ssl.SSLContext`` use a `Signer`: an OpenSSL provider (provider(7)) whose EC keys are Python objects.

How it works
============

``OSSL_PROVIDER_add_builtin`` takes a C function that hands OpenSSL tables of functions; ctypes makes all of them out of
Python ones. Three algorithms are enough:

* a DECODER that knows one PEM label of ours, so that the ordinary ``SSLContext.load_cert_chain`` takes our key: nothing
  is dug out of CPython's structures. The PEM holds a number that means something in this process only.
* a KEYMGMT "EC" whose key is that number. It gives out the public half and refuses to export the private one;
  therefore OpenSSL (3.0.1 and newer) does not look for an implementation elsewhere but uses our
* SIGNATURE "ECDSA", which collects the message and calls ``Signer.sign`` with it, whole (RFC 8446 4.4.3).

Everything else (verifying, ECDHE, everybody else's keys) stays with the default provider: it was there first, and ours
carries a property that nobody asks for. Questions about the key are passed on to a public ``EVP_PKEY`` of OpenSSL's own.

What must not change, each learnt from a crash
==============================================

* What OpenSSL may call while the process exits must be C: there is no provider teardown, and "free a key" and "free a
  decoder context" are libc's ``free`` (newer releases keep decoders and free them after Python is gone).
* So must what OpenSSL calls while it holds a lock: a callback waits for the GIL, whose holder may wait for that lock.
  Newer releases make decoder contexts like that, for every EC key and certificate that is read, whoever's: "make a
  decoder context" is libc's ``malloc``.
* Callbacks, tables and strings live for ever: OpenSSL keeps their addresses.
* Our KEYMGMT can make an empty key and refuses, without an error, to fill it: that is how OpenSSL finds that a public key
  of its own cannot be compared on our side, and compares on its own. An error would stay in its queue and be taken for
  somebody else's.
* No exception may reach C. What a callback raises is kept for its thread, and `take_failure` gives it to whoever sees
  the handshake fail; OpenSSL itself would only say "EVP lib".
* The default provider must be active before another one is loaded, or it never is.
* A key's record is freed with the ``SSLContext`` that it was lent to: connections and sessions keep their context alive,
  so none can outlive it. Not at exit, when nothing may be freed any more.
"""

from __future__ import annotations

import _ssl
import base64
import ctypes as ct
import itertools
import ssl
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.keys.error_queue import untouched
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.selftest import check_signature
from sidecar.keys.signer import Hash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.keys.protection import Protection
    from sidecar.keys.signer import Signer

_NAME: Final = b"sidecar"
_PROPERTIES: Final = b"provider=sidecar"
_PEM_BEGIN: Final = b"-----BEGIN SIDECAR KEY-----\n"
_PEM_END: Final = b"\n-----END SIDECAR KEY-----\n"
#: The longest message that is collected: a CertificateVerify has at most 146 bytes.
MESSAGE_BYTES: Final = 1024
#: More than any ECDSA signature on P-384 has.
_SIGNATURE_BYTES: Final = 256
#: 3.0.1, as OPENSSL_VERSION_NUMBER counts. Older ones ask the default provider to sign with a key that it cannot have.
_OLDEST: Final = 0x30000010

_Pointer, _Int, _Size = ct.c_void_p, ct.c_int, ct.c_size_t
_SizePointer = ct.POINTER(ct.c_size_t)


# -- OpenSSL's structures and numbers (core.h, core_dispatch.h, core_object.h) ---------------------------------------


class _Param(ct.Structure):
    _fields_ = (("key", ct.c_char_p), ("type", ct.c_uint), ("data", _Pointer), ("size", _Size), ("ret", _Size))


class _Dispatch(ct.Structure):
    _fields_ = (("id", _Int), ("function", _Pointer))


class _Algorithm(ct.Structure):
    _fields_ = (("names", ct.c_char_p), ("properties", ct.c_char_p), ("table", _Pointer), ("text", ct.c_char_p))


_INTEGER, _UTF8, _OCTETS = 1, 4, 5  # OSSL_PARAM_*
_OP_KEYMGMT, _OP_SIGNATURE, _OP_DECODER = 10, 12, 21
_PROVIDER_QUERY = 1027
_CORE_BIO_READ = 42
_DECODER_BYTES = 8  # of a decoder's context, which nobody looks at
_OBJECT_PKEY = 2
_SELECT_PRIVATE = 1

_HASHES: Final = {b"SHA256": Hash.SHA256, b"SHA2-256": Hash.SHA256, b"SHA384": Hash.SHA384, b"SHA2-384": Hash.SHA384}


@dataclass(frozen=True, slots=True)
class _Record:
    """A key as callbacks see it: its signer, and OpenSSL's own object of its public half."""

    signer: Signer
    public: int
    signature_bytes: int


class _Signature:
    """A signature under way."""

    __slots__ = ("hash", "message", "record")

    def __init__(self) -> None:
        self.record: _Record | None = None
        self.hash: Hash | None = None
        self.message = b""


#: What the last callback of a thread raised.
_thread = threading.local()
#: Alive for ever: whatever OpenSSL holds the address of.
_kept: list[object] = []
_records: dict[int, _Record] = {}
_signatures: dict[int, _Signature] = {}
_numbers = itertools.count(1)


# -- the library that this interpreter's ssl module uses --------------------------------------------------------------


class _Library:
    """The functions of libcrypto that are used here. Raises PrivateKeyError where the right ones cannot be reached."""

    def __init__(self) -> None:
        if ssl.OPENSSL_VERSION_NUMBER < _OLDEST:
            raise _unsuitable(f"this Python uses {ssl.OPENSSL_VERSION}; OpenSSL 3.0.1 or newer is needed")
        # A look-up in the ssl module's own library also searches what it is linked to: so it is the right libcrypto.
        path: str | None = getattr(_ssl, "__file__", None)
        if path is None:
            raise _unsuitable("this Python has OpenSSL built in, where no provider can be added")
        try:
            self._library = ct.CDLL(path)
        except OSError:
            raise _unsuitable("the ssl module's file cannot be opened; was Python replaced while it ran?") from None
        function = self._function
        self.version = function("OpenSSL_version_num", ct.c_ulong)
        self.available = function("OSSL_PROVIDER_available", _Int, _Pointer, ct.c_char_p)
        self.add_builtin = function("OSSL_PROVIDER_add_builtin", _Int, _Pointer, ct.c_char_p, _Pointer)
        self.load = function("OSSL_PROVIDER_load", _Pointer, _Pointer, ct.c_char_p)
        self.read_public = function("d2i_PUBKEY", _Pointer, _Pointer, ct.POINTER(_Pointer), ct.c_long)
        self.free_key = function("EVP_PKEY_free", None, _Pointer)
        self.to_data = function("EVP_PKEY_todata", _Int, _Pointer, _Int, ct.POINTER(_Pointer))
        self.free_data = function("OSSL_PARAM_free", None, _Pointer)
        self.get_params = function("EVP_PKEY_get_params", _Int, _Pointer, _Pointer)
        self.equal = function("EVP_PKEY_eq", _Int, _Pointer, _Pointer)
        self.signature_bytes = function("EVP_PKEY_get_size", _Int, _Pointer)
        self.memory = function("BIO_new_mem_buf", _Pointer, ct.c_char_p, _Int)
        self.free_bio = function("BIO_free", _Int, _Pointer)
        self.read_private = function("PEM_read_bio_PrivateKey", _Pointer, _Pointer, _Pointer, _Pointer, _Pointer)
        self.new_digest = function("EVP_MD_CTX_new", _Pointer)
        self.free_digest = function("EVP_MD_CTX_free", None, _Pointer)
        self.begin_signature = function("EVP_DigestSignInit_ex", _Int, *[_Pointer] * 2, ct.c_char_p, *[_Pointer] * 4)
        self.sign = function("EVP_DigestSign", _Int, _Pointer, _Pointer, _SizePointer, ct.c_char_p, _Size)
        self.clear_errors = function("ERR_clear_error", None)
        if self.version() != ssl.OPENSSL_VERSION_NUMBER:
            raise _unsuitable("the OpenSSL that can be reached is another one than the ssl module uses")
        libc = ct.CDLL(None)
        self.allocate = libc.malloc
        self.allocate.restype, self.allocate.argtypes = _Pointer, [_Size]
        self.malloc: int = _address(libc.malloc)
        self.free: int = _address(libc.free)

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise _unsuitable(f"this Python's OpenSSL shows no {name}") from None
        function.restype, function.argtypes = result, arguments
        return function


_INSTALL: Final = (
    "use the system's Python (Debian: apt-get install python3 python3-venv), or one built with a shared OpenSSL; "
    "a software key (PEM) works with any"
)


def _unsuitable(message: str, hint: str = _INSTALL) -> PrivateKeyError:
    return PrivateKeyError(
        KeyCode.OPENSSL, f"a key outside of this process cannot be used for TLS: {message}", hint=hint
    )


def _kept_away() -> PrivateKeyError:
    return _unsuitable(
        f"{ssl.OPENSSL_VERSION} is configured to use no other provider than its own, or not even those",
        "look for default_properties in its configuration (the file that OPENSSL_CONF names, or openssl.cnf)",
    )


def _address(function: Any) -> int:
    return ct.cast(function, _Pointer).value or 0


# -- making C out of Python -------------------------------------------------------------------------------------------


def _callback(function: Callable[..., Any], result: Any, arguments: tuple[Any, ...], failed: int | None) -> int:
    """Returns the address of a C function; where the Python one raises, its cause is kept and ``failed`` returned."""

    def guarded(*values: Any) -> Any:
        try:
            return function(*values)
        except BaseException as error:  # noqa: BLE001 - nothing may unwind through C; told by `take_failure`
            _thread.failure = error
            return failed

    made = ct.CFUNCTYPE(result, *arguments)(guarded)
    _kept.append(made)
    return _address(made)


def _table(*rows: tuple[int, int]) -> int:
    table = (_Dispatch * (len(rows) + 1))(*(_Dispatch(*row) for row in rows))
    _kept.append(table)
    return ct.addressof(table)


def _algorithm(names: bytes, properties: bytes, table: int) -> int:
    rows = (_Algorithm * 2)(_Algorithm(names, properties, table, b"a key outside of this process"))
    _kept.append(rows)
    return ct.addressof(rows)


def _description(*names: tuple[bytes, int]) -> int:
    rows = (_Param * (len(names) + 1))(*(_Param(*name) for name in names))
    _kept.append(rows)
    return ct.addressof(rows)


class _Provider:
    """The provider's functions; made once, and never unmade."""

    def __init__(self, library: _Library) -> None:
        self._library = library
        self._bio_read: Any = None
        self._signature_name = _address(_keep(ct.create_string_buffer(b"ECDSA")))
        self._gettable = _description(
            (b"bits", _INTEGER), (b"security-bits", _INTEGER), (b"max-size", _INTEGER), (b"group", _UTF8),
            (b"default-digest", _UTF8),
        )  # fmt: skip
        self._algorithms = {
            _OP_KEYMGMT: _algorithm(b"EC:id-ecPublicKey:1.2.840.10045.2.1", _PROPERTIES, self._keymgmt()),
            _OP_SIGNATURE: _algorithm(b"ECDSA", _PROPERTIES, self._signature()),
            _OP_DECODER: _algorithm(b"EC", _PROPERTIES + b",input=pem", self._decoder()),
        }
        query = _callback(self._query, _Pointer, (_Pointer, _Int, ct.POINTER(_Int)), None)
        self._table = _table((_PROVIDER_QUERY, query))
        self._start = _callback(self._init, _Int, (_Pointer, _Pointer, ct.POINTER(_Pointer), ct.POINTER(_Pointer)), 0)

    def register(self) -> None:
        """Adds the provider to the library's default context."""
        library = self._library
        library.available(None, b"default")  # activates it, if nobody has
        # Makes OpenSSL's generator of random numbers now: 3.0 asks all providers for its parts, with a lock held.
        ssl.RAND_status()
        if library.add_builtin(None, _NAME, self._start) != 1 or not library.load(None, _NAME):
            raise _unsuitable("it takes no further provider")

    def _init(self, _handle: int, core: int, table: Any, context: Any) -> int:
        for row in _rows(_Dispatch, core, lambda row: row.id == 0):
            if row.id == _CORE_BIO_READ:
                self._bio_read = ct.CFUNCTYPE(_Int, _Pointer, _Pointer, _Size, _SizePointer)(row.function)
        # The context is handed to whatever makes one of ours. ``malloc``, which makes those of decoders, takes it for a size.
        table[0], context[0] = self._table, _DECODER_BYTES
        return 1

    def _query(self, _context: int, operation: int, no_store: Any) -> int | None:
        no_store[0] = 0
        return self._algorithms.get(operation)

    # -- the decoder: PEM of ours -> the number of a record

    def _decoder(self) -> int:
        pointers = (_Pointer, _Pointer, _Int, _Pointer, _Pointer, _Pointer, _Pointer)
        return _table(
            (1, self._library.malloc),
            (2, self._library.free),
            (10, _callback(lambda _context, _selection: 1, _Int, (_Pointer, _Int), 0)),
            (11, _callback(self._decode, _Int, pointers, 0)),
        )

    def _decode(self, _: int, bio: int, _selection: int, take: int, argument: int, *_password: int) -> int:
        # A file that OpenSSL's own decoders read never gets here. One that none can read does, piece by piece: it may be
        # somebody's damaged private key, of which nothing is to stay in Python's memory.
        begin = self._read(bio, len(_PEM_BEGIN))
        if begin != _PEM_BEGIN:
            begin[:] = bytes(len(begin))
            return 1  # not ours: others may try
        number = ct.c_uint64(int.from_bytes(base64.b64decode(self._read(bio, 12)), "big"))
        if number.value not in _records:
            return 0  # the context that it was lent to is gone
        kind, name = _Int(_OBJECT_PKEY), ct.create_string_buffer(b"EC")
        params = (_Param * 4)(
            _Param(b"type", _INTEGER, ct.addressof(kind), ct.sizeof(kind)),
            _Param(b"data-type", _UTF8, ct.addressof(name), 2),
            _Param(b"reference", _OCTETS, ct.addressof(number), 8),
        )
        taken: int = ct.CFUNCTYPE(_Int, _Pointer, _Pointer)(take)(ct.addressof(params), argument)
        return taken

    def _read(self, bio: int, size: int) -> bytearray:
        """Reads that many bytes, or zeros behind the end, into memory that its caller can wipe."""
        data, got, filled = bytearray(size), _Size(), 0
        buffer = (ct.c_char * size).from_buffer(data)
        while filled < size and self._bio_read(bio, ct.byref(buffer, filled), size - filled, ct.byref(got)) == 1:
            filled += got.value
        return data

    # -- the key

    def _keymgmt(self) -> int:
        return _table(
            (1, _callback(self._new, _Pointer, (_Pointer,), None)),
            (8, _callback(self._load, _Pointer, (_Pointer, _Size), None)),
            (10, self._library.free),
            (21, _callback(lambda key, _selection: int(_number(key) in _records), _Int, (_Pointer, _Int), 0)),
            (23, _callback(self._match, _Int, (_Pointer, _Pointer, _Int), 0)),
            # Nobody else's key becomes one of ours.
            (40, _callback(lambda _key, _selection, _params: 0, _Int, (_Pointer, _Int, _Pointer), 0)),
            (41, _callback(lambda _selection: None, _Pointer, (_Int,), None)),
            (42, _callback(self._export, _Int, (_Pointer, _Int, _Pointer, _Pointer), 0)),
            (43, _callback(lambda _selection: None, _Pointer, (_Int,), None)),
            (11, _callback(self._get, _Int, (_Pointer, _Pointer), 0)),
            (12, _callback(lambda _context: self._gettable, _Pointer, (_Pointer,), None)),
            (20, _callback(self._operation_name, _Pointer, (_Int,), None)),
        )

    def _new(self, _context: int) -> int:
        key: int = self._library.allocate(8)
        ct.c_uint64.from_address(key).value = 0
        return key

    def _load(self, reference: int, _size: int) -> int:
        key: int = self._library.allocate(8)
        ct.c_uint64.from_address(key).value = ct.c_uint64.from_address(reference).value
        return key

    def _match(self, one: int, other: int, _selection: int) -> int:
        return int(self._library.equal(_record(one).public, _record(other).public) == 1)

    def _export(self, key: int, selection: int, take: int, argument: int) -> int:
        if selection & _SELECT_PRIVATE:
            return 0
        params = _Pointer()
        if self._library.to_data(_record(key).public, selection, ct.byref(params)) != 1:
            return 0
        try:
            taken: int = ct.CFUNCTYPE(_Int, _Pointer, _Pointer)(take)(params.value, argument)
            return taken
        finally:
            self._library.free_data(params)

    def _get(self, key: int, params: int) -> int:
        return int(self._library.get_params(_record(key).public, params) == 1)

    def _operation_name(self, operation: int) -> int | None:
        return self._signature_name if operation == _OP_SIGNATURE else None

    # -- the signature

    def _signature(self) -> int:
        output = (_Pointer, _Pointer, _SizePointer, _Size)
        return _table(
            (1, _callback(_new_signature, _Pointer, (_Pointer, ct.c_char_p), None)),
            (16, _callback(lambda context: _signatures.pop(context, None) and None, None, (_Pointer,), None)),
            (17, _callback(_copy_signature, _Pointer, (_Pointer,), None)),
            (8, _callback(_begin_signature, _Int, (_Pointer, ct.c_char_p, _Pointer, _Pointer), 0)),
            (9, _callback(_update_signature, _Int, (_Pointer, _Pointer, _Size), 0)),
            (10, _callback(_finish_signature, _Int, output, 0)),
            (11, _callback(_sign_at_once, _Int, (*output, _Pointer, _Size), 0)),
        )


def _keep(thing: Any) -> Any:
    _kept.append(thing)
    return thing


def _rows(kind: Any, address: int, last: Callable[[Any], bool]) -> Iterator[Any]:
    """Gives the rows of a table of OpenSSL's, without the one that ends it."""
    while not last(row := kind.from_address(address)):
        yield row
        address += ct.sizeof(kind)


def _number(key: int) -> int:
    return ct.c_uint64.from_address(key).value


def _record(key: int) -> _Record:
    return _records[_number(key)]


def _new_signature(_context: int, _properties: bytes | None) -> int:
    number = next(_numbers)
    _signatures[number] = _Signature()
    return number


def _copy_signature(context: int) -> int:
    old, number = _signatures[context], next(_numbers)
    _signatures[number] = new = _Signature()
    new.record, new.hash, new.message = old.record, old.hash, old.message
    return number


def _begin_signature(context: int, hash_name: bytes | None, key: int | None, _params: int) -> int:
    signature = _signatures[context]
    if key:
        signature.record = _record(key)
    signature.hash = _HASHES[(hash_name or b"SHA256").upper()]
    signature.message = b""
    return 1


def _update_signature(context: int, data: int, size: int) -> int:
    signature = _signatures[context]
    if len(signature.message) + size > MESSAGE_BYTES:
        raise SignError(SignCode.REFUSED, f"more than {MESSAGE_BYTES} bytes are to be signed")
    signature.message += ct.string_at(data, size)
    return 1


def _finish_signature(context: int, output: int | None, size: Any, room: int) -> int:
    signature = _signatures[context]
    if signature.record is None or signature.hash is None:
        return 0
    if not output:
        size[0] = signature.record.signature_bytes
        return 1
    signer = signature.record.signer
    with untouched():
        made = signer.sign(signature.message, signature.hash)
    # The peer would see it as well, but take us for an impostor. What is right is never too long for OpenSSL's buffer.
    check_signature(signer.public_key, made, signature.message, signature.hash)
    if len(made) > room:
        return 0
    ct.memmove(output, made, len(made))
    size[0] = len(made)
    return 1


def _sign_at_once(context: int, output: int | None, size: Any, room: int, data: int, data_size: int) -> int:
    if output:
        _update_signature(context, data, data_size)
    return _finish_signature(context, output, size, room)


# -- what the rest of the house uses ----------------------------------------------------------------------------------

_installing = threading.Lock()
_installed: list[tuple[_Library, _Provider]] = []


def install() -> None:
    """Registers the provider, once. Raises PrivateKeyError (OPENSSL) where this Python's OpenSSL cannot take it."""
    with _installing:
        if not _installed:
            library = _Library()
            provider = _Provider(library)
            _kept.append(provider)
            provider.register()
            _installed.append((library, provider))


def live_keys() -> int:
    """Keys that contexts hold now."""
    return len(_records)


class ExternalKey:
    """A signer's key, for `sidecar.tls.contexts.Credentials`: signs in the thread that does the handshake's step."""

    #: A handshake step with it may take long, and belongs into a thread.
    blocking = True

    def __init__(self, signer: Signer) -> None:
        """Raises as `install`."""
        install()
        self.signer = signer

    @property
    def protection(self) -> Protection:
        """What keeps the key from being copied."""
        return self.signer.protection

    def lend(self, context: object) -> bytes:
        """Returns PEM that this process's OpenSSL takes for the private key, good for as long as ``context`` lives."""
        library = _installed[0][0]
        spki = self.signer.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        buffer = ct.create_string_buffer(spki, len(spki))
        public = library.read_public(None, ct.byref(_Pointer(ct.addressof(buffer))), len(spki))
        if not public:
            library.clear_errors()
            raise _kept_away()
        number = next(_numbers)
        _records[number] = _Record(self.signer, public, library.signature_bytes(public))
        weakref.finalize(context, _forget, number).atexit = False
        return _PEM_BEGIN + base64.b64encode(number.to_bytes(8, "big")) + _PEM_END

    @staticmethod
    def take_failure() -> BaseException | None:
        """Returns, once, why the last signature of this thread failed; None if it did not."""
        failure: BaseException | None = getattr(_thread, "failure", None)
        _thread.failure = None
        return failure


class ThroughOpenSsl:
    """A `Signer` that takes the way of a handshake: OpenSSL is asked for the signature, and asks our signer.

    With it the self-test at the start finds a wrong OpenSSL as well as a wrong device, by one signature.
    """

    def __init__(self, key: ExternalKey) -> None:
        self._key = key
        self.public_key = key.signer.public_key
        self.protection = key.protection

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        """Signs. Raises SignError where the signer does, PrivateKeyError (OPENSSL) where OpenSSL never asks it."""
        library = _installed[0][0]
        pem = self._key.lend(self)
        self._key.take_failure()
        bio = library.memory(pem, len(pem))
        key, digest = library.read_private(bio, None, None, None), library.new_digest()
        size = _Size(_SIGNATURE_BYTES)
        output = ct.create_string_buffer(size.value)
        try:
            name = hash_.value.upper().encode()
            signed = (
                key
                and library.begin_signature(digest, None, name, None, None, key, None) == 1
                and library.sign(digest, output, ct.byref(size), message, len(message)) == 1
            )
        finally:
            library.free_digest(digest)
            library.free_key(key)
            library.free_bio(bio)
            library.clear_errors()
        if signed:
            return output.raw[: size.value]
        failure = self._key.take_failure()
        if isinstance(failure, Exception):
            raise failure
        raise _kept_away()

    def close(self) -> None:
        """Lets go of nothing: the signer is somebody else's."""


def _forget(number: int) -> None:
    record = _records.pop(number, None)
    if record is not None:
        _installed[0][0].free_key(record.public)
