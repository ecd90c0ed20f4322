"""What a server tells about its models, in both protocols."""

from __future__ import annotations

from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2

from serving.catalog import Catalog
from serving.errors import shorten

SIGNATURE_DEF = "signature_def"


def model_status(
    catalog: Catalog, name: str, version: int | None, label: str | None
) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the status of one version, or of all.

    Raises:
      RequestError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
    """
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, status in catalog.statuses(name, version, label).items():
        entry = response.model_version_status.add(version=number, state=int(status.state))
        entry.status.error_code = int(status.code)
        entry.status.error_message = shorten(status.message)
    return response


def metadata(
    catalog: Catalog, name: str, version: int | None, label: str | None
) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of one version.

    Raises:
      RequestError: NOT_FOUND, or INVALID_ARGUMENT for an unknown label.
    """
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    with catalog.use(name, version, label) as model:
        response.model_spec.name = model.name
        response.model_spec.version.value = model.version
        response.metadata[SIGNATURE_DEF].Pack(model.signature_defs)
    return response
