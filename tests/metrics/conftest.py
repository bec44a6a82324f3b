"""Makes the imports behind torchmetrics' image metrics work beside any torchvision."""

import pytest
import torch

OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # operators live as long as it does


@pytest.fixture(scope="session")
def torchvision_imports() -> None:
    """torch-fidelity, where installed, imports torchvision, and torchmetrics imports torch-fidelity.

    A torchvision built for another torch stops at two missing operators, which none of them uses here.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for name in ("nms", "qnms"):
            OPERATORS.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
