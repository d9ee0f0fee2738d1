"""The demonstrations: `make demo` on synthetic rooms (run.sh), `make demo-real` on a scene of the user (real.py)."""
