"""Bodies by a template: documented forms give what they must, and no data or template harms more than its own message."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import targets
from clock import Clock

from node.destinations.kinds import Delivered, Message, NotEncoded, Outcome
from node.destinations.targets import template_data, template_language, templates, webhooks
from node.errors import InvalidInput
from node.node import Node
from node.project import Project

VECTORS = json.loads((Path(__file__).parents[3] / "vectors" / "destinations" / "templates.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=[each["name"] for each in VECTORS])
def test_a_documented_form_makes_what_it_must_and_all_else_is_refused(vector: dict[str, Any]) -> None:
    template = "\n".join(vector["template"])
    if "refused" in vector:
        with pytest.raises(template_data.Wrong, match=vector["refused"]):
            template_language.Renderer(template).render(vector["data"])
        return
    renderer = template_language.Renderer(template)
    for _ in range(2):  # nothing is left of the first time
        assert json.loads(renderer.render(vector["data"])) == vector["makes"]


def test_a_message_is_bounded_and_so_is_what_it_is_nested_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_language, "OUTPUT", 1_000)
    renderer = template_language.Renderer('[{% for a in x %}{% for b in x %}"{{ b }}",{% endfor %}{% endfor %}1]')
    with pytest.raises(template_data.Wrong, match="more than"):
        renderer.render({"x": ["y" * 20] * 10})
    with pytest.raises(template_data.Wrong, match="nested"):
        template_language.Renderer("[" * 60 + "]" * 60).render({})
    with pytest.raises(template_data.Wrong, match="too deeply"):
        template_language.Renderer("{{ " + "(" * 5_000 + "1" + ")" * 5_000 + " }}")


@pytest.fixture
def renderer(monkeypatch: pytest.MonkeyPatch) -> Iterator[templates.Renderer]:
    """A template that does what the name of the segment says, in a process that has little time and memory."""
    monkeypatch.setattr(
        templates,
        "_CHILD",
        "import sys; sys.path.append(sys.argv[1]); from node.destinations.targets import template_language as found; "
        "found.CPU_SECONDS = 0; found.MEMORY = 200 << 20; found.main()",
    )
    doubled = '{% set a = "aaaaaaaaaaaaaaaa" %}' + "{% set a = a ~ a %}" * 40
    loops = "{% for a in input.profiles %}" * 12 + "{% endfor %}" * 12
    made = templates.Renderer(
        '{% if input.aggregationKey.segmentAlias == "large" %}' + doubled + '["{{ a }}"]'
        '{% elif input.aggregationKey.segmentAlias == "long" %}' + loops + "{% endif %}[1]"
    )
    yield made
    made.close()


def test_what_takes_too_long_or_too_much_ends_alone_and_the_next_message_is_made(renderer: templates.Renderer) -> None:
    (*_, both) = templates._samples()
    many = both.values.take(np.arange(2).repeat(10))
    long = replace(both, segment="long", values=many, acts=both.acts.repeat(10))
    assert renderer.render(both) == b"[1]"
    process = renderer._process
    assert renderer.render(both) == b"[1]"
    assert renderer._process is process  # one for all messages
    with pytest.raises(NotEncoded, match="too"):
        renderer.render(replace(both, segment="large"))
    with pytest.raises(NotEncoded, match="too"):
        renderer.render(long)
    assert renderer.render(both) == b"[1]"
    renderer.close()
    assert renderer._process is None


TEMPLATE = """[{% for profile in input.profiles %}
{ "id": "{{ profile.identityMap.id[0].id }}", "city": "{{ profile.attributes.city.value }}",
  "in": [{% for each in profile.segmentMembership.ups | added %}"{{ destination.segmentAliases[each.key] }}"{% endfor %}] }
{% if not loop.last %},{% endif %}{% endfor %}]"""


@pytest.fixture
def project(node: Node, tmp_path: Path) -> Project:
    return targets.prepared(node.project(), tmp_path, 4, s="orders >= 0")


def create(project: Project, folder: Path, template: str) -> None:
    (folder / "template.txt").write_text(template)
    settings = {"url": "https://localhost:1/x", "template": str(folder / "template.txt")}
    project.destinations.create("hook", "webhook", settings, uses=["analytics"])


def test_a_webhook_gets_bodies_by_its_template(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Message] = []

    def send(_target: object, message: Message) -> Outcome:
        sent.append(message)
        return Delivered()

    monkeypatch.setattr(webhooks.WebhookTarget, "send", send)
    create(project, tmp_path, TEMPLATE)
    (tmp_path / "template.txt").unlink()  # it is kept
    project.destinations.activate("hook", ["s"], mapping={"city": "orders"})
    assert json.loads(sent[0].body) == [{"id": f"p{n}", "city": str(n), "in": ["s"]} for n in range(4)]
    project.consent.set("p2", "n")
    project.destinations.sync("hook")
    assert json.loads(sent[1].body) == [{"id": "p2", "city": "", "in": []}]


def test_a_message_that_a_template_does_not_make_costs_itself(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    sent: list[Message] = []

    def send(_target: object, message: Message) -> Outcome:
        sent.append(message)
        return Delivered()

    monkeypatch.setattr(webhooks.WebhookTarget, "send", send)
    monkeypatch.setattr(type(webhooks.WEBHOOK), "limit", 1)
    broken = '{ "id": "{{ input.profiles[0].identityMap.id[0].id }}", {% if input.profiles[0].identityMap.id[0].id == "p9" %}'
    create(project, tmp_path, broken.replace("p9", "p3") + '{% else %}"a": 1{% endif %} }')
    project.destinations.activate("hook", ["s"])
    assert [json.loads(each.body)["id"] for each in sent] == ["p0", "p1", "p2"]
    (hour,) = project.destinations.runs("hook")
    assert (hour["received"], hour["activated"], hour["failed"], hour["waiting"]) == (4, 3, 1, 0)
    assert [(each["code"], each["count"]) for each in hour["codes"]] == [("template", 1)]
    (error,) = project.destinations.errors("hook")
    assert (error["code"], error["changes"], error["attempts"]) == ("template", 1, 0)
    assert "template" in error["reason"]
    (alert,) = project.alerts.all()
    assert "p3" not in alert.text
    project.destinations.deactivate("hook", ["s"])
    assert project.destinations.show("hook")["failed"] == 1  # nobody could say that p3 leaves


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ('{ "a": {{ input.profiles[0].identityMap.id[0].id }} }', "no JSON"),
        ("{% for a in input.profiles %}", "line 1"),
        ('["{{ input.profile.identityMap.id[0].id }}"]', "input.profile alone"),
        ('["{{ input.aggregationKey.segmentStatus }}"]', "segmentStatus"),
        ("{ " + "x" * (64 << 10), "at most"),
        ("{% for a in b %}{% set c = a %}{% endfor %}1", "set within for"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_it_is_given(
    project: Project, tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        create(project, tmp_path, template)
    assert refused.value.hint
    with pytest.raises(InvalidInput, match="no template in"):
        project.destinations.create("b", "webhook", {"url": "https://localhost:1/x", "template": str(tmp_path / "no")})
