"""What PyInstaller has to know to bundle numlstm: it finds this folder by the entry point ``hook-dirs``."""

import os


def hook_dirs() -> list[str]:
    """The folders of the hooks, as PyInstaller asks for them."""
    return [os.path.dirname(__file__)]
