"""The steps of a month between Acme, Globe and Fern: each does one thing, and says what it did."""

from collections.abc import Callable

import plain
from months import Difference, Month
from organisations import DEVICE, EPOCH_DAYS, Link, Organisation
from sides import EMAIL, PHONE

from node.feeds.sending.edits import Addition, Removal
from node.partners import key_epochs
from psi.errors import VesicaError

SENDER_DIES = (
    "replaced /run 1",
    "replaced receipt.0 1",
    "calling node.feeds.sending.releases:_sent 1",
    "acted feed.run 1",
)
RECEIVER_DIES = ("replaced receipt.0 1", "replacing .changes 2", "acting feed.received 1", "acted feed.received 1")


def all_connect(month: Month) -> str:
    for each in month.all:
        each.know(month.newcomers(each, month.people // 2))
    for receiver in (month.globe, month.fern):
        found = receiver.project.partners.look_up(month.acme.project.partners.connect_id().encode())
        receiver.project.partners.request(found, alias="acme")
        month.acme.project.partners.accept(receiver.name)
    month.post()
    for each in (month.globe, month.fern):
        month.expect("partner of " + each.name, [row["status"] for row in each.project.reports.partners()], ["active"])
    return f"three organisations import {month.people // 2} people each; Globe and Fern connect with Acme"


def feeds_are_published(month: Month) -> str:
    acme, globe, fern = month.all
    acme.list_("vip", set(acme.some(month.people // 3)))
    acme.list_("lapsed", set(acme.some(month.people // 5)))
    acme.rule("frequent", "orders >= 4", lambda person: person.orders >= 4)
    fern.list_("readers", set(fern.some(month.people // 3)))
    acme.project.feeds.create(
        "summer", segments=["vip", "lapsed", "frequent"], namespaces=[EMAIL, PHONE], partners=["globe", "fern"]
    )
    fern.project.feeds.create("letters", segments=["readers"], namespaces=[EMAIL, DEVICE], partners=["acme"])
    for row in acme.project.feeds.estimate("summer"):
        receiver = {"globe": globe, "fern": fern}[row["partner"]]
        segment, namespace = row["segment"], row["namespace"]
        known = receiver.plain.matchable(namespace)
        overlap = len(acme.plain.in_segment(segment, namespace) & known)
        consented = len(acme.plain.may_be_told(segment, namespace) & known)
        what = f"estimate of {segment} by {namespace} with {receiver.name}"
        if overlap:
            month.expect(what, (row["overlap"], row["consented"] or 0), (overlap, consented))
    acme.project.feeds.publish("summer")
    fern.project.feeds.publish("letters")
    month.post()
    for receiver in (globe, fern):
        receiver.project.received.enable("summer")
    acme.project.received.enable("letters")
    month.post()
    month.links = [
        Link("summer", acme, globe, ["vip", "lapsed", "frequent"], [EMAIL, PHONE]),
        Link("summer", acme, fern, ["vip", "lapsed", "frequent"], [EMAIL, PHONE]),
        Link("letters", fern, acme, ["readers"], [EMAIL, DEVICE]),
    ]
    return "Acme's estimates are right; it publishes summer to Globe and Fern, Fern publishes letters to Acme"


def globe_builds_on_it(month: Month) -> str:
    globe = month.globe
    globe.list_("suppressed", set(globe.some(month.people // 6)))
    globe.project.segments.create("campaign", rule="received.acme.vip AND NOT own.suppressed")
    return "Globe makes a campaign of received.acme.vip AND NOT own.suppressed"


def a_day_goes_by(month: Month, *, but: Organisation | None = None) -> str:
    """People come, order, take another address, move in and out of lists; everywhere, or `but` at one organisation."""
    changing = [each for each in month.all if each is not but]
    for each in changing:
        bought = {id: each.plain.people[id] for id in each.some(3)}
        for person in bought.values():
            person.orders = month.chance.randrange(10)
        each.know(month.newcomers(each, 2) | bought)
        for name in sorted(each.plain.lists.keys() - {"suppressed"}):
            each.list_(name, each.plain.lists[name] ^ set(each.some(4)))
    each = changing[month.day % len(changing)]
    moved = {id: each.plain.people[id] for id in each.some(2)}
    for person in moved.values():
        person.records["shop"] = {EMAIL: f"person{month.chance.randint(1, month.people)}@example.com"}
    each.know(moved, "shop")
    return "people come, order, move"


def some_withdraw(month: Month) -> str:
    """The sender's people leave with the next run, the receiver's at once."""
    for id in month.acme.some(4, month.acme.plain.members("vip")):
        month.acme.say(id, "n")
    for receiver in (month.globe, month.fern):
        for id in receiver.some(3):
            receiver.say(id, "n")
        month.check()
    return "four of Acme's vips, three of Globe's and of Fern's people withdraw their consent"


def some_withdraw_one_identity(month: Month) -> str:
    for id in month.acme.some(6):
        month.acme.say(id, "n", EMAIL)
    for id in month.globe.some(3):
        month.globe.say(id, "n", PHONE)
    return "six of Acme's people take back their e-mail alone, three of Globe's their phone"


def some_agree_again(month: Month) -> str:
    for each in month.all:
        for id in each.some(3, {id for id, person in each.plain.people.items() if person.share in plain.NO}):
            each.say(id, "y")
    return "some who had said no say yes"


def acme_asks_first(month: Month) -> str:
    month.acme.choose_model("opt-in")
    return "Acme turns to opt-in: only those who said yes are shared"


def acme_asks_no_more(month: Month) -> str:
    month.acme.choose_model("opt-out")
    return "Acme turns back to opt-out"


def a_segment_is_unshared(month: Month) -> str:
    month.acme.project.feeds.unshare("summer", segment="lapsed")
    month.post()
    for link in month.links[:2]:
        link.segments.remove("lapsed")
        month.expect(f"lapsed is at {link.receiver.name}", link.receiver.is_here("acme", "lapsed"), False)
    month.check()
    month.expect_purged("summer", "globe", "fern")
    return "Acme unshares the segment lapsed: gone at once, and both partners have signed that they purged it"


def a_namespace_is_taken_out(month: Month) -> str:
    month.fern.project.feeds.edit("letters", Removal(namespaces=["idfa"]))
    month.post()
    month.links[2].namespaces.remove(DEVICE)
    month.check()
    return "Fern matches by device no more: who was in it by that alone is out at once"


def a_segment_is_added(month: Month) -> str:
    """What was accepted goes on where the addition is not."""
    acme, globe, fern = month.all
    acme.list_("gifts", set(acme.some(month.people // 4)))
    acme.project.feeds.edit("summer", addition=Addition(segments=["gifts"]))
    month.post()
    month.run()
    month.check()
    month.expect("gifts arrive unasked", [each.is_here("acme", "gifts") for each in (globe, fern)], [False, False])
    globe.project.received.enable("summer")
    fern.project.received.decline_version("summer", reason="not now")
    month.post()
    month.links[0].segments.append("gifts")
    return "Acme adds the segment gifts: Globe accepts, Fern declines and keeps what it has"


def a_namespace_is_added(month: Month) -> str:
    """Nobody is offered it before there is an estimate, nor matched by it before a partner accepts."""
    feeds = month.acme.project.feeds
    feeds.edit("summer", addition=Addition(namespaces=["idfa"]))
    month.post()
    waiting = {each["alias"]: each["waits_for_estimate"] for each in feeds.show("summer")["partners"]}
    month.expect("who waits for an estimate", waiting, {"globe": [DEVICE], "fern": [DEVICE]})
    feeds.estimate("summer")
    feeds.publish("summer")
    month.post()
    month.run()
    month.check()
    for link in month.links[:2]:
        link.receiver.project.received.enable("summer")
        link.namespaces.append(DEVICE)
    month.links[1].segments.append("gifts")
    month.post()
    return "Acme adds the namespace idfa: after an estimate both accept it, and Fern with it the gifts"


def a_label_on_a_field_in_use(month: Month) -> str:
    """It is refused where it would stop a feed; one that stops nothing travels to the partners at once."""
    labels = month.acme.project.labels
    try:
        labels.apply("C11", "field", "crm.orders")
    except VesicaError as error:
        month.expect("the refusal", error.code, "policy_conflict")
        month.expect("the refusal names", [each in str(error) for each in ("summer", "frequent", "C11")], [True] * 3)
    else:
        raise Difference(f"day {month.day}: C11 was put on a field that a published feed uses")
    month.expect("labels of Acme", labels.in_use(), {})
    labels.apply("C9", "field", "crm.orders")
    month.post()
    for receiver in (month.globe, month.fern):
        found = {each["name"]: each["labels"] for each in receiver.project.received.show("summer")["segments"]}
        month.expect(f"labels at {receiver.name}", found, {each: ["C9"] * (each == "frequent") for each in found})
    month.check()
    return "C11 on crm.orders, which frequent uses, is refused; C9 is not, and both partners see it"


def globe_pauses(month: Month) -> str:
    month.globe.project.received.disable("summer", reason="holiday")
    month.post()
    month.links[0].status = "disabled"
    a_day_goes_by(month, but=month.globe)  # who is new at Globe is not asked about in a pause
    return "Globe pauses: what came stays, Fern's runs go on"


def globe_goes_on(month: Month) -> str:
    month.globe.project.received.enable("summer")
    month.post()
    month.links[0].status = "enabled"
    return "Globe goes on, and has everything"


def the_sender_is_killed(month: Month) -> str:
    a_day_goes_by(month)
    kill = month.chance.choice(SENDER_DIES)
    month.dies(month.acme, "feed", "sync", "summer", kill=kill)
    return f"Acme is killed in the middle of a run ({kill}), and runs it again"


def a_receiver_is_killed(month: Month) -> str:
    a_day_goes_by(month)
    kill = month.chance.choice(RECEIVER_DIES)
    with month.served_elsewhere(month.globe, kill):
        month.run()
    return f"Globe is killed in the middle of a run ({kill}), and started again"


def an_epoch_is_over(month: Month) -> str:
    before = month.cached()
    month.clock.now += EPOCH_DAYS * 86_400
    a_day_goes_by(month)
    month.run()
    month.expect("caches of an epoch that is over", before & month.cached(), set())
    return "the key epoch is over: new keys, and the old caches are gone"


def acme_changes_its_keys(month: Month) -> str:
    connection = month.acme.project.partners.get("globe").id
    before = {path for path in month.cached() if connection in path.parts}
    key_epochs.rotate(month.acme.project.scope, "globe")
    month.check()
    a_day_goes_by(month)
    month.run()
    month.expect("caches of keys that are gone", before & month.cached(), set())
    return "Acme ends the key epoch with Globe: the caches are gone, nobody is missed meanwhile"


def fern_gets_it_no_more(month: Month) -> str:
    month.acme.project.feeds.unshare("summer", partner="fern", reason="the contract is over")
    month.post()
    month.links[1].status = "gone"
    month.check()
    month.expect_purged("summer", "fern")
    return "Acme unshares summer with Fern: purged and signed; Globe keeps it"


def they_disconnect(month: Month) -> str:
    month.fern.project.partners.disconnect("acme")
    month.post()
    for link in month.links[1:]:
        link.status = "gone"
    month.check()
    statuses = [each.project.partners.get(name).status for each, name in ((month.acme, "fern"), (month.fern, "acme"))]
    month.expect("the connection between Acme and Fern", statuses, ["disconnected"] * 2)
    return "Fern disconnects: what went either way is purged; Acme and Globe go on"


STORY: tuple[Callable[[Month], str], ...] = (
    all_connect,
    feeds_are_published,
    globe_builds_on_it,
    a_day_goes_by,
    some_withdraw,
    a_day_goes_by,
    some_withdraw_one_identity,
    the_sender_is_killed,
    a_segment_is_unshared,
    a_day_goes_by,
    a_label_on_a_field_in_use,
    globe_pauses,
    globe_goes_on,
    a_segment_is_added,
    a_namespace_is_added,
    an_epoch_is_over,
    acme_asks_first,
    a_receiver_is_killed,
    acme_asks_no_more,
    some_agree_again,
    a_namespace_is_taken_out,
    acme_changes_its_keys,
    fern_gets_it_no_more,
    they_disconnect,
    a_day_goes_by,
)
