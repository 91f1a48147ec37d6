"""What parts of the package need besides, and the command that installs it: for error messages.

Installed by their own names, which works wherever numlstm itself came from. ``pyproject.toml`` has the same
requirements; a test compares them.
"""

REQUIREMENTS = {
    "numba": ("numba>=0.62",),
    "plot": ("matplotlib>=3.8",),
    "onnx": ("onnx>=1.21", "protobuf>=6.33.5"),
    "dask": ("dask[array,dataframe]>=2026.1", "distributed>=2026.1", "pyarrow>=16"),
    "cuda12": ("numba-cuda[cu12]>=0.30,<0.31",),
    "cuda13": ("numba-cuda[cu13]>=0.30,<0.31", "nvidia-cuda-nvcc>=13"),
    "link": ("ziglang>=0.13",),
}


def install(part: str) -> str:
    """The shell command that installs what a part needs: the name of an extra, or of a dependency.

    Examples
    --------
    >>> install("onnx")
    "pip install 'onnx>=1.21' 'protobuf>=6.33.5'"
    """
    return "pip install " + " ".join(f"'{requirement}'" for requirement in REQUIREMENTS[part])
