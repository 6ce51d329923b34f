"""From ``steelyard serve`` to a server that is listening: folders, port, browser, and how it ends."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from steelyard.errors import InputError, show
from steelyard.folders import cache_folder

__all__ = ["PORT", "is_loopback", "listening", "serve", "session_folder", "store_folder"]

#: The port that is asked for unless told otherwise.
PORT = 8642
#: Settings that may be relative paths, which mean another place once the server works in its own folder.
_PATHS = ("STEELYARD_CATALOGUE", "STEELYARD_DATA", "NUMBA_CACHE_DIR")


def is_loopback(host: str) -> bool:
    """Whether only programs of this computer reach a server that is bound to ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound; where the port is taken, to a free one.

    Raises:
        InputError: no such port, or no such address here.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"expected 0 (any that is free) to 65535, got {port}", field="port")
    try:
        name = host.encode() if host.isascii() else host  # of text the tables of international names are read
        family, *_, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{show(host)} is no address of this computer: {error}", field="host") from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for place in (port, 0):
        try:
            made.bind((address[0], place, *address[2:]))
            made.listen(256)
        except PermissionError:
            raise InputError(f"port {port} is for the system; expected 1024 or more", field="port") from None
        except OSError as error:
            if place == 0:
                made.close()
                raise InputError(f"cannot listen on {show(host)}: {error.strerror}", field="host") from None
            continue
        return made
    raise AssertionError("a free port is bound or refused")


def store_folder() -> Path | None:
    """Where answers that took long are kept; None: the user has no home."""
    cache = cache_folder()
    return cache and cache / "steelyard" / "page"


@contextlib.contextmanager
def session_folder() -> Iterator[Path | None]:
    """A folder that goes with the session, in which the server works; None where nothing can be written."""
    for name in _PATHS:
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    try:
        made = tempfile.TemporaryDirectory(prefix="steelyard-page.", ignore_cleanup_errors=True)
    except OSError:  # a read-only root: nothing is dropped, and names are not those of files elsewhere
        with contextlib.chdir(Path(__file__).parent / "assets"):
            yield None
        return
    with made as folder, contextlib.chdir(folder):
        yield Path(folder)


def serve(port: int, host: str, *, browser: bool, store: Path | None) -> None:
    """Serve the page until it is interrupted.

    Args:
        port: 0: any that is free.
        host: address to listen on.
        browser: open a browser once it listens.
        store: folder of answers that took long.

    Raises:
        InputError: no such port or address, or the extra is not installed.
    """
    gc.disable()  # until it listens: what is read meanwhile stays
    try:
        import uvicorn
    except ImportError:
        raise InputError("the page needs Starlette and uvicorn: pip install 'steelyard[page]'", field="serve") from None
    with listening(host, port) as bound, session_folder() as folder:
        from steelyard.page.app import make_app

        place = bound.getsockname()[1]
        named = "localhost" if host in ("127.0.0.1", "localhost") else f"[{host}]" if ":" in host else host
        url = f"http://{named}:{place}/"
        if port and place != port:
            print(f"port {port} is taken; using {place}", file=sys.stderr)
        if not is_loopback(host):
            print(f"warning: everybody who reaches {host} can use this page; there is no password", file=sys.stderr)
        config = uvicorn.Config(
            make_app(folder, store, host),
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            timeout_keep_alive=30,
            limit_concurrency=512,
            h11_max_incomplete_event_size=64 * 2**10,
            ws="none",
            lifespan="on",
        )

        class Told(uvicorn.Server):
            """Says where it is once it answers and heeds Ctrl-C, which a shell's background is told to ignore."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                gc.freeze()
                gc.enable()
                print(f"Steelyard is at {url} (Ctrl-C ends it)", flush=True)
                if browser:
                    threading.Thread(target=_open, args=(url,), daemon=True).start()

        with contextlib.suppress(KeyboardInterrupt):
            Told(config).run(sockets=[bound])


def _open(url: str) -> None:
    import webbrowser

    with contextlib.suppress(webbrowser.Error, OSError):
        webbrowser.open(url)
