"""What went wrong on the way to an issuer and back, in words of ours.

The exceptions themselves stay here: those of `http.client` quote what was sent or received, which may be a secret. Of
TLS errors the tables of `sidecar.tls.failure` and OpenSSL's mnemonic are used, of the system's its own fixed texts.
"""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.errors import SidecarError
from sidecar.tls.contexts import ContextCode
from sidecar.tls.failure import SigningFailedError, TlsCode, code_of, is_alert, reason_of
from sidecar.tokens.codes import SourceCode, SourceError
from sidecar.tokens.issuer.wire import Stage

if TYPE_CHECKING:
    from sidecar.tokens.issuer.url import Endpoint

#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH (OpenSSL's x509_vfy.h).
_WRONG_HOST: Final = frozenset({62, 64})
_REGISTERED: Final = "an issuer that refuses our certificate may end so: see how this client is registered there"
_NOT_OURS: Final = frozenset({ContextCode.AUTHORITIES, ContextCode.NO_AUTHORITY})


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a message can tell beside the error. ``own_roots``: trust comes from a ``ca`` file."""

    endpoint: Endpoint
    mutual: bool
    own_roots: bool

    @property
    def issuer(self) -> str:
        """How messages name it."""
        return f"the issuer at {self.endpoint}"


def of(error: Exception, stage: Stage, where: Circumstances) -> SourceError:
    """Names a failure. Nothing of the error's own text is used, but for texts that are the same whoever is asked."""
    if isinstance(error, SourceError):
        return error.with_traceback(None)
    if isinstance(error, SidecarError):  # no context could be made
        return SourceError(
            SourceCode.TLS if error.code in _NOT_OURS else SourceCode.SIGNING, str(error), hint=error.hint
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, where)
    if isinstance(error, ssl.SSLError) and not (isinstance(error, ssl.SSLEOFError) and stage is not Stage.HANDSHAKE):
        return _tls(error, stage, where)
    if isinstance(error, TimeoutError):
        return late(stage, where)
    # One of http.client's is also a ConnectionResetError: the server closed without a word.
    if isinstance(error, OSError) and not isinstance(error, (http.client.HTTPException, ssl.SSLError)):
        return _network(error, stage, where)
    answer = bad_answer(f"is no whole HTTP answer ({type(error).__name__})", where)
    if where.mutual and stage is Stage.WAIT:
        answer.hint = _REGISTERED
    return answer


def late(stage: Stage, where: Circumstances) -> SourceError:
    """A limit of time has passed."""
    return SourceError(
        SourceCode.TIMEOUT,
        f"{where.issuer} took too long {stage}",
        hint="see whether it is up and can be reached from here; `timeout` is the limit of one step, and half that of all",
    )


def bad_answer(what: str, where: Circumstances) -> SourceError:
    """It answered, but not with what is an answer here."""
    return SourceError(
        SourceCode.BAD_ANSWER,
        f"what {where.issuer} sent {what}",
        hint="look at what answers at this address: it may be another service, or something between it and us",
    )


def unsigned(cause: BaseException) -> SourceError:
    """Our own key did not sign in the handshake."""
    named = SigningFailedError.of(cause, alert_sent=False)
    return SourceError(SourceCode.SIGNING, str(named), hint=named.hint)


def _network(error: OSError, stage: Stage, where: Circumstances) -> SourceError:
    hint = "see whether it is up and can be reached from here"
    if stage is Stage.LOOKUP:
        hint = "see whether the host's name is right, and can be looked up from here"
    elif where.mutual and stage is not Stage.CONNECT:
        hint = _REGISTERED
    reason = error.strerror or type(error).__name__
    return SourceError(SourceCode.UNREACHABLE, f"{where.issuer} is not reached {stage}: {reason}", hint=hint)


def _certificate(error: ssl.SSLCertVerificationError, where: Circumstances) -> SourceError:
    code = code_of(error)
    what, hint = f"is refused ({code}, OpenSSL's number {error.verify_code})", "the issuer needs another certificate"
    if error.verify_code in _WRONG_HOST:
        what = "is not for this host"
        hint = "name the issuer by a host that is in its certificate's subjectAltName"
    elif code is TlsCode.AUTHORITY_UNKNOWN:
        what = "is issued by nobody we trust"
        hint = "name a PEM file with its authority's certificate in `ca`"
        if where.own_roots:
            hint = "see that the file that `ca` names holds its authority's certificate"
    elif code is TlsCode.CERTIFICATE_EXPIRED:
        what, hint = "has expired", "renew the issuer's certificate, and compare the clocks"
    elif code is TlsCode.CERTIFICATE_NOT_YET_VALID:
        what, hint = "is not valid yet", "compare the clocks of both machines"
    return SourceError(SourceCode.TLS, f"the certificate of {where.issuer} {what}", hint=hint)


def _tls(error: ssl.SSLError, stage: Stage, where: Circumstances) -> SourceError:
    code = code_of(error)
    hint = ""
    if code in {TlsCode.PROTOCOL_VERSION, TlsCode.ALERT_PROTOCOL_VERSION}:
        hint = "the issuer has to speak TLS 1.3 where our certificate is shown, else 1.2 or newer"
    elif code is TlsCode.NOT_TLS:
        hint = "what listens there speaks no TLS: see the port"
    elif is_alert(code):
        hint = "the issuer refuses us: see how this client is registered there"
        if not where.mutual:
            hint = "the issuer refuses us; it may want a certificate, which is shown only where `client_auth` is by TLS"
    reason = reason_of(error) or type(error).__name__
    return SourceError(SourceCode.TLS, f"TLS with {where.issuer} failed {stage}: {code} ({reason})", hint=hint)
