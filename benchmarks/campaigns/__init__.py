"""Campaigns: one TOML file each, a list of launches in order of worth, and how far each is."""
