"""What is said to model servers is TF Serving's protocol, with TLS and a token where they want them."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
    status_pb2,
)

from components.errors import RetrainError
from components.push.messages import MESSAGES
from components.push.model_service import Access, CallError, Client, VersionStatus

STOCK = {
    name: getattr(module, name)
    for module, names in {
        model_management_pb2: ["ReloadConfigRequest"],
        get_model_status_pb2: ["GetModelStatusRequest", "GetModelStatusResponse", "ModelVersionStatus"],
        get_model_metadata_pb2: ["GetModelMetadataRequest", "GetModelMetadataResponse"],
        status_pb2: ["StatusProto"],
    }.items()
    for name in names
}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_messages_are_those_of_tensorflow_serving(name: str) -> None:
    ours, stock = MESSAGES[name].DESCRIPTOR, STOCK[name].DESCRIPTOR
    for field in ours.fields:
        same = stock.fields_by_name[field.name]
        # An enum is an integer on the wire.
        kinds = {field.TYPE_INT32: (field.TYPE_INT32, field.TYPE_ENUM)}.get(field.type, (field.type,))
        assert (field.number, field.is_repeated) == (same.number, same.is_repeated)
        assert same.type in kinds


def test_importing_it_imports_no_tensorflow() -> None:
    code = "import sys, components.push.servers; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Models(model_service_pb2_grpc.ModelServiceServicer):
    """Answers with the stock messages; keeps what it was told, and who asked."""

    def __init__(self) -> None:
        self.config: Any = None
        self.bearers: list[str] = []

    def GetModelStatus(self, request: Any, context: Any) -> Any:
        self.bearers.append(dict(context.invocation_metadata()).get("authorization", ""))
        if request.model_spec.name != "taxi":
            context.abort(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model")
        answer = get_model_status_pb2.GetModelStatusResponse()
        answer.model_version_status.add(version=4, state="AVAILABLE")
        failed = answer.model_version_status.add(version=2**40, state="END")
        failed.status.error_code, failed.status.error_message = "DATA_LOSS", "Can't parse"
        answer.model_version_status.add(version=6, state="LOADING")
        return answer

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:
        self.config = request.config
        return model_management_pb2.ReloadConfigResponse()


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Knows one label."""

    def GetModelMetadata(self, request: Any, context: Any) -> Any:
        assert list(request.metadata_field) == ["signature_def"]
        if request.model_spec.version_label != "stable":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label")
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.model_spec.version.value = 4
        answer.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap())
        return answer


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, Path]:
    """Key and certificate (PEM) of 127.0.0.1, signed by itself, and a file with the latter."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = signed.public_bytes(serialization.Encoding.PEM)
    file = tmp_path_factory.mktemp("tls") / "ca.pem"
    file.write_bytes(pem)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, pem, file


@pytest.fixture(params=["plain", "tls"])
def server(request: pytest.FixtureRequest, certificate: Any) -> Iterator[tuple[str, Models, Access]]:
    """Address, what it keeps, and how to get in but for the token."""
    models, running = Models(), grpc.server(futures.ThreadPoolExecutor(2))
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(models, running)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), running)
    key, signed, ca = certificate
    if request.param == "tls":
        credentials = grpc.ssl_server_credentials([(key, signed)])
        port = running.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    tls = request.param == "tls"
    yield f"127.0.0.1:{port}", models, Access(tls=tls, ca=ca if tls else None)
    running.stop(0).wait()


def test_a_server_is_asked_and_told(server: tuple[str, Models, Access]) -> None:
    address, models, access = server
    client = Client(address, access)
    assert client.versions("taxi", 5) == {
        4: VersionStatus(30),
        2**40: VersionStatus(50, "DATA_LOSS: Can't parse"),
        6: VersionStatus(20),
    }
    assert client.versions("unknown", 5) == {}
    assert client.labelled("taxi", "stable", 5) == 4
    assert client.labelled("taxi", "canary", 5) is None

    config = model_management_pb2.ReloadConfigRequest().config
    config.model_config_list.config.add(name="taxi", base_path="/models/taxi", version_labels={"stable": 4})
    client.reload(config, 5)
    assert models.config == config
    assert set(models.bearers) == {""}
    client.close()


def test_requests_bear_the_token(server: tuple[str, Models, Access], monkeypatch: pytest.MonkeyPatch) -> None:
    address, models, access = server
    bearing = Access(access.tls, access.ca, token_env="SERVING_TOKEN")
    monkeypatch.delenv("SERVING_TOKEN", raising=False)
    with pytest.raises(RetrainError, match=r"serving\.token_env: .* variable SERVING_TOKEN is not set"):
        Client(address, bearing)
    monkeypatch.setenv("SERVING_TOKEN", "s3cret")
    client = Client(address, bearing)
    client.versions("taxi", 5)
    assert models.bearers == ["Bearer s3cret"]
    client.close()


def test_a_certificate_that_nobody_signed_is_not_trusted(
    server: tuple[str, Models, Access], tmp_path: Path
) -> None:
    address, models, _ = server
    client = Client(address, Access(tls=True))
    with pytest.raises(CallError, match="UNAVAILABLE"):
        client.versions("taxi", 5)
    client.close()
    assert models.bearers == []
    with pytest.raises(RetrainError, match=r"serving\.tls\.ca: got .*none\.pem \(No such file"):
        Client(address, Access(tls=True, ca=tmp_path / "none.pem"))
