"""Data: from extended XYZ files to checked graphs with targets and weights."""
