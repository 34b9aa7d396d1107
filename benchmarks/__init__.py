"""What `make bench` and `make prove` run; each writes its figures to docs/figures."""
