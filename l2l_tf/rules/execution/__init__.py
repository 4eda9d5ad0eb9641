"""Ways to run bound rules: in chunks, side by side, over known gradients."""
