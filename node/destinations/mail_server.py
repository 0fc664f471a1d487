"""The mail server of a node: a setting, of which the password is sealed as all secrets are."""

import base64
from dataclasses import replace

from ..access.scope import Home
from ..errors import InvalidInput
from ..storage.records import Document
from ..transport import smtp, tls
from ..transport.addresses import split_address

PURPOSE = b"mail"
LONGEST_PASSWORD = 1_000


class MailServers:
    """The server that a node hands its mail to, if there is one."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def show(self) -> Document | None:
        """Return the settings; never the password."""
        self._home.guard.require("node.mail", "node", None)
        return _shown(self._home.config.mail)

    def set(
        self,
        server: str,
        sender: str,
        *,
        user: str | None = None,
        password: bytes | None = None,
        authorities: str | None = None,
    ) -> Document | None:
        """Hand mail to SERVER (HOST:PORT), from an address; TLS from the first byte on port 465, else by STARTTLS."""
        from .mails import checked_address

        kept: Document = {"server": server, "sender": sender, "user": user, "authorities": None}
        with self._home.act("node.mail", server[:255], detail={"sender": sender[:255]}):
            split_address(server)
            checked_address(sender)
            if authorities is not None:
                kept["authorities"] = tls.checked_authorities(authorities)
            if (user is None) != (password is None):
                raise InvalidInput("a user of a mail server has a password", hint="give both of them, or neither")
            if password is not None:
                text = password.strip()
                if not 0 < len(text) <= LONGEST_PASSWORD or not text.isascii():
                    raise InvalidInput("that is no password of a mail server", hint="it is 1 to 1,000 ASCII characters")
                kept["password"] = base64.b64encode(self._home.keys.wrap(text, PURPOSE)).decode()
            replace(self._home.config, mail=kept).save(self._home.path)
        return _shown(kept)

    def remove(self) -> None:
        """Send no more mail."""
        with self._home.act("node.mail", "none"):
            replace(self._home.config, mail=None).save(self._home.path)

    def test(self, address: str) -> str | None:
        """Send a mail that says nothing to an address at once; return why it did not leave, None if it did."""
        from . import mails

        with self._home.act("node.mail", "test"):
            mails.checked_address(address)
            server = opened(self._home)
            if server is None:
                raise InvalidInput("no mail server is known", hint="name one first")
        scope = self._home.all_scopes()[0]
        text = "This is a test: alerts reach you here."
        mail = mails.message(scope, sender(self._home), self._home.new_id(), address, text)
        (result,) = smtp.send(server, [mail])
        return None if result is None else mails.reason(result.code)


def opened(home: Home) -> smtp.MailServer | None:
    """Return the server with its password; None where none is known."""
    kept = home.config.mail
    if kept is None:
        return None
    host, port = split_address(str(kept["server"]))
    sealed = kept.get("password")
    password = None if sealed is None else home.keys.unwrap(base64.b64decode(sealed), PURPOSE).decode()
    return smtp.MailServer(host=host, port=port, user=kept["user"], password=password, authorities=kept["authorities"])


def sender(home: Home) -> str:
    assert home.config.mail is not None
    return str(home.config.mail["sender"])


def _shown(kept: Document | None) -> Document | None:
    return None if kept is None else {name: value for name, value in kept.items() if name != "password"}
