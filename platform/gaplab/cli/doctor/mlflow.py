"""MLflow's environment variables, some of which gaplab ignores."""

from collections.abc import Mapping

from gaplab.cli.doctor.finding import Finding, ok, warn


def check_mlflow(environ: Mapping[str, str], uri: str) -> list[Finding]:
    """Return findings about MLflow's variables; `uri` is the database that gaplab writes to."""
    found = []
    if environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("1", "true"):
        what = "MLFLOW_ALLOW_FILE_STORE allows the file store, which MLflow no longer develops"
        found.append(warn("MLflow", what, "unset it; gaplab stores runs in a database"))
    if environ.get("MLFLOW_TRACKING_URI", uri) not in ("", uri):
        what = f"MLFLOW_TRACKING_URI is ignored: gaplab writes to {uri}"
        found.append(warn("MLflow", what, "unset it, or look for the runs there"))
    return found or [ok("MLflow", uri)]
