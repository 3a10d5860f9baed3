"""Run the trials of a sweep: scheduling, leases, search, stopping, costs. Ray: see `launch.ray`."""
