"""What is learned from: data sets, and pictures from files."""
