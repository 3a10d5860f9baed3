"""The notebook of the documentation, executed on the home of the trained trials."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[3] / "docs" / "results.ipynb"


@pytest.mark.filterwarnings("ignore")  # those of Jupyter's event loop
def test_the_notebook_runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {
        "GAPLAB_HOME": str(trained),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GAPLAB_LEDGER", raising=False)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("text/html") == 2  # two tables of pandas
    assert kinds.count("image/png") == 2  # a plot and a drawing
    assert {each["output_type"] for each in shown} == {"execute_result", "display_data"}
