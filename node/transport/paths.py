"""The paths of a node's endpoint: under which a partner calls what."""

CONNECT = "/vesica/1/connect"
LETTERS = "/vesica/1/letters"
EXCHANGES = "/vesica/1/exchanges"
KEYS = "/vesica/1/keys"
