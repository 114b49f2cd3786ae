"""The networks that suites train."""
