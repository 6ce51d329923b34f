"""``steelyard serve``: the local page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from steelyard.cli.help import OUTPUT, RUN, group, option, switch
from steelyard.errors import InputError, show

_Port = Annotated[int, Parameter(name="--port", help="port; 0 or a taken one: any that is free", group=group(RUN))]
_Host = Annotated[str, Parameter(name="--host", help="address to listen on, beside this computer", group=group(RUN))]
_NoBrowser = Annotated[bool, switch("--no-browser", "open no browser", RUN)]
_Store = Annotated[str, option("folder of answers that took long (default: the user's cache)", "--store", topic=RUN)]
_Export = Annotated[str, option("write the page to this folder, to be opened from disk, and end", "--export")]
_Query = Annotated[
    tuple[str, ...],
    Parameter(
        name="--page",
        help="with --export: addresses of further pages, such as 'estimate?model=llama-3.1-8b&on=h100_sxm'",
        negative_iterable="",
        show_default=False,
        group=group(OUTPUT),
    ),
]


def serve(
    *,
    port: _Port = 8642,
    host: _Host = "127.0.0.1",
    no_browser: _NoBrowser = False,
    store: _Store = "",
    export: _Export = "",
    page: _Query = (),
) -> None:
    """Open a local page over the same library: look, move a slider, understand.

    It answers to this computer alone unless --host names another address, and asks no other server for anything.
    """
    from steelyard.page import start

    if page and not export:
        raise InputError("needs --export", field="page")
    if export:
        from steelyard.page.export import export_pages

        print(f"wrote {export_pages(Path(export), page)} files to {export}; open index.html there")
        return
    if store and Path(store).is_file():
        raise InputError(f"expected a folder, got the file {show(store)}", field="store")
    start.serve(port, host, browser=not no_browser, store=Path(store).absolute() if store else start.store_folder())
