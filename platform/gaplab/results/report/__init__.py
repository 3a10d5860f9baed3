"""The report of a sweep or of some trials: one HTML file with pictures and tables.

`write.py` has the table of sections; each section is one file. A section is a function of the
evidence (`evidence.py`) that returns HTML (`html.py`) with figures (`figure.py`).
"""
