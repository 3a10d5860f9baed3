"""MLflow's settings in the environment that don't mean what a person may think."""

from collections.abc import Mapping

from gaplab.cli.doctor.finding import Finding


def check_tracking(environ: Mapping[str, str], own: str) -> list[Finding]:
    """own: the address of gaplab's mirror."""
    found = []
    if environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("1", "true"):
        what = "MLFLOW_ALLOW_FILE_STORE allows the store of files, which MLflow gave up"
        found.append(Finding("warn", "MLflow", what, "unset it; gaplab's own store is a database"))
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if uri and uri != own:
        what = f"MLFLOW_TRACKING_URI is not gaplab's, which doesn't heed it and writes to {own}"
        found.append(Finding("warn", "MLflow", what, "unset it, or look at that address"))
    return found or [Finding("ok", "MLflow", own)]
