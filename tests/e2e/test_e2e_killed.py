"""kill -9 anywhere, then the same command: it ends as if nothing had happened."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.harness import SMALL, Deployment
from tests.killed import Mortal

pytestmark = [pytest.mark.long, pytest.mark.xdist_group("e2e-killed"), pytest.mark.timeout(900)]

POINTS = [
    "ingest:0.1",
    "train:4",
    "components.promote.registry:Registry.register:after",
    "components.push.logic:os.rename:before",
    "components.promote.registry:Registry.make_champion:before",
    "components.promote.registry:Registry.make_champion:after",
    "serving.model_config:write_model_config:before",
]


def test_the_same_command_finishes_the_work_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    deployment = Deployment(tmp_path_factory.mktemp("killed") / "taxi")
    deployment.configure(**SMALL)
    deployment.put(1)
    assert deployment.run().code == 0
    deployment.put(2)
    with Mortal("pipeline.graph", "run", deployment.config, "--json") as command:
        for point in POINTS:
            assert command.run(point) == -signal.SIGKILL, point
            status = deployment.status()
            assert status["served"] in (1, 2), point
            assert status["versions"] in (1, 2), point
            # What the server was told to serve is whole, and never ahead of the alias.
            assert deployment.served_by_folder() in ([1], [status["served"]]), point
            for version in (deployment.state / "serving/taxi").iterdir():
                assert (version / "saved_model.pb").exists(), point

    assert deployment.run().code == 0
    versions = deployment.versions()
    assert set(versions) == {1, 2}
    assert versions[2]["spans"] == [2] and versions[2]["parent"] == 1 and versions[2]["state"] == "served"
    assert deployment.served_by_folder() == [2]
    assert deployment.status()["pending"] == []
    rows = versions[1]["record"]["rows"]["train"] + versions[2]["record"]["rows"]["train"]
    assert sum(deployment.sample(versions[2])["spans"].values()) == rows
    assert deployment.run().out == ""
