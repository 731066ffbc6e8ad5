"""What a run shows to a person: tables, pictures and one HTML page, made from plain data."""
