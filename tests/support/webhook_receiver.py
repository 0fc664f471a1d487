"""A receiver of webhooks: it takes what the library of Standard Webhooks verifies, notes it in a file, and refuses the rest.

python webhook_receiver.py CHAIN.pem KEY.pem LOG      reads the secret from standard input, prints HOST:PORT
"""

import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

CHAIN, KEY, LOG = sys.argv[1:]
VERIFIER = Webhook(sys.stdin.readline().strip())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            VERIFIER.verify(body, {name.lower(): value for name, value in self.headers.items()})
            with Path(LOG).open("a") as log:
                log.write(json.dumps({"id": self.headers["webhook-id"], "body": body.decode()}) + "\n")
            status = 204
        except WebhookVerificationError:
            status = 401
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CHAIN, KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"localhost:{server.server_port}", flush=True)
    server.serve_forever()
