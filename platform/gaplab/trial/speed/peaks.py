"""The peak of GPUs in bf16, from data sheets."""

import re

PEAKS: dict[str, float] = {
    r"B200": 2250,  # NVIDIA Blackwell data sheet: 4,500 with sparsity
    r"H200 NVL|H100 NVL": 835,  # NVIDIA H100 and H200 data sheets: 1,671 with sparsity
    r"H200|GH200": 989,  # NVIDIA H200 data sheet: 1,979 with sparsity
    r"H100.*(HBM3|SXM)": 989,  # NVIDIA H100 data sheet: 1,979 with sparsity
    r"H100 PCIe": 756,  # NVIDIA H100 data sheet: 1,513 with sparsity
    r"A100": 312,  # NVIDIA A100 data sheet
    r"A30": 165,  # NVIDIA A30 data sheet
    r"A10": 125,  # NVIDIA A10 data sheet
    r"L40S": 362,  # NVIDIA L40S data sheet: 733 with sparsity
    r"L4": 121,  # NVIDIA L4 data sheet: 242 with sparsity
    r"RTX 4090": 165,  # NVIDIA Ada architecture: 330 with sparsity, sums in fp32
    r"RTX 3090": 71,  # NVIDIA GA102 architecture: 142 with sparsity, sums in fp32
    r"MI300X": 1307,  # AMD Instinct MI300X data sheet
}
"""Pattern for the name of a GPU -> teraflops of dense products in bf16."""


def peak_of(name: str) -> float | None:
    """Return the teraflops of a GPU by its name, without sparsity; None: unknown."""
    patterns = (p for p in PEAKS if re.search(rf"\b(?:{p})(?!\w)", name))
    return next((PEAKS[pattern] for pattern in patterns), None)
