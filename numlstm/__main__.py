"""``python -m numlstm``: the command ``numlstm``, by the Python that runs it."""

from numlstm.cli import main

if __name__ == "__main__":
    main()
