"""One server for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.page.server import Server, serving

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with serving(folder, "--port", "0", "--store", str(folder / "store")) as found:
        yield found
