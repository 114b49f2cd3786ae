"""Plain training of one model or several: what every other strategy is measured against."""
