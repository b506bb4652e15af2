"""What is used of Ray that is not its public interface is still there, and used by Ray as it is here."""

import inspect

from ray._private import node, ray_constants, services, worker
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from actors.cluster import plain
from bcaf_stream.errors import DataError


def test_what_ray_says_of_its_nodes_goes_through_one_function():
    """`listen_error_messages` looks it up in its module, and hands over what is used (training/ray_jobs.py)."""
    assert list(inspect.signature(worker.print_to_stdstream).parameters) == ["data", "ignore_prefix"]
    assert "print_to_stdstream(" in inspect.getsource(worker.listen_error_messages)


def test_a_driver_can_see_which_processes_of_its_ray_died():
    assert "global _global_node" in inspect.getsource(worker.init)
    assert list(inspect.signature(node.Node.dead_processes).parameters) == ["self"]


def test_a_local_ray_can_be_kept_on_this_machine():
    """The switch of other systems: without it, a local Ray listens on every address."""
    assert "ENABLE_RAY_CLUSTER" in inspect.getsource(services)
    assert ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR in inspect.getsource(ray_constants)


def test_a_token_can_be_shown_to_a_cluster_of_any_address():
    assert list(inspect.signature(maybe_enable_token_auth_if_token_available).parameters) == ["warn_if_disabled"]


def test_what_a_worker_of_ray_train_raised_can_be_told_by_its_own_error():
    error = DataError("corpus.jsonl: line 3 has no label")
    assert plain(UserExceptionWithTraceback(error, "Traceback ..."), "training was given up") is error
