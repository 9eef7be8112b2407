"""A real nginx before replicas, in a folder and on a port of its own. Knows addresses, and nothing of what they serve.

Its upstream stands in a file of its own, which is rewritten as replicas come and go, as Kubernetes rewrites endpoints:
open-source nginx asks no replica whether it is ready.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

Routing = Literal["prompt key", "round robin", "least connections"]

METHODS: Final = MappingProxyType(
    {"prompt key": "hash $replica_key consistent;", "round robin": "", "least connections": "least_conn;"}
)
START_SECONDS: Final = 10.0
CONFIGURATION: Final = """\
daemon off;
pid nginx.pid;
worker_processes 1;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 32m;
    # A request without a key goes anywhere: each has an id of its own.
    map $http_x_prompt_key $replica_key {{ "" $request_id; default $http_x_prompt_key; }}
    upstream replicas {{
        {method}
        include upstream.conf;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=2048;
        # A reload closes idle connections, and a caller may just have begun to write on one.
        keepalive_timeout 0;
        location / {{
            proxy_pass http://replicas;
            # Scoring changes nothing, so a post may be repeated; only where a connection failed, never after an answer.
            proxy_next_upstream error non_idempotent;
            proxy_connect_timeout 2s;
            proxy_read_timeout 180s;
            add_header X-Replica $upstream_addr always;
        }}
    }}
}}
"""


@dataclass
class Nginx:
    """Starts, takes other replicas while it runs, and stops."""

    folder: Path
    routing: Routing
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def write(self, ports: Sequence[int]) -> None:
        """Write its configuration, with replicas on these ports.

        Raises:
            ValueError: there is none, which nginx does not take.
        """
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""  # else its worker could not read the folder
        text = CONFIGURATION.format(user=user, method=METHODS[self.routing], port=self.port)
        (self.folder / "nginx.conf").write_text(text, encoding="utf-8")
        self._write_upstream(ports)

    def check(self) -> "subprocess.CompletedProcess[str]":
        """Have nginx read its configuration, and do nothing with it."""
        return subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)  # noqa: S603

    def start(self, ports: Sequence[int]) -> None:
        """Start it before replicas on these ports, and return once it listens."""
        self.write(ports)
        self.process = subprocess.Popen(self._command())  # noqa: S603
        give_up = time.monotonic() + START_SECONDS
        while not self._listens():
            if time.monotonic() > give_up or self.process.poll() is not None:
                raise SystemExit(f"nginx did not start: {(self.folder / 'error.log').read_text(encoding='utf-8')}")
            time.sleep(0.02)

    def route_to(self, ports: Sequence[int]) -> None:
        """Send requests to these ports from now on; those under way are finished where they are."""
        self._write_upstream(ports)
        if self.process is not None:
            self.process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it, and return once it has ended."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def _write_upstream(self, ports: Sequence[int]) -> None:
        if not ports:
            raise ValueError("nginx takes no upstream without a server")
        written = self.folder / "upstream.new"
        written.write_text("".join(f"server 127.0.0.1:{port};\n" for port in ports), encoding="utf-8")
        written.replace(self.folder / "upstream.conf")

    def _command(self) -> list[str]:
        return [program(), "-p", str(self.folder), "-e", "error.log", "-c", "nginx.conf"]

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


def program() -> str:
    """Return where nginx is.

    Raises:
        SystemExit: nowhere.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise SystemExit("nginx is needed, and not installed: Debian's package nginx has it")
    return found
