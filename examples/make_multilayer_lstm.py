"""Make multilayer_lstm.npz: what PyTorch's LSTM(6, 4, num_layers=2) holds and computes, for the tutorial.

pip install torch==2.13.0
python examples/make_multilayer_lstm.py
"""

from pathlib import Path

import numpy as np
import torch

NPZ = Path(__file__).with_name("multilayer_lstm.npz")


def main() -> None:
    """Write the eight parameters, the input and the states that went in, and what came out."""
    if torch.__version__.split("+")[0] != "2.13.0":
        raise SystemExit(f"torch is {torch.__version__}; the committed file comes from 2.13.0")
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(6, 4, num_layers=2)
    x, h_0, c_0 = torch.randn(5, 1, 6), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    with torch.inference_mode():
        output, (h_n, c_n) = lstm(x, (h_0, c_0))
    arrays = lstm.state_dict() | {"x": x, "h_0": h_0, "c_0": c_0, "output": output, "h_n": h_n, "c_n": c_n}
    np.savez(NPZ, **{name: array.numpy() for name, array in arrays.items()})


if __name__ == "__main__":
    main()
