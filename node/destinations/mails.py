"""Alerts as mail: queued in the transaction of what they tell of, sent by a job, so that a slow server holds up nothing."""

from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime

from sqlalchemy import func, select

from ..access.permissions import Permission
from ..access.scope import Scope
from ..errors import InvalidInput
from ..governance.visibility import unlimited
from ..operations.alerts import AlertKind, Alerts
from ..operations.jobs import OPEN, Jobs, Progress
from ..storage.database import Tx
from ..storage.records import Document
from ..storage.tables import DAY, HOUR, jobs, users
from ..storage.tables import mails as rows
from ..transport import smtp
from . import mail_server
from .records import ahead

JOB = "mail"
RETRY_SECONDS = (60, 300, 1_800, 7_200, 43_200)  # then a mail has failed
MOST_AN_HOUR = 20  # to one address
MOST_AT_ONCE = 50
LONGEST_SUBJECT = 150
LONGEST_ADDRESS = 254
KEPT_SECONDS = 7 * DAY
LAST = "\n\nMore alerts of this hour are not mailed: the node's list of alerts has them."
WAITING, SENT, FAILED = "waiting", "sent", "failed"
PARAMETERS = {"connection": "mail"}  # one session at a time in a node

REASONS = {
    "login": "the server refuses the user or the password",
    "tls": "the server's certificate is not valid for its address",
    "no_tls": "the server offers no encryption",
    "timeout": "the server did not answer in time",
    "connection": "the server could not be reached, or the connection broke",
}


def checked_address(text: str) -> str:
    """Return an address for mail; raises InvalidInput."""
    try:
        address = Address(addr_spec=text)
        plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= LONGEST_ADDRESS
        if not plain or not address.username or not address.domain or address.addr_spec != text:
            raise ValueError
    except (ValueError, IndexError, MessageError) as error:  # of the library's parser
        raise InvalidInput(
            "that is no address for mail", hint="it reads NAME@HOST, such as ann@fern.example"
        ) from error
    return text


def reason(code: str) -> str:
    """Return in words why a mail did not leave."""
    if code.startswith("smtp_"):
        return f"the server answered with {code.removeprefix('smtp_')}"
    return REASONS.get(code, code)


def post(scope: Scope, tx: Tx, user: str, address: str, text: str) -> None:
    """Queue a mail to a user, unless that address has had enough of them this hour, or no server is known."""
    if scope.home.config.mail is None:
        return
    now = scope.home.now()
    lately = (rows.c.address == address, rows.c.created > now - HOUR, rows.c.created <= now)
    count = int(tx.scalar(select(func.count()).select_from(rows).where(*lately)) or 0)
    if count >= MOST_AN_HOUR:
        return
    values: Document = {"id": scope.home.new_id(), "project_id": scope.id, "user_name": user, "address": address}
    values |= {"text": text + (LAST if count == MOST_AN_HOUR - 1 else ""), "state": WAITING, "attempts": 0}
    tx.execute(rows.insert().values(**values, next_attempt=now, created=now))


def submit_due(scope: Scope) -> int | None:
    """Queue a job where a mail is due; return when the next one is, None where none waits."""
    with scope.read() as tx:
        waiting = (rows.c.project_id == scope.id, rows.c.state == WAITING)
        times = tx.scalars(select(rows.c.next_attempt).where(*waiting)).all()
        if not times or scope.on_hold:
            return None
        running = (jobs.c.project_id == scope.id, jobs.c.kind == JOB, jobs.c.state.in_(OPEN))
        under_way = tx.execute(select(jobs.c.id).where(*running).limit(1)).first() is not None
    if under_way:
        return None
    if any(_is_due(each, scope.home.now()) for each in times):
        Jobs(scope.home).submit_once(JOB, PARAMETERS, scope)
        return None
    return int(min(times))


def run(scope: Scope, _parameters: Document, progress: Progress) -> Document:
    """Send the mails of a project that are due."""
    done = {"sent": 0, "failed": 0}
    server = mail_server.opened(scope.home)
    with scope.read() as tx:
        waiting = select(rows).where(rows.c.project_id == scope.id, rows.c.state == WAITING).order_by(rows.c.created)
        due = [each for each in tx.execute(waiting) if _is_due(each.next_attempt, scope.home.now())][:MOST_AT_ONCE]
        wanted = [each for each in due if server is not None and _may_read(scope, tx, each.user_name)]
    if wanted and server is not None:
        progress("sending mail", 0, len(wanted))
        sender = mail_server.sender(scope.home)
        results = smtp.send(server, [message(scope, sender, each.id, each.address, each.text) for each in wanted])
    else:
        results = []
    found = dict(zip((each.id for each in wanted), results, strict=True))
    with scope.begin() as tx:
        for each in due:
            gone = each.id not in found  # nobody may read it any more, or no server is known
            values = {"state": FAILED} if gone else _after(scope, tx, each.attempts, found[each.id])
            tx.execute(rows.update().where(rows.c.id == each.id).values(**values))
            done["sent"] += values["state"] == SENT
            done["failed"] += values["state"] == FAILED
    return done


def message(scope: Scope, sender: str, mail_id: str, address: str, text: str) -> EmailMessage:
    """Return a mail; what it says first is its subject."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, address
    subject = "".join(each if each.isprintable() else " " for each in text.split("\n")[0])
    mail["Subject"] = f"Vesica: {subject}"[:LONGEST_SUBJECT]
    mail["Date"] = format_datetime(datetime.fromtimestamp(scope.home.now(), UTC))
    mail["Message-ID"] = f"<{mail_id}@{sender.rpartition('@')[2]}>"  # the same on each try
    mail["Auto-Submitted"] = "auto-generated"
    mail.set_content(f"{text}\n\nProject: {scope.name}\n")
    return mail


def forget_old(scope: Scope) -> None:
    """Delete mails that were sent or failed a week ago, and what waits in spite of a clock that jumped."""
    old = rows.c.created < scope.home.now() - KEPT_SECONDS
    with scope.begin() as tx:
        tx.execute(rows.delete().where(rows.c.project_id == scope.id, old))


def _after(scope: Scope, tx: Tx, attempts: int, result: smtp.NotSent | None) -> Document:
    if result is None:
        return {"state": SENT, "attempts": attempts + 1}
    if result.lasting or attempts >= len(RETRY_SECONDS):
        text = f"mail to a subscriber of alerts was not sent: {reason(result.code)}"
        Alerts(scope).add(tx, AlertKind.MAIL_FAILED, text)
        return {"state": FAILED, "attempts": attempts + 1}
    until = scope.home.now() + RETRY_SECONDS[attempts]
    return {"state": WAITING, "attempts": attempts + 1, "next_attempt": until}


def _is_due(next_attempt: int, now: int) -> bool:
    return ahead(next_attempt, now, RETRY_SECONDS[-1]) is None


def _may_read(scope: Scope, tx: Tx, user: str) -> bool:
    """Return whether a subscriber sees all of a project's destinations, now that the mail leaves."""
    if not user:
        return tx.execute(select(users.c.id).limit(1)).first() is None
    return unlimited(scope, tx, user, Permission.VIEW_DESTINATIONS)
