"""Run folders, and the tables read from them."""
