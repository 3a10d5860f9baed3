"""Operators that PyTorch lacks, as pure functions of tensors. They run wherever PyTorch does."""
