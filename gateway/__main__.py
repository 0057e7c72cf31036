"""`python -m gateway`: the same as `carillon`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
