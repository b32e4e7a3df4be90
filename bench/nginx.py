"""What every nginx here has in common, as a proxy and as the local server."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from bench.site import Site

#: Where Debian and Ubuntu put dynamic modules.
STREAM_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def make_config(site: Site, body: str, *modules: Path) -> list[str | Path]:
    """Writes a configuration around a ``http`` or ``stream`` block; returns the arguments that run it.

    ``{folder}`` in the block is a folder of its own, for logs and what is written on the way.
    """
    folder = site.crew.path("nginx")
    folder.mkdir()
    text = "".join(
        [
            *(f"load_module {module};\n" for module in modules),
            # Its worker would leave root's folder otherwise, and could write none of its logs.
            f"user {getpass.getuser()};\n" if os.geteuid() == 0 else "",
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\n",
            "worker_rlimit_nofile 20000; events { worker_connections 16384; }\n",
            body.replace("{folder}", str(folder)),
        ]
    )
    return ["-e", folder / "error.log", "-c", site.file("nginx.conf", text)]


def temporary_paths() -> str:
    """Directives that keep bodies out of the folders of the system's own nginx."""
    return " ".join(f"{name}_temp_path {{folder}}/{name};" for name in _TEMPORARY)
