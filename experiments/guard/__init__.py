"""What guards promise, what they cost where a rule is good, and what they save where it is not."""
