"""Requirements of the extras, and the command that installs them, for error messages.

They are installed by their own names, which works however numlstm was installed. ``pyproject.toml`` has the same
requirements; a test compares them.
"""

REQUIREMENTS = {
    "numba": ("numba>=0.62",),
    "plot": ("matplotlib>=3.8",),
    "onnx": ("onnx>=1.21", "protobuf>=6.33.5"),
    "dask": ("dask[array,dataframe]>=2026.1", "distributed>=2026.1", "pyarrow>=16"),
    "cuda12": ("numba-cuda[cu12]>=0.30,<0.31",),
    "cuda13": ("numba-cuda[cu13]>=0.30,<0.31", "nvidia-cuda-nvcc>=13"),
    "autograd": ("autograd>=1.7",),
    "jax": ("jax>=0.4.34",),
    "link": ("ziglang>=0.13",),
}


def install(part: str) -> str:
    """The shell command that installs the requirements of an extra or a dependency.

    Examples
    --------
    >>> install("onnx")
    "pip install 'onnx>=1.21' 'protobuf>=6.33.5'"
    """
    return "pip install " + " ".join(f"'{requirement}'" for requirement in REQUIREMENTS[part])
