"""A destination on Airbyte's own development kit: a JSON file that mirrors a stream by its primary key."""

# mypy: ignore-errors
# it runs in an environment of its own

import json
import sys
from pathlib import Path

from airbyte_cdk.destinations import Destination
from airbyte_cdk.models import AirbyteConnectionStatus, ConnectorSpecification, Status, Type


class Mirror(Destination):
    def spec(self, *_):
        return ConnectorSpecification(connectionSpecification={"type": "object", "required": ["path"]})

    def check(self, logger, config):
        return AirbyteConnectionStatus(status=Status.SUCCEEDED)

    def write(self, config, configured_catalog, input_messages):
        (stream,) = configured_catalog.streams
        keys = [path[0] for path in stream.primary_key]
        file = Path(config["path"])
        rows = json.loads(file.read_text()) if file.exists() else {}
        for message in input_messages:
            if message.type == Type.STATE:
                file.write_text(json.dumps(rows))
                yield message
            elif message.type == Type.RECORD:
                data = message.record.data
                key = json.dumps([data[each] for each in keys])
                rows.pop(key, None)
                if data["_ab_cdc_deleted_at"] is None:
                    rows[key] = {name: data[name] for name in ("orders", "namespace")}


if __name__ == "__main__":
    Mirror().run(sys.argv[1:])
