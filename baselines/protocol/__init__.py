"""What a strategy is given, how its phases are trained, and what it returns."""
