"""`python -m resilient` is the `resilient` command."""

from resilient.cli import main

if __name__ == "__main__":
    main()
