"""`python -m pyro_vae`: the command of `pyro_vae.cli`."""

import sys

from pyro_vae.cli import main

if __name__ == "__main__":
    sys.exit(main())
