"""Run one model: ``python run_recbole_choir.py --model=ChoirRec [--key=value ...]``."""

from recbole_choir.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
