"""Run `ray` with every port on 127.0.0.1; takes the arguments of `ray`.

Ray replaces a loopback address by the machine's public one unless
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says that the cluster has a single node; then Ray rejects a
second node. This script sets the variable, which keeps all processes on loopback, and patches two
internals of Ray so that a second node is accepted.
"""

import os
import sys

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

from ray._private import ray_constants, services
from ray.scripts.scripts import main

ray_constants.ENABLE_RAY_CLUSTER = True
services.get_node_ip_address = lambda address=None: "127.0.0.1"

if __name__ == "__main__":
    sys.exit(main())
