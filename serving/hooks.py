"""Who else wants to know what was answered."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

KEY_HEADER = "X-Request-Key"


class PredictionLog(Protocol):
    """Keeps what was answered; see `serving.prediction_log`."""

    logged: int
    dropped: int
    bytes: int

    def record(
        self,
        model: str,
        version: int,
        signature: str,
        method: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Mapping[str, np.ndarray],
        key: str | None,
    ) -> None:
        """Takes one answered request, without waiting and without an error.

        Args:
          model: its name.
          version: that answered.
          signature: its name.
          method: predict, classify or regress.
          inputs: arrays by name, the first dimension is the rows; not to be changed afterwards.
          outputs: likewise.
          key: the header `X-Request-Key` of the request; None: it had none.
        """
