"""The embedded server as the YAML describes it: where it listens, whom it lets in, what it logs."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.errors import RetrainError
from pipeline.champion import saved_model
from pipeline.cli.model_server import Address, address_of, configured_server, own_server, token_of
from pipeline.config import load
from pipeline.predict import Client
from tests.model_servers import export

pytestmark = pytest.mark.xdist_group("pipeline-registry")
CANARY = {
    "servers": [{"grpc": "127.0.0.2:8510", "rest": "127.0.0.2:8511"}, {"grpc": "other:1", "rest": "other:2"}]
}


@pytest.fixture
def deployed(tmp_path: Path, new_shop: Callable[[Path], Any]) -> Callable[..., Any]:
    """A deployment with this `serving` section, which serves nothing yet."""

    def make(**serving: Any) -> Any:
        shop = new_shop(tmp_path)
        shop.config.write_text(shop.config.read_text() + yaml.safe_dump({"serving": serving}))
        return load(shop.config)

    return make


@pytest.mark.parametrize(
    ("canary", "ports", "address"),
    [
        (False, (None, None), Address("127.0.0.3", 8501, 8500)),
        (False, (0, 7), Address("127.0.0.3", 0, 7)),
        (True, (None, None), Address("127.0.0.2", 8511, 8510)),
        (True, (0, None), Address("127.0.0.3", 0, 8510)),
        (True, (1, 2), Address("127.0.0.3", 1, 2)),
    ],
)
def test_where_it_listens(deployed: Any, canary: bool, ports: Any, address: Address) -> None:
    servers = [{"grpc": "127.0.0.3:8500", "rest": "127.0.0.3:8501"}]
    deployment = deployed(host="127.0.0.3", servers=servers, canary=CANARY)
    assert address_of(deployment, canary, *ports) == address


def test_without_a_canary_there_is_none_to_serve(deployed: Any) -> None:
    with pytest.raises(RetrainError, match=r"serve --canary: serving\.canary is not set"):
        address_of(deployed(), True, None, None)


@pytest.mark.parametrize("value", [None, ""])
def test_a_token_that_is_not_in_the_environment_is_named(
    deployed: Any, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    deployment = deployed(token_env="SHOP_TOKEN")
    monkeypatch.setenv("SHOP_TOKEN", value or "")
    if value is None:
        monkeypatch.delenv("SHOP_TOKEN")
    with pytest.raises(RetrainError, match="the environment variable SHOP_TOKEN is not set"):
        token_of(deployment)
    monkeypatch.setenv("SHOP_TOKEN", "sesame")
    assert token_of(deployment) == "sesame"


def test_without_token_env_there_is_no_token(deployed: Any) -> None:
    assert token_of(deployed()) is None


def _with_a_champion(folder: Path, new_shop: Callable[[Path], Any], **serving: Any) -> Any:
    shop = new_shop(folder)
    shop.config.write_text(shop.config.read_text() + yaml.safe_dump({"serving": serving}))
    shop.add(1)
    shutil.rmtree(saved_model(shop.registry.get(1)))
    export(saved_model(shop.registry.get(1)), 1)
    shop.registry.make_champion(1)
    return load(shop.config)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_tls_a_token_limits_and_the_log(
    tmp_path: Path, new_shop: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    monkeypatch.setenv("SHOP_TOKEN", "sesame")
    deployment = _with_a_champion(
        tmp_path,
        new_shop,
        tls={"certificate": "cert.pem", "key": "key.pem", "ca": "cert.pem"},
        token_env="SHOP_TOKEN",
        max_body_mb=1,
        batching={"max_rows": 4, "wait_ms": 1},
        prediction_log={},
    )
    events: list[str] = []
    with configured_server(deployment, Address("127.0.0.1", 0, 0), events.append, canary=False) as server:
        server.wait_until_available("shop")
        url, ca = f"https://127.0.0.1:{server.rest_port}", tmp_path / "cert.pem"
        client = Client(url, "shop", token="sesame", ca=ca)
        assert client.answers()
        assert not Client(url, "shop", ca=ca).answers()
        assert not Client(url, "shop", token="sesame").answers()
        assert client.call(":predict", {"instances": [0, 0]}) == {"predictions": [1, 1]}
        with pytest.raises(RetrainError, match="413"):
            client.call(":predict", {"instances": [0] * 600_000})
    (log,) = (deployment.state / "predictions").iterdir()
    assert log.name.startswith("shop-") and log.suffix == ".tfrecord" and log.stat().st_size > 0
    assert events[0] == "serving shop version 1"


def test_the_log_has_its_own_key_and_not_the_canarys(tmp_path: Path, new_shop: Callable[[Path], Any]) -> None:
    deployment = _with_a_champion(
        tmp_path,
        new_shop,
        prediction_log={"key_header": "X-Trip"},
        canary={**CANARY, "key_header": "X-Customer"},
        servers=[{"grpc": "127.0.0.3:8500", "rest": "127.0.0.3:8501"}],
    )
    with configured_server(deployment, Address("127.0.0.1", 0, 0), lambda _: None, canary=False) as server:
        server.wait_until_available("shop")
        asked = urllib.request.Request(
            f"http://127.0.0.1:{server.rest_port}/v1/models/shop:predict",
            json.dumps({"instances": [0]}).encode(),
            {"X-Trip": "trip-17", "X-Customer": "ann"},
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert json.load(answer) == {"predictions": [1]}
    (log,) = (deployment.state / "predictions").iterdir()
    assert b"trip-17" in log.read_bytes() and b"ann" not in log.read_bytes()


def test_a_command_s_own_server_needs_neither(
    tmp_path: Path, new_shop: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_TOKEN", raising=False)
    with own_server(_with_a_champion(tmp_path, new_shop, token_env="SHOP_TOKEN")) as server:
        server.wait_until_available("shop")
        assert Client(f"http://127.0.0.1:{server.rest_port}", "shop").answers()


def test_a_ca_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "gone.pem"):
        with pytest.raises(RetrainError, match=rf"serving\.tls\.ca: got .*{name}"):
            Client("https://127.0.0.1:1", "shop", ca=tmp_path / name)
