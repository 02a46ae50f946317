"""A local HTTP server of small files, as unkind as archives are."""

import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Archive:
    """What the server has, and how it behaves; `requests` is what it was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    states_size: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes after which each next answer is cut off
    stalls: list[int] = field(default_factory=list)  # bytes after which each next answer stalls
    statuses: list[int] = field(default_factory=list)  # of the next answers
    etag: str = '"one"'
    kind: str = "application/fits"
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


def _handler(archive):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            name, wanted = self.path.rpartition("/")[2], self.headers.get("Range")
            archive.requests.append((name, wanted))
            status = archive.statuses.pop(0) if archive.statuses else 200
            content = archive.files.get(name)
            if status != 200 or content is None:
                self.send_error(status if status != 200 else 404)
                return
            start = self._start(content, wanted)
            if start is None:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self._headers(content, start)
            self._send(content[start:])

        def _start(self, content, wanted):
            """Byte to begin at, None if there is none such."""
            fresh = self.headers.get("If-Range") in (None, archive.etag)
            if not (wanted and archive.ranges and fresh):
                return 0
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            return None if start >= len(content) else start

        def _headers(self, content, start):
            self.send_response(206 if start else 200)
            self.send_header("Content-Type", archive.kind)
            if start:
                end = f"{len(content) - 1}/{len(content)}"
                self.send_header("Content-Range", f"bytes {start}-{end}")
            if archive.etag:
                self.send_header("ETag", archive.etag)
            if archive.states_size:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()

        def _send(self, content):
            if archive.cuts:
                content = content[: archive.cuts.pop(0)]
            if archive.stalls:
                self.wfile.write(content[: archive.stalls.pop(0)])
                self.wfile.flush()
                archive.released.wait()
                return
            self.wfile.write(content)

    return Handler


@contextmanager
def serve(**behaviour):
    """An archive on a free port of this machine."""
    archive = Archive(**behaviour)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that went away

    with Server(("127.0.0.1", 0), _handler(archive)) as server:
        archive.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield archive
        finally:
            archive.released.set()
            server.shutdown()
            thread.join()
