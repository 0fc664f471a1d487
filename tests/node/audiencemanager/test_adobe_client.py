"""Adobe's own client of the Customer Data API, unchanged but for the address, against the listener."""

import json
import os
import subprocess

import pytest
from audiences import Audience
from counterparties import COUNTERPARTIES
from programs import Programs

from node.node import Node

ORGANISATION = "ABC123@AdobeOrg"
DEVICE = "22920112968019678612904394744954398990"
CALLS = """
const [base, organisation, token, calls] = process.argv.slice(1)
require("@adobe/aio-lib-audience-manager-cd/spec/api.json").servers = [{ url: base }]
require("@adobe/aio-lib-audience-manager-cd").init(organisation, "key", token).then(async (client) => {
  const done = []
  for (const [call, ...given] of JSON.parse(calls)) {
    await client[call](...given).then(
      (answer) => done.push({ status: answer.status, body: answer.body }),
      (error) => done.push({ code: error.code, message: error.message }),
    )
  }
  console.log(JSON.stringify(done))
})
"""


def test_adobes_client_drives_streams_events_and_profiles(node: Node, programs: Programs) -> None:
    client = COUNTERPARTIES["audience-manager-cd"]
    if client.path() is None:
        pytest.skip("Adobe's client: python tests/scripts/counterparties.py audience-manager-cd")
    audience = Audience(node)
    own = audience.source("CRM")
    by_rule, first, second = audience.trait(own, "seen", 'c_trait == "1"'), *(audience.trait(own, n) for n in "ab")
    operations = [
        {
            "identities": [{"dataSourceId": own, "value": "CRM1"}],
            "traitEvaluation": {"data": [{"key": "c_trait", "value": 1}]},
        },
        {"identities": [{"dataSourceId": 20914, "value": "IDFA1"}]},
    ]
    calls = [
        ["updateStream", "crm1", {"tracing_id": "t1", "ops": operations}],
        ["updateProfile", "", {"d_orgid": ORGANISATION, "d_sid": [str(first), str(second)], "d_uuid": DEVICE}],
        [
            "updateProfile",
            "s1",
            {},
            {"d_orgid": ORGANISATION, "d_sid": [str(first), str(second)], "d_cid": f"{own}%01CRM2"},
        ],
        ["updateProfile", "", {"d_orgid": ORGANISATION, "d_ws": "delete", "d_sid": [str(second)], "d_uuid": DEVICE}],
        ["getProfile", str(own), "CRM1"],
        ["getProfile", str(own), "nobody"],
    ]
    arguments = [f"http://{programs.address}/projects/default", ORGANISATION, programs.tokens["crm"], json.dumps(calls)]
    environment = {"PATH": os.environ["PATH"], "NODE_PATH": str(client.folder / "node_modules")}
    ran = subprocess.run(
        ["node", "-e", CALLS, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    streamed, event, form, withdrawn, profile, unknown = json.loads(ran.stdout)
    assert (streamed["status"], streamed["body"]["status"], streamed["body"]["tracingId"]) == (
        200,
        "PARTIAL_SUCCESS",
        "t1",
    )
    assert [each["operationIndex"] for each in streamed["body"]["errors"]] == [2]
    assert [each["status"] for each in (event, form, withdrawn)] == [200, 200, 200]
    assert (event["body"]["uuid"], "errors" in form["body"]) == (DEVICE, False)
    assert audience.has(first, 0, DEVICE) + audience.has(second, 0, DEVICE) == [True, False]
    assert audience.has(first, own, "CRM2") == audience.has(second, own, "CRM2") == [True]
    assert [each["id"] for each in profile["body"]["profile"]["data"]["traits"]] == [by_rule]
    assert "404" in unknown["message"]
