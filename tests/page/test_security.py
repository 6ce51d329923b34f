"""What the page refuses: other hosts, other pages, paths, code, too much, damaged files; and what an error says."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

import steelyard
from steelyard.page.drop import KINDS, MAX_FILES, keep_dropped
from steelyard.page.guard import MAX_BODY, names_of
from steelyard.page.question import read_question, words_of
from steelyard.page.screen import screen
from steelyard.workload.catalogue import load_model
from tests.page.server import Server
from tests.unit.test_ingest import LLAMA_METADATA, llama_8b, llama_8b_q4_k_m, write_gguf
from tests.weights import write_safetensors

ESTIMATE = "/api/estimate?model=llama-3.1-8b&on=h100_sxm"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "localhost.evil.example", "169.254.169.254", "", "localhost@evil.example"],
)
def test_another_host_is_refused(server: Server, host: str) -> None:
    for path in ("/", ESTIMATE, "/assets/page.js", "/drop"):
        assert server.ask(path, headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]:9", "LOCALHOST:77"])
def test_this_computer_is_answered_whatever_the_port(server: Server, host: str) -> None:
    assert server.ask("/api/names?kind=engine", headers={"Host": host}).status == 200


def test_a_server_for_all_answers_to_addresses_and_not_to_names() -> None:
    assert "*" in names_of("0.0.0.0") and "*" not in names_of("127.0.0.1")
    assert names_of("10.0.0.7")[0] == "10.0.0.7"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_page_is_refused(server: Server, headers: dict[str, str]) -> None:
    assert server.ask(ESTIMATE, headers=headers).status == 403
    assert server.ask("/drop?name=a.json", "POST", body=b"{}", headers=headers).status == 403


def test_this_page_and_links_to_it_are_answered(server: Server) -> None:
    own = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    assert server.ask("/api/names?kind=engine", headers=own).status == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert server.ask("/catalogue?kind=engines", headers=link).status == 200


def test_every_answer_carries_the_policy(server: Server) -> None:
    for path in ("/catalogue?kind=engines", ESTIMATE, "/assets/page.js", "/nothing", "/api/nothing"):
        headers = server.ask(path).headers
        policy = headers["content-security-policy"]
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy and "default-src 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers
    text = server.ask("/estimate?model=llama-3.1-8b&on=h100_sxm").text
    assert "style=" not in text and "onclick" not in text
    assert text.count("<script") == text.count("<script src=") + text.count('<script type="application/json"')


PATHS = (
    "/etc/passwd",
    "~/.ssh/id_rsa",
    "../../etc/passwd",
    "a/../../b.json",
    "C:\\secrets.json",
    "\\\\host\\share",
    "file:/etc/passwd",
    "x,/etc/passwd",
)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_outside_the_folder_is_read(server: Server, path: str) -> None:
    for field in ("model", "on", "recipe", "anchor", "host"):
        words = {"model": "llama-3.1-8b", "on": "h100_sxm"} | {field: path}
        found = server.ask("/api/estimate?" + "&".join(f"{n}={quote(v)}" for n, v in words.items()))
        assert found.status == 422 and "reads no files" in found.problems[field], field
    assert server.ask(f"/api/catalogue?kind=machines&name={quote(path)}").status == 422


@pytest.mark.parametrize(
    "path",
    ["/assets/../app.py", "/assets/%2e%2e/app.py", "/assets/..%2fapp.py", "/assets/%2fetc%2fpasswd", "/../app.py"],
)
def test_assets_are_those_of_the_page_alone(server: Server, path: str) -> None:
    found = server.ask(path)
    assert found.status == 404 and b"import" not in found.body


def test_no_code_is_named() -> None:
    for value in ("mine.py:Policy", "mine.py", "x,mine.PY:Policy"):
        with pytest.raises(ValueError, match="runs no code"):
            words_of(screen("estimate"), {"model": [value]})
    with pytest.raises(ValueError, match="only a program"):
        words_of(screen("estimate"), {"inputs": ["1"]})


def test_names_with_slashes_and_rates_are_no_paths() -> None:
    for value in (
        "meta-llama/Llama-3.1-8B",
        "10/s",
        "1P:tp8@h100_sxm,1D:tp8",
        "0.2/0.6",
        "cpu:200GB,pool:10TB@25GB/s/4",
    ):
        assert words_of(screen("estimate"), {"model": [value]}) == {"model": value}


def test_too_much_is_refused(server: Server) -> None:
    assert server.ask(f"{ESTIMATE}&weights={'x' * 20_000}").status == 414
    assert server.ask(f"{ESTIMATE}&{'&'.join(f'a{i}=1' for i in range(500))}").status == 422
    big = {"Content-Length": str(MAX_BODY + 1)}
    assert server.ask("/drop?name=a.json", "POST", body=b"{}", headers=big).status == 413
    for wrong in ("-1", "1e3", "9" * 30):
        assert server.ask("/drop?name=a.json", "POST", body=b"", headers={"Content-Length": wrong}).status >= 400
    assert server.ask(ESTIMATE, "PUT").status == 405
    assert server.ask("/drop?name=a.json").status == 404


def test_a_body_without_an_end_is_cut_off(server: Server) -> None:
    def endless() -> bytes:
        chunk = b"x" * 2**20
        return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for _ in range(MAX_BODY // 2**20 + 2)) + b"0\r\n\r\n"

    try:
        found = server.ask("/drop?name=a.json", "POST", body=endless(), headers={"Transfer-Encoding": "chunked"})
        assert found.status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it hung up before all was sent
    assert server.ask("/api/names?kind=engine").status == 200


def test_errors_have_no_internals(server: Server) -> None:
    for path in ("/nothing", "/api/nothing", "/jobs/nothing/events", f"{ESTIMATE}&batch=x", "/assets/nothing"):
        text = server.ask(path).text
        assert "Traceback" not in text and "/site-packages" not in text and "src/steelyard" not in text
    assert "&lt;script&gt;" in server.ask("/estimate?model=%3Cscript%3Ealert(1)%3C/script%3E&on=h100_sxm").text
    assert "<script>alert" not in server.ask("/estimate?model=%3Cscript%3Ealert(1)%3C/script%3E&on=h100_sxm").text


HOSTILE = {
    "empty.json": b"",
    "binary.json": bytes(range(256)),
    "deep.json": b"[" * 100_000,
    "list.json": b"[1, 2]",
    "twice.json": b'{"model_type": "llama", "model_type": "gpt2"}',
    "huge.json": b'{"model_type": "llama", "hidden_size": 1e400}',
    "negative.json": b'{"model_type": "llama", "hidden_size": -4, "num_hidden_layers": 2}',
    "steering.json": json.dumps({"model_type": "\x1b]0;title\x07<script>"}).encode(),
    "laughs.yaml": b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n",
    "object.yaml": b"!!python/object/apply:os.system ['true']\n",
    "inf.toml": b'name = "x"\ntdp_w = 1e400\n',
    "power.toml": b"tdp_w = " + b"9" * 5000,
    "short.gguf": b"GGUF\x03\x00\x00\x00" + b"\xff" * 16,
    "short.safetensors": b"\xff" * 64,
    "none.onnx": b"\x08\x01\x12\x00" * 50,
    "rows.csv": b"a,b\n=cmd(),2\n",
    "wide.csv": "arrived,len\n".encode("utf-16"),
    "packed.csv": b"\x1f\x8b" + b"\0" * 40,
    "code.py": b"import os",
    "shell.sh": b"#!/bin/sh",
    "page.html": b"<script>",
    "../../up.json": b"{}",
    "x" * 5000 + ".json": b"{}",
    "y" * 300 + ".toml": b"\xff",
    "nul\0.json": b"{}",
}


@pytest.mark.parametrize("name", HOSTILE, ids=lambda n: n[:20].replace("\0", "0"))
def test_hostile_files_end_in_one_clear_error(server: Server, name: str) -> None:
    found = server.ask(f"/drop?name={quote(name)}", "POST", body=HOSTILE[name])
    assert found.status == 422, found.text
    assert list(found.problems) == ["file"] and len(found.problems["file"]) < 2000
    assert "\x1b" not in found.text and "/steelyard-page." not in found.text


def test_headers_of_large_files_are_enough(tmp_path: Path) -> None:
    """Five gigabytes of GGUF, of which the beginning was sent; safetensors without a config say what they lack."""
    gguf, tensors = tmp_path / "llama.gguf", tmp_path / "llama.safetensors"
    write_gguf(gguf, LLAMA_METADATA, llama_8b_q4_k_m())
    write_safetensors(tensors, ((t, shape, "BF16") for t, shape, _ in llama_8b()))
    kept = tmp_path / "kept"
    kept.mkdir()
    with gguf.open("rb") as stream:
        head = stream.read(2**20)
    found = keep_dropped(kept, gguf.name, head, gguf.stat().st_size)
    assert found["field"] == "model"
    assert load_model(kept / found["name"]).weight_bytes == load_model(gguf).weight_bytes
    with tensors.open("rb") as stream, pytest.raises(ValueError, match="how many heads"):
        keep_dropped(kept, tensors.name, stream.read(2**16), tensors.stat().st_size)
    assert [p.name for p in kept.iterdir()] == [found["name"]]


def test_a_file_of_a_size_that_no_disk_holds_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be kept here"):
        keep_dropped(tmp_path, "a.gguf", b"GGUF", 2**62)
    assert not list(tmp_path.iterdir())


def test_a_session_is_bounded(tmp_path: Path) -> None:
    for i in range(MAX_FILES):
        (tmp_path / f"{i}.json").write_bytes(b"{}")
    with pytest.raises(ValueError, match=f"at most {MAX_FILES} files"):
        keep_dropped(tmp_path, "one-more.json", b"{}")
    with pytest.raises(ValueError, match="no folder"):
        keep_dropped(None, "a.json", b"{}")
    assert ".py" not in KINDS


def test_a_machine_in_the_address_is_data() -> None:
    text = 'name = "x"\n[machine]\n'
    question = read_question(screen("estimate"), f"model=a&on={quote(text)}")
    assert question.words()["on"] == text.strip()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("estimate?model=llama-3.1-8b&on=h100_sxm:99999999999999999999", "on"),
        (f"estimate?model={'a' * 10_000}&on=h100_sxm", "model"),
        (f"estimate?model=llama-3.1-8b&on=h100_sxm&batch={'9' * 400}", "batch"),
        ("estimate?model=llama-3.1-8b&on=h100_sxm&batch=nan", "batch"),
        ("train?model=llama-3.1-8b&on=h100_sxm:8&gbs=1e300", "gbs"),
        ("simulate?model=llama-3.1-8b&on=h100_sxm&rate=1/s&replicas=1000000&lora=1000000000", "replicas"),
        ("validation?by=__class__", "by"),
    ],
)
def test_what_would_take_all_is_refused_in_a_line(server: Server, query: str, field: str) -> None:
    found = server.ask(f"/api/{query}")
    assert found.status == 422 and field in found.problems
    assert all(0 < len(words) < 500 for words in found.problems.values())


def test_a_machine_of_ones_own_is_not_that_of_the_catalogue(server: Server) -> None:
    text = (Path(steelyard.__file__).parent / "catalogue/machines/l40s.toml").read_bytes()
    faster = text.replace(b'"864GB/s"', b'"8640GB/s"')
    assert faster != text
    name = server.ask("/drop?name=fast.toml", "POST", body=faster).data["name"]
    own, known = (
        server.ask(f"/api/estimate?model=llama-3.1-8b&on={on}").data["tpot_s"] for on in (quote(name), "l40s")
    )
    assert own < 0.5 * known


def test_no_cell_of_a_csv_file_is_a_formula(server: Server) -> None:
    config = {"model_type": "llama", "_name_or_path": '=HYPERLINK("x")', "hidden_size": 512, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 8, "intermediate_size": 1024, "vocab_size": 1000}
    name = server.ask("/drop?name=evil.json", "POST", body=json.dumps(config).encode()).data["name"]
    found = server.ask(f"/api/estimate.csv?model={quote(name)}&on=h100_sxm")
    assert found.status == 200 and "HYPERLINK" in found.text
    assert not any(cell.lstrip('"').startswith(("=", "+", "@")) for cell in found.text.split("\n")[1].split(","))
