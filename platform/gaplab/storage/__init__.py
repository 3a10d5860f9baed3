"""Files on a local disk or in an object store: checkpoints, candidates, matches, and the home.

Open `filesystem.py` first: `Storage` is the only class that opens, writes or deletes files under a
storage URI. `parquet` writes and reads typed Parquet files with it; `candidates` and `matches` are
the two kinds of Parquet file that an evaluation leaves. `home` names the files of the home folder.
"""
