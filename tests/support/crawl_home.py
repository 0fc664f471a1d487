"""The home in which every command is tried: what is hidden there, what is seen, and two nodes that ran feeds of both kinds."""

from callers import signed_in
from crawling import HIDDEN_THEIRS, PEOPLE, SAID_NO, SCORED, SECRET, THEIRS, WHO, WITH_PHONE
from governed import put_unasked
from sides import EMAIL, Pair, Person

from node.access.permissions import Permission
from node.access.users import Token
from node.audiencemanager import sources, traits
from node.audiencemanager.records import NewTrait
from node.erasure.erasure import People as Erased
from node.imports.identity_columns import IdentityColumn
from node.node import Node
from node.project import Project


def prepare(pair: Pair, person: type[Person]) -> Token:
    """Fill acme with what is hidden and what is not, run feeds both ways, and return the token of lou, who may see C5 alone."""
    acme, globe = pair.acme.project, pair.globe.project
    ids = [f"a{n}" for n in PEOPLE]
    pair.prepare(
        [person(each, f"p{n}@x.com") for n, each in enumerate(ids)],
        [person(f"g{n}", f"p{n}@x.com") for n in range(250)],
        {"open": ids[:210], "first": ids[:95], "read": ids[:20], "zebsecret": [ids[n] for n in SECRET]},
    )
    folder = pair.acme.folder
    scores = [f"{each},{9 if n in SCORED else 1},p{n}@x.com" for n, each in enumerate(ids)]
    scores += [f"{each},1,{each}@x.com" for each in [*WHO, "zebgone"]]
    (folder / "zebhealth.csv").write_text("\n".join(["id,zebscore,zebmail", *scores]) + "\n")
    acme.profiles.import_(
        folder / "zebhealth.csv",
        dataset="zebhealth",
        id_column="id",
        identities=[IdentityColumn.parse("zebmail=email_sha256:raw")],
        attributes=["zebscore"],
    )
    phones = [f"+4474000{n:05d}" if n in WITH_PHONE else "" for n in PEOPLE]
    orders = [f"{each},9,zebvalue,{phone}" for each, phone in zip(ids, phones, strict=True)]
    (folder / "orders.csv").write_text("\n".join(["id,amount,zebnote,zebwork", *orders]) + "\n")
    acme.profiles.import_(
        folder / "orders.csv",
        dataset="orders",
        id_column="id",
        identities=[IdentityColumn.parse("zebwork=phone_sha256:raw")],
        attributes=["amount", "zebnote"],
    )
    (folder / "spare.csv").write_text("id,amount2,mail\na1,9,\ngone,9,gone@x.com\n")
    acme.profiles.import_(
        folder / "spare.csv",
        dataset="spare",
        id_column="id",
        identities=[IdentityColumn.parse("mail=email_sha256:raw")],
        attributes=["amount2"],
    )
    (folder / "no.csv").write_text("\n".join(["id,share", *(f"{WHO[n]},n" for n in SAID_NO)]) + "\n")
    acme.consent.import_(folder / "no.csv", id_column="id", consent_column="share")
    acme.erasure.profiles(Erased(ids=["gone", "zebgone"]))
    for name, rule in {
        "many": "amount > 5",
        "lacking": "amount IS NULL",
        "zebscored": "zebscore > 5",
        "zebread": "own.read OR own.zebsecret",
    }.items():
        acme.segments.create(name, rule=rule)
    for label, kind, target in (
        ("C5", "segment", "first"),
        ("S1", "segment", "zebsecret"),
        ("C3", "dataset", "zebhealth"),
        ("C3", "field", "orders.zebnote"),
        ("S1", "field", "orders.zebwork"),
    ):
        acme.labels.apply(label, kind, target)
    pair.globe.segment("theirs", [f"g{n}" for n in THEIRS])
    pair.globe.segment("zebtheirs", [f"g{n}" for n in HIDDEN_THEIRS])
    globe.labels.apply("S1", "segment", "zebtheirs")
    _share(pair)
    acme.segments.create("zebcopied", rule="received.globe.zebtheirs")
    policies = acme.consent_policies
    policies.create("zebonly", "own.zebsecret", label="C5", enable=True)
    policies.create("zebfiles", "zebscore > 5", action="analytics", enable=True)
    policies.create("zeboff", "zebscore > 5 OR own.zebcopied", action="email-targeting")
    policies.create("plain", "amount > 5", action="analytics")
    acme.policies.create("custom", "analytics", "S2")
    for name, segment in (("out", "open"), ("zebout", "zebsecret")):
        (folder / name).mkdir()
        acme.destinations.create(name, "file", {"folder": str(folder / name)}, uses=["data-science"])
        acme.destinations.activate(name, [segment])
    _audience(acme)
    node = pair.acme.node
    ann = node.users.create("ann", ["administrator"])
    with signed_in(node, ann) as anns:
        every = [each for each in Permission if each not in (Permission.ADMINISTER, Permission.AUDIT)]
        anns.roles.create("limited", every, labels=["C5"])
        lou = anns.users.create("lou", ["limited"])
        for feed in ("summer", "zebfeed"):  # what a service would do; nobody has yet
            anns.project().feeds.sync(feed, wait=False)
    with signed_in(node, lou) as lous:
        lous.project().feeds.estimate("summer", wait=False)
    return lou


def _audience(project: Project) -> None:
    """Make traits and segments of traits; what is hidden was made from segments of the platform with a label."""
    project.audience.sources.create("Site")
    seen = project.audience.traits.create("buyers", source="Site", rule='event == "buy"')
    project.audience.traits.create("read", source="Site")
    scope = project.scope
    with scope.begin() as tx:
        source = sources.find(scope, tx, "Site")
        assert source is not None
        wanted = NewTrait(name="zebgold", source=source.number, integration_code="zebcode", labels=["S1"])
        hidden = traits.ensure(scope, tx, wanted)
    project.audience.imports.import_(["buyers", "zebgold"])
    read = project.audience.traits.show("read")
    for name, rule in (("shoppers", seen["number"]), ("zebrich", hidden.number), ("zebread", read["number"])):
        also = f" AND {hidden.number}T" if name == "zebread" else ""
        project.audience.segments.create(name, source="Site", rule=f"{rule}T{also}")


def _share(pair: Pair) -> None:
    """Run a feed that is seen, and hidden ones, in both directions; leave a draft and an offer of each kind."""
    acme, globe = pair.acme.project, pair.globe.project
    ways = (
        (acme, globe, "globe", "acme", {"summer": ["open"], "zebfeed": ["open", "zebsecret"], "zebfirsts": ["first"]}),
        (globe, acme, "acme", "globe", {"back": ["theirs"], "zebback": ["zebtheirs"]}),
    )
    for sender, receiver, to, by, feeds in ways:
        for name, segments in feeds.items():
            sender.feeds.create(name, segments=segments, namespaces=[EMAIL], partners=[to])
            sender.feeds.estimate(name)
            sender.feeds.publish(name)
            pair.post()
            receiver.received.enable(name, by)
            pair.post()
            sender.feeds.sync(name)
    for name, segment in (("draft", "many"), ("zebdraft", "zebscored")):
        acme.feeds.create(name, segments=[segment], namespaces=[EMAIL], partners=["globe"])
    for name, segment in (("offer", "theirs"), ("zeboffer", "zebtheirs")):
        globe.feeds.create(name, segments=[segment], namespaces=[EMAIL], partners=["acme"])
        globe.feeds.publish(name)
    pair.post()


def put_conflict(node: Node) -> None:
    """Put a label on a hidden field whose identities a feed carries: its next run is refused."""
    with node.home.guard.itself():
        put_unasked(node.project(), "C11", "dataset", "zebhealth")
