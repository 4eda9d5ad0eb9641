"""How bound rules run: in chunks, side by side, over known gradients."""
