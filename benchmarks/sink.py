"""A receiver of webhooks that answers at once and keeps nothing: python -m benchmarks.sink FOLDER, which gets its certificate.

It prints its address, then for each message when it was there in Unix seconds, its bytes, and how many left a segment.
"""

import ssl
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cli.receiver import CERTIFICATE, KEY, write_certificate


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        print(time.time(), len(body), body.count(b'"exited"'), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


def main() -> None:
    folder = Path(sys.argv[1])
    write_certificate(folder / CERTIFICATE, folder / KEY)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / CERTIFICATE, folder / KEY)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"https://localhost:{server.server_port}/", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
