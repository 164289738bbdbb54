"""A Ray cluster of two nodes on this machine, the second of which can be killed.

It says "address HOST:PORT" when it is there, kills the second node when it is told "kill", and ends
with its standard input.
"""

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80 * 2**20}


def serve() -> None:
    """Answers until its standard input ends."""
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(**NODE)
    print(f"address {cluster.address}", flush=True)
    for line in sys.stdin:
        if line.strip() == "kill":
            cluster.remove_node(second, allow_graceful=False)
    cluster.shutdown()


if __name__ == "__main__":
    serve()
