"""Which addresses mean this machine alone."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach `host`: a name, an address, or a socket."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    inner = getattr(address, "ipv4_mapped", None)
    return bool((inner or address).is_loopback)
