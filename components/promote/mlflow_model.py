"""A registered model in MLflow: the connection to it, its tags and its aliases."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from components.errors import RetrainError

Result = TypeVar("Result")
_SQLITE = "sqlite:///"


def explained(method: Callable[..., Result]) -> Callable[..., Result]:
    """Turns MLflow's, its server's and the database's exceptions into a message with the address."""

    @functools.wraps(method)
    def wrapped(self: MlflowModel, *args: Any, **kwargs: Any) -> Result:
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return method(self, *args, **kwargs)
        except (MlflowException, SQLAlchemyError, RequestException) as error:
            raise RetrainError(
                f"registry {self.uri}: {str(error).strip().splitlines()[0]}. Check registry.uri, and that "
                "the server or the file answers; nothing was changed"
            ) from error

    return wrapped


class MlflowModel:
    """One registered model.

    Args:
        uri: MLflow's: `sqlite:///PATH`, or a server's address.
        name: the registered model's name.
        artifacts: where MLflow keeps the models of a new experiment; None: beside the SQLite file, or
            where the server says.
    """

    def __init__(self, uri: str, name: str, artifacts: str | None = None) -> None:
        if artifacts is None and uri.startswith(_SQLITE):
            # MLflow itself would make a folder wherever the command was started.
            artifacts = os.path.join(os.path.dirname(uri.removeprefix(_SQLITE)), "mlflow")
        self.uri, self.name, self._artifacts = uri, name, artifacts

    @functools.cached_property
    def _client(self) -> Any:
        # A server that is away is reported in seconds, not after MLflow's minutes of retries.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def exists(self) -> bool:
        """Whether anything was ever written; asking creates nothing."""
        return not self.uri.startswith(_SQLITE) or os.path.exists(self.uri.removeprefix(_SQLITE))

    def _create_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _model(self) -> Any:
        """MLflow's registered model; None where there is no such model yet."""
        from mlflow.exceptions import MlflowException

        if not self.exists():
            return None
        try:
            return self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def _model_tags(self) -> Mapping[str, str]:
        model = self._model()
        tags: Mapping[str, str] = model.tags if model else {}
        return tags

    def _standing(self) -> dict[str, int]:
        """Alias -> the version that it is on."""
        model = self._model()
        return {alias: int(number) for alias, number in model.aliases.items()} if model else {}

    def _untag(self, key: str) -> None:
        if key in self._model_tags():
            self._client.delete_registered_model_tag(self.name, key)
