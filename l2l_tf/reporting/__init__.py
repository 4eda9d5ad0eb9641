"""How results are read: tables, JSON, figures, progress."""
