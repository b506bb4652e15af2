"""A node that is lost in training is one line, not the logs that it left."""

from training.ray_jobs import ONE_LOSS_S, ClusterNotes

TERMINATED = (
    "Raylet is terminated. Termination is unexpected. Possible reasons include: (1) SIGKILL by the user or system"
    " OOM killer. Last 20 lines of the Raylet logs:\n    [state-dump] DebugString() time ms: 0\n    [state-dump]"
)
DEAD = (
    "The node with node id: 4a54 and address: 192.0.2.2 has been marked dead because the detector has missed too"
    " many heartbeats from it. This can happen when a \t(1) raylet crashes unexpectedly\n\t(2) raylet has lagging"
)


def told(*lines, at=(0.0,)):
    said, times = [], iter(at)
    now = [0.0]
    notes = ClusterNotes(said.append, lambda: now[0])
    for line in lines:
        now[0] = next(times, now[0])
        notes({"lines": [line], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    return said


def test_one_lost_node_is_one_line():
    (line,) = told(TERMINATED, DEAD, TERMINATED, at=(0.0, 10.8, 10.9))
    assert "\n" not in line
    assert "Ray lost a node" in line
    assert "from what was last committed" in line


def test_the_next_one_is_told_again():
    assert len(told(TERMINATED, TERMINATED, at=(0.0, ONE_LOSS_S))) == 2


def test_whatever_else_ray_tells_is_its_first_line():
    assert told("The autoscaler cannot add nodes\nTraceback ...") == ["Ray: The autoscaler cannot add nodes"]
