"""What a bundle needs of numlstm: the shipped kernels, or else what compiles them on the machine where it runs."""

from pathlib import Path

from PyInstaller.utils.hooks import copy_metadata, get_package_paths

KERNELS = Path("numlstm", "kernels")

datas = copy_metadata("numlstm")
shipped = sorted(Path(get_package_paths("numlstm")[0], KERNELS, "shipped").glob("lib*"))
binaries = [(str(path), str(KERNELS / "shipped")) for path in shipped]
if shipped:
    excludedimports = ["numba", "llvmlite"]  # 150 MB, for kernels that are there
else:
    datas += copy_metadata("numba") + copy_metadata("llvmlite")
# as files too: shipped kernels are used, and compiled ones cached, by what is in their sources
module_collection_mode = {"numlstm.kernels": "pyz+py"}
