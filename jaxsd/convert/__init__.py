"""The paper's PyTorch modules of the five audio encoders <-> `encoders`.

encoder = encoder_from_torch(torch_module.state_dict())  # one of the five audio encoders
torch_module.load_state_dict({key: torch.from_numpy(value) for key, value in encoder_to_torch(encoder).items()})

`python -m jaxsd.convert SOURCE --out TARGET` does the same with files.
"""

from jaxsd.convert.encoders import encoder_from_torch, encoder_to_torch

__all__ = ["encoder_from_torch", "encoder_to_torch"]
