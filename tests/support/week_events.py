"""What can happen in a week: each event changes the two nodes, and what is plainly so; it returns what it did in words."""

from collections.abc import Callable

from plain import NO
from sides import EMAIL, PHONE
from week_targets import Members
from weeks import Channel, Week

from node.erasure.erasure import People

LABEL = "C8"  # forbids analytics
LABELLED = ("big", "listed", "theirs")
HOUR = 3_600


def people_come(week: Week) -> str:
    for each in (week.acme, week.globe):
        bought = {id: each.plain.people[id] for id in each.some(2)}
        for person in bought.values():
            person.orders = week.chance.randrange(10)
        each.know(week.newcomers(each, 2) | bought)
    return "people come and order"


def some_withdraw(week: Week) -> str:
    for each in (week.acme, week.globe):
        for id in each.some(2):
            each.say(id, "n")
    return "some withdraw their consent"


def some_withdraw_one_identity(week: Week) -> str:
    namespace = week.chance.choice([EMAIL, PHONE])
    for id in week.globe.some(2):
        week.globe.say(id, "n", namespace)
    return f"some take back their {namespace.partition('_')[0]} alone"


def some_agree_again(week: Week) -> str:
    for each in (week.acme, week.globe):
        for id in each.some(2, {id for id, person in each.plain.people.items() if person.share in NO}):
            each.say(id, "y")
    return "some who had said no say yes"


def some_are_erased(week: Week) -> str:
    owner = week.chance.choice([week.acme, week.globe])
    ids = owner.some(2)
    owner.project.erasure.profiles(People(ids=ids), may_return=True)
    for id in ids:
        del owner.plain.people[id]
    for members in owner.plain.lists.values():
        members.difference_update(ids)
    return f"two people of {owner.name} are erased"


def a_rule_changes(week: Week) -> str:
    least = week.chance.randrange(2, 9)
    week.set_rule(least)
    return f"big are those with {least} orders"


def a_list_changes(week: Week) -> str:
    owner, name = week.chance.choice([(week.acme, "vip"), (week.globe, "listed")])
    owner.list_(name, owner.plain.lists[name] ^ set(owner.some(5)) or set(owner.some(1)))
    return f"the list {name} changes"


def a_model_changes(week: Week) -> str:
    model = "opt-in" if week.globe.plain.model == "opt-out" else "opt-out"
    week.globe.choose_model(model)
    return f"globe turns to {model}"


def a_label_comes_or_goes(week: Week) -> str:
    segment = week.chance.choice(LABELLED)
    if segment in week.labels:
        week.globe.project.labels.remove(LABEL, "segment", segment)
    else:
        week.globe.project.labels.apply(LABEL, "segment", segment)
    week.labels ^= {segment}
    return f"{LABEL} {'comes' if segment in week.labels else 'goes'} on {segment}"


def the_feed_comes_or_goes(week: Week) -> str:
    if week.link is None:
        week.share_feed()
        return "acme shares vip again"
    week.acme.project.feeds.revoke(week.link.feed)
    week.post()
    week.link = None
    return "acme takes its feed back"


def a_segment_is_unshared_or_shared(week: Week) -> str:
    if week.is_shared:
        week.app.sharing.unshare("loyal")
        week.is_shared = False
        return "app unshares loyal"
    week.share_loyal()
    return "app shares loyal again"


def the_shared_segment_changes(week: Week) -> str:
    week.set_loyal(week.loyal ^ set(week.chance.sample(sorted(week.devices), 3)) or set(sorted(week.devices)[:2]))
    return "app's loyal changes"


def a_segment_is_activated_or_deactivated(week: Week) -> str:
    channel = _one(week, lambda each: each.status == "active" and each.fault is None)
    if channel is None:
        return "nothing happens"
    open_ = sorted(set(week.segments_of(channel.owner)) - channel.segments)
    if open_ and (not channel.segments or week.chance.random() < 0.6):
        segment = week.chance.choice(open_)
        week.activate(channel, segment)
        return f"{channel.name} gets {segment}"
    if not channel.segments:
        return "nothing happens"
    segment, leave = week.chance.choice(sorted(channel.segments)), week.chance.random() < 0.3
    there = channel.target.members().get(segment, set())
    channel.destinations.deactivate(channel.name, [segment], leave=leave)
    channel.segments.remove(segment)
    if leave:
        channel.left.setdefault(segment, set()).update(there)
    return f"{channel.name} gets {segment} no more{', whose members stay' if leave else ''}"


def a_destination_pauses_or_goes_on(week: Week) -> str:
    paused = _one(week, lambda each: each.status == "paused")
    if paused is not None:
        paused.destinations.resume(paused.name)
        paused.status = "active"
        return f"{paused.name} goes on"
    channel = _one(week, lambda each: each.status == "active" and each.fault is None)
    if channel is None:
        return "nothing happens"
    channel.destinations.sync(channel.name)
    channel.before = _copied(channel.target.members())
    channel.destinations.pause(channel.name)
    channel.status = "paused"
    return f"{channel.name} pauses"


def a_destination_is_deleted_or_made_again(week: Week) -> str:
    deleted = _one(week, lambda each: each.status == "deleted")
    if deleted is not None:
        week.create(deleted)
        return f"{deleted.name} is made again"
    channel = _one(week, lambda each: each.status == "active" and each.fault is None)
    if channel is None:
        return "nothing happens"
    channel.destinations.delete(channel.name)
    channel.segments, channel.status = set(), "deleted"
    return f"{channel.name} is deleted"


def hours_pass(week: Week) -> str:
    hours = week.chance.randrange(1, 30)
    week.clock.now += hours * HOUR
    return f"{hours} hours pass"


def _one(week: Week, which: Callable[[Channel], bool]) -> Channel | None:
    found = [each for each in week.channels if which(each)]
    return week.chance.choice(found) if found else None


def _copied(members: Members) -> Members:
    return {segment: set(ids) for segment, ids in members.items()}


EVENTS: list[Callable[[Week], str]] = [
    people_come,
    people_come,
    some_withdraw,
    some_withdraw,
    some_withdraw_one_identity,
    some_agree_again,
    some_are_erased,
    a_rule_changes,
    a_list_changes,
    a_model_changes,
    a_label_comes_or_goes,
    the_feed_comes_or_goes,
    a_segment_is_unshared_or_shared,
    the_shared_segment_changes,
    a_segment_is_activated_or_deactivated,
    a_segment_is_activated_or_deactivated,
    a_destination_pauses_or_goes_on,
    a_destination_is_deleted_or_made_again,
    hours_pass,
]
