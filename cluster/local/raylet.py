"""`ray start` with every port on 127.0.0.1; takes the arguments of `ray`.

Ray turns a loopback address into the machine's public one, except where
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 says that there is one node alone, and then it refuses a second
node. Here the variable keeps all processes on loopback and the refusal is lifted.
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
