"""Which kind of file system a path lies on."""

import re
from pathlib import Path

NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ncpfs"),
        *("lustre", "gpfs", "beegfs", "ceph", "glusterfs", "ocfs2", "gfs2", "orangefs"),
        *("fuse.sshfs", "fuse.ceph", "fuse.glusterfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone"),
    }
)
"""Kinds that several machines may share: none of them has the shared memory that WAL needs."""


def filesystem(path: Path, mounts: str) -> str:
    """The kind of file system that holds the absolute `path`, "" if unknown.

    mounts: the text of /proc/mounts; of two mounts at one place the later one counts.
    """
    best, kind = Path(), ""
    for line in mounts.splitlines():
        _, place, found, *_ = line.split(" ")
        at = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), place))
        if path.is_relative_to(at) and len(at.parts) >= len(best.parts):
            best, kind = at, found
    return kind


def mounted() -> str:
    """The text of /proc/mounts; empty where the system has none."""
    try:
        return Path("/proc/mounts").read_text()
    except OSError:
        return ""
