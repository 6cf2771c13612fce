"""Who may use the service, and what every response carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from helpers.services import problem, running, write_weights
from p3d.cli import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("guard") / "net.safetensors")


@pytest.fixture(scope="module")
def client(weights: Path) -> Iterator[httpx.Client]:
    changes = {"hosts": ("Videos.example",), "cors": ("https://app.example",)}
    with running(weights, token="s3cret", **changes) as (found, _):
        yield found


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic s3cret", "Bearer \xe9"])
def test_a_wrong_token_is_refused(header: str | None, client: httpx.Client) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    for path in ("/v1/model", "/metrics", "/v1/none"):
        response = client.get(path, headers=headers)
        assert problem(response) == (
            401,
            "the token is missing or wrong; send Authorization: Bearer TOKEN",
        )
        assert response.headers["www-authenticate"] == "Bearer"


def test_the_right_token_and_what_needs_none(client: httpx.Client) -> None:
    assert client.get("/v1/model", headers={"Authorization": "bearer s3cret"}).status_code == 200
    for path in ("/healthz", "/readyz", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_other_names_and_other_sites_are_refused(client: httpx.Client) -> None:
    assert problem(client.get("/healthz", headers={"Host": "evil.example:80"})) == (
        421,
        "this service is not called evil.example; start it with --hosts evil.example",
    )
    for host in ("videos.example", "localhost:8000", "[::1]:8000"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200
    foreign = {"Sec-Fetch-Site": "cross-site", "Authorization": "Bearer s3cret"}
    refused = client.post("/v1/predict", headers=foreign | {"Origin": "https://evil.example"})
    assert problem(refused)[0] == 403
    allowed = client.post("/v1/predict", headers=foreign | {"Origin": "https://app.example"})
    assert allowed.status_code == 415
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://videos.example:8000", 415),  # the page of the service itself
        ("https://app.example", 415),
        ("http://evil.example", 403),
        ("http://videos.example:9000", 403),
        ("null", 403),
        ("http://[", 403),
    ],
)
def test_other_sites_are_refused_by_browsers_that_send_only_an_origin(
    origin: str, status: int, client: httpx.Client
) -> None:
    """They do where the service is at another machine, by plain HTTP."""
    headers = {"Host": "videos.example:8000", "Authorization": "Bearer s3cret", "Origin": origin}
    assert problem(client.post("/v1/predict", headers=headers))[0] == status


def test_every_response_has_the_headers_for_browsers(client: httpx.Client) -> None:
    for path in ("/healthz", "/v1/model", "/none"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/model", "/page/style.css", "/none"])
def test_head_has_the_headers_of_get_and_no_body(path: str, client: httpx.Client) -> None:
    token = {"Authorization": "Bearer s3cret"}
    get, head = client.get(path, headers=token), client.head(path, headers=token)
    assert (head.status_code, head.content) == (get.status_code, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert client.head("/v1/predict", headers=token).status_code == 405


def test_unknown_parameters_are_refused(client: httpx.Client) -> None:
    def refused(method: str, path: str) -> str:
        response = client.request(method, path, headers={"Authorization": "Bearer s3cret"})
        status, detail = problem(response)
        assert status == 422
        return detail

    unknown = "there is no such parameter;"
    known = f"{unknown} give one of: features, scores, top, windows"
    for name in ("tpo", "Top", "<b>"):
        assert refused("POST", f"/v1/predict?{name}=1") == f"{name}: {known}"
    assert refused("GET", "/v1/model?a=1") == f"a: {unknown} this request takes none"
    assert refused("POST", "/v1/explain?Class=1").endswith("give one of: class, time")
    assert client.get("/?from=mail").status_code == 200


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    assert problem(client.get("/none"))[0] == 404
    token = {"Authorization": "Bearer s3cret"}
    response = client.put("/v1/model", headers=token)
    assert problem(response) == (405, "PUT /v1/model: method not allowed; see /openapi.json")
    assert response.headers["allow"] == "GET, HEAD"


def test_the_openapi_document_names_every_status(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    responses = document["paths"]["/v1/predict"]["post"]["responses"]
    assert set(responses) == {
        *("200", "400", "401", "403", "404", "408", "413", "415", "421", "422"),
        *("429", "500", "502", "503", "504", "507"),
    }
    assert all("application/problem+json" in responses[s]["content"] for s in ("422", "504"))
    assert document["security"] == [{"token": []}]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--host 0.0.0.0",
            "--host 0.0.0.0: other machines could use the service; give --token-file",
        ),
        ("--port 70000", "--port is 70000; give 0 to 65535"),
        ("--decoders 0", "--decoders is 0; give 1 or more"),
        ("--window -1", "--window is -1.0; give 0 to 1000 milliseconds"),
        ("--max-bytes 0", "--max-bytes is 0; give more than 0"),
        ("--root /none", "--root /none: is no folder; give the folder of the videos"),
        ("--token-file /none", "--token-file /none: cannot be read (No such file or directory)"),
        ("--token-file /dev/null", "--token-file /dev/null: its first line is no token; write"),
        ("--host 192.0.2.1 --without-token", "--host 192.0.2.1: is no address of this machine (C"),
        ("--stop-seconds -1", "--stop-seconds is -1; give 0 or more"),
        ("--cors example.org", "--cors example.org: is no origin; give one such as https://exa"),
        ("--cors https://a.example/", "--cors https://a.example/: is no origin; give one such"),
        ("--cors *", "--cors *: is no origin; give one such as https://example.org"),
        ("--hosts http://a.example", "--hosts http://a.example: is no name of a machine; give"),
        ("--hosts a.example:8000", "--hosts a.example:8000: is no name of a machine; give one"),
    ],
)
def test_wrong_options_are_one_line(
    flags: str, message: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--weights", str(weights), *flags.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"p3d: error: {message}")
