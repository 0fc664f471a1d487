"""Mail to a server over TLS, by STARTTLS or from the first byte on port 465: nothing leaves in the clear.

Whatever the server says, a session ends in time, and only its codes are told.
"""

import smtplib
import socket
import ssl
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any

from .tls import web_context

IMPLICIT_TLS = 465
CONNECT_SECONDS = 10.0
SESSION_SECONDS = 30.0  # for all mails of one session
MOST_LINES = 1_000  # that a server says between two handshakes


@dataclass(frozen=True, slots=True, kw_only=True)
class MailServer:
    """Where mail is handed over; `authorities` is a PEM file, None: the system's vouch for its certificate."""

    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    authorities: str | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """Why a mail did not leave; `lasting`: it would end so again."""

    code: str
    lasting: bool = False


def send(server: MailServer, mails: Sequence[EmailMessage]) -> list[NotSent | None]:
    """Hand mails over in one session; return for each why it was not taken, None where it was."""
    results: list[NotSent | None] = []
    try:
        with _session(server) as smtp:
            for mail in mails:
                results.append(_sent(smtp, mail))
    except (OSError, smtplib.SMTPException) as error:
        results += [_reason(error)] * (len(mails) - len(results))
    return results[: len(mails)]


class _session:
    """An open session: encrypted, signed in, and ended by force once its time is over."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._smtp: smtplib.SMTP | None = None
        self._timer = threading.Timer(SESSION_SECONDS, self._break)
        self._timer.daemon = True

    def __enter__(self) -> smtplib.SMTP:
        server, context = self._server, web_context(self._server.authorities)
        self._timer.start()
        try:
            if server.port == IMPLICIT_TLS:
                smtp: smtplib.SMTP = _ImplicitTls(context=context, timeout=CONNECT_SECONDS, local_hostname="localhost")
            else:
                smtp = _StartTls(timeout=CONNECT_SECONDS, local_hostname="localhost")
            self._smtp = smtp
            smtp._host = server.host  # type: ignore[attr-defined]  # whom the certificate has to name
            smtp.connect(server.host, server.port)
            if server.port != IMPLICIT_TLS:
                smtp.starttls(context=context)
            if server.user is not None:
                smtp.login(server.user, server.password or "")
        except BaseException:
            self._end()
            raise
        return smtp

    def __exit__(self, *_: object) -> None:
        assert self._smtp is not None
        with suppress(OSError, smtplib.SMTPException):
            self._smtp.quit()
        self._end()

    def _end(self) -> None:
        self._timer.cancel()
        if self._smtp is not None:
            self._smtp.close()

    def _break(self) -> None:
        connection = getattr(self._smtp, "sock", None)
        if connection is not None:
            with suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Lines:
    """What a server says, line by line, up to a limit."""

    def __init__(self, file: Any) -> None:
        self._file, self._left = file, MOST_LINES

    def readline(self, size: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError("the server says too much")
        line: bytes = self._file.readline(size)
        return line

    def close(self) -> None:
        self._file.close()


class _StartTls(smtplib.SMTP):
    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self.sock.makefile("rb"))
        return super().getreply()


class _ImplicitTls(smtplib.SMTP_SSL):
    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self.sock.makefile("rb"))
        return super().getreply()


def _sent(smtp: smtplib.SMTP, mail: EmailMessage) -> NotSent | None:
    try:
        smtp.send_message(mail)
    except smtplib.SMTPServerDisconnected:
        raise
    except smtplib.SMTPException as error:
        smtp.rset()
        return _reason(error)
    return None


def _reason(error: BaseException) -> NotSent:
    match error:
        case smtplib.SMTPAuthenticationError():
            return NotSent("login")
        case smtplib.SMTPRecipientsRefused():
            codes = [code for code, _ in error.recipients.values()]
            return NotSent(f"smtp_{codes[0]}", lasting=all(code >= 500 for code in codes))
        case smtplib.SMTPResponseException():
            return NotSent(f"smtp_{error.smtp_code}", lasting=error.smtp_code >= 500)
        case smtplib.SMTPNotSupportedError():
            return NotSent("no_tls")
        case ssl.SSLError():
            return NotSent("tls")
        case TimeoutError():
            return NotSent("timeout")
    return NotSent("connection")
