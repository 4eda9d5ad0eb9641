"""Data: labelled data sets, and pictures from files."""
