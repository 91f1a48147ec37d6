"""What a bundle of the command needs: the modules of its commands, which it imports by name."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("numlstm.commands")
