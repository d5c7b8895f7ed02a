"""Muon for hidden matrices, those of a recurrent model gate by gate, and AdamW for all other parameters, as one optimizer.

Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon), with the update scaled to
AdamW's root mean square so that both share one learning rate (Liu et al. 2025, "Muon is scalable for LLM training", arXiv:2502.16982, section 2.2).

Two differences from torch.optim.Muon: a recurrent weight stacks one matrix per gate, and each is made orthogonal by itself; and the iteration
runs in the parameter's own precision, since bfloat16 products are slow on processors without instructions for them.
"""

from typing import Any

import torch
from torch import Tensor, nn

# quintic Newton-Schulz iteration: coefficients of the source, which drive all singular values into about [0.7, 1.2]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on `hidden`, AdamW on `other_groups`.

    Args:
        hidden: matrices (G * N, M) by their number G of stacked blocks, at least 1.
        other_groups: parameter groups for AdamW, each with its own weight_decay.
        lr: learning rate of both.
        weight_decay: decoupled weight decay of `hidden`.
        momentum: of Muon's moving average of the gradient (Nesterov), 0 to 1.
        num_iterations: Newton-Schulz iterations, 1 to 10.
        hidden_lr_ratio: learning rate of `hidden` relative to `lr`.
        betas: AdamW's decay rates.
        eps: AdamW's term against division by zero.
    """

    def __init__(
        self,
        hidden: dict[int, list[nn.Parameter]],
        other_groups: list[dict[str, Any]],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        num_iterations: int = 5,
        hidden_lr_ratio: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not 0 <= momentum < 1 or not 1 <= num_iterations <= 10 or not hidden_lr_ratio > 0:
            raise ValueError(
                f"momentum is {momentum}, num_iterations {num_iterations} and hidden_lr_ratio {hidden_lr_ratio}; "
                "they must be in [0, 1), from 1 to 10 and above 0."
            )
        self._adamw = torch.optim.AdamW(other_groups, lr=lr, betas=betas, eps=eps, fused=True)
        for group in self._adamw.param_groups:
            group["num_blocks"] = 0  # none: not Muon's
        options = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "num_iterations": num_iterations, "hidden_lr_ratio": hidden_lr_ratio}
        groups = [{"params": parameters, "num_blocks": blocks, **options} for blocks, parameters in hidden.items()]
        super().__init__([*groups, *self._adamw.param_groups], options)
        self._share_state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share_state()

    def _share_state(self) -> None:
        """Let AdamW work on this optimizer's groups and state, so that there is one of each to set, save and load."""
        self._adamw.param_groups = [group for group in self.param_groups if group["num_blocks"] == 0]
        self._adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure: the gradient is there when the loop steps
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            if group["num_blocks"]:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._update(parameter, group)
        self._adamw.step()

    def _update(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        average = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(average, group["momentum"])
        blocks = ahead.view(group["num_blocks"], -1, parameter.shape[1])
        direction = orthogonalise(blocks, group["num_iterations"]).reshape_as(parameter)
        rate = group["lr"] * group["hidden_lr_ratio"]
        parameter.mul_(1 - rate * group["weight_decay"])
        parameter.add_(direction, alpha=-rate * 0.2 * max(blocks.shape[1:]) ** 0.5)


def orthogonalise(matrices: Tensor, num_iterations: int) -> Tensor:
    """The orthogonal factor of each matrix (G, N, M), roughly: singular vectors stay and singular values approach 1."""
    wide = matrices.shape[1] <= matrices.shape[2]
    values = matrices if wide else matrices.transpose(1, 2)
    values = values / (values.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(num_iterations):
        gram = values @ values.transpose(1, 2)
        values = torch.baddbmm(values, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), values, beta=a)
    return values if wide else values.transpose(1, 2)
