"""Guards, which keep a rule near a hand-designed one."""
