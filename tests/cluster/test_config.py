"""The cluster's configuration, without Ray: what the flags say, and the token, which must reach every process."""

from __future__ import annotations

import pickle

import pytest
import requests

from backend.endpoint import Limits
from backend.endpoint.cluster import (
    ClusterConfig,
    ClusterService,
    ComputeRequest,
    Ingress,
    VaeReplica,
    _parser,
    main,
    read_config,
)
from backend.endpoint.service import TOKEN_VARIABLE
from backend.errors import WireError
from backend.models import BUILTIN
from backend.wire import CONFIGURED, RAW
from tests.serving import serve
from tests.waiting import run_async

VAES = (("builtin", BUILTIN.repository),)


def test_the_flags_make_the_configuration() -> None:
    config = read_config(
        _parser().parse_args(["--device", "cuda", "--gpus", "0.5", "--max-replicas", "3", "--queue", "7"]), {}
    )
    assert config == ClusterConfig(
        VAES, device="cuda", gpus=0.5, max_replicas=3, limits=Limits(queue=7), token=None
    )
    assert config.largest == 3 and ClusterConfig(VAES, replicas=2).largest == 2


def test_a_vae_that_makes_no_sense_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--vae", "name"]) == 2
    assert "NAME=FOLDER_OR_REPO" in capsys.readouterr().err


def test_the_token_goes_where_the_ingress_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a real cluster that is another process, and its environment is not the one of the command."""
    config = read_config(_parser().parse_args([]), {TOKEN_VARIABLE: "s3cret"})
    assert config.token == "s3cret" and "s3cret" not in repr(config)
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    there = pickle.loads(pickle.dumps(config))
    with serve(Ingress(there, None).__serve_build_asgi_app__()) as url:
        assert requests.get(f"{url}/vae", timeout=10).status_code == 401
        headers = {"Authorization": "Bearer s3cret"}
        assert requests.get(f"{url}/vae", headers=headers, timeout=10).status_code == 200


def test_limits_grow_with_the_replicas() -> None:
    service = ClusterService(ClusterConfig(VAES, replicas=2, max_replicas=5, limits=Limits(queue=3)), None)
    assert service.limits.queue == 15 and service.limits.queue_bytes == 5 * Limits().queue_bytes
    assert service.token is None


def test_a_replica_computes_and_gives_each_request_its_result_or_error() -> None:
    import numpy as np

    replica = VaeReplica(ClusterConfig(VAES, device="cpu"))
    array = np.random.default_rng(1).standard_normal((1, 4, 4, 6)).astype("float32")
    requested = [
        ComputeRequest("builtin", "decode", array, CONFIGURED),
        ComputeRequest("builtin", "encode", np.zeros((1, 3, 16, 24), "float32"), RAW),
        ComputeRequest("builtin", "decode", array * np.float32("inf"), CONFIGURED),
        ComputeRequest("builtin", "decode", array, RAW),
    ]
    decoded, encoded, broken, other = run_async(replica.compute(requested))
    assert not isinstance(decoded, Exception) and not isinstance(encoded, Exception)
    assert decoded[0].tensor.shape == (1, 3, 16, 24) and encoded[0].tensor.shape == (1, 4, 4, 6)
    assert (decoded[1], encoded[1]) == (
        2,
        1,
    )  # the decode was batched with the broken one, and failed not with it
    assert not isinstance(other, Exception)
    assert isinstance(broken, Exception) and not isinstance(broken, WireError)
