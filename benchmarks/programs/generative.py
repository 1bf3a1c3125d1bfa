"""Programs that make images."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.programs.parts import Program, Step, normal, training, whole


def variational(torch: Any) -> tuple[Any, Step]:
    """A variational autoencoder of images of 784 pixels."""
    nn = torch.nn
    F = nn.functional
    net = nn.ModuleDict({
        "in": nn.Linear(784, 256), "mean": nn.Linear(256, 20), "spread": nn.Linear(256, 20),
        "back": nn.Linear(20, 256), "out": nn.Linear(256, 784),
    })  # fmt: skip
    x, noise = torch.tensor(normal(0, 128, 784)).sigmoid(), torch.tensor(normal(1, 128, 20))

    def loss() -> Any:
        h = F.relu(net["in"](x))
        mean, spread = net["mean"](h), net["spread"](h)
        z = mean + noise * torch.exp(0.5 * spread)
        again = torch.sigmoid(net["out"](F.relu(net["back"](z))))
        apart = -0.5 * torch.sum(1 + spread - mean.pow(2) - spread.exp())
        return F.binary_cross_entropy(again, x, reduction="sum") + apart

    return net, training(torch.optim.Adam(net.parameters(), lr=1e-3), loss)


def adversarial(torch: Any) -> tuple[Any, Step]:
    """A step of the discriminator and one of the generator, both of convolutions (DCGAN)."""
    nn = torch.nn

    def up(inputs: int, outputs: int, stride: int, padding: int) -> list[Any]:
        conv = nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]

    def down(inputs: int, outputs: int) -> list[Any]:
        conv = nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2, inplace=True)]

    last = nn.ConvTranspose2d(16, 3, 4, 2, 1, bias=False)
    maker = nn.Sequential(*up(32, 64, 1, 0), *up(64, 32, 2, 1), *up(32, 16, 2, 1), last, nn.Tanh())
    first = [nn.Conv2d(3, 16, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True)]
    judge = nn.Sequential(*first, *down(16, 32), *down(32, 64), nn.Conv2d(64, 1, 4, 1, 0, bias=False))
    real, z = torch.tensor(normal(0, 32, 3, 32, 32)), torch.tensor(normal(1, 32, 32, 1, 1))
    options = {"lr": 2e-4, "betas": (0.5, 0.999)}
    of_maker = torch.optim.Adam(maker.parameters(), **options)
    of_judge = torch.optim.Adam(judge.parameters(), **options)
    criterion = nn.BCEWithLogitsLoss()

    def step() -> Any:
        judge.zero_grad()
        seen = judge(real).view(-1)
        on_real = criterion(seen, torch.ones_like(seen))
        on_real.backward()
        made = maker(z)
        seen = judge(made.detach()).view(-1)
        on_made = criterion(seen, torch.zeros_like(seen))
        on_made.backward()
        of_judge.step()
        maker.zero_grad()
        seen = judge(made).view(-1)
        passed = criterion(seen, torch.ones_like(seen))
        passed.backward()
        of_maker.step()
        return on_real + on_made + passed

    return nn.ModuleList([maker, judge]), step


def diffusion(torch: Any) -> tuple[Any, Step]:
    """A U-Net with group norm and SiLU that is told the time, and predicts the noise."""
    nn = torch.nn
    F = nn.functional

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.norm1, self.conv1 = nn.GroupNorm(4, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
            self.norm2, self.conv2 = nn.GroupNorm(4, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
            self.time = nn.Linear(64, outputs)
            self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

        def forward(self, x: Any, time: Any) -> Any:
            h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
            return self.conv2(F.silu(self.norm2(h))) + self.shortcut(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
            self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)
            self.high, self.low, self.merged = Block(16, 16), Block(32, 32), Block(48, 16)
            self.down, self.up = nn.Conv2d(16, 32, 3, 2, 1), nn.Upsample(scale_factor=2, mode="nearest")

        def forward(self, x: Any, t: Any) -> Any:
            waves = torch.exp(-math.log(10000) * torch.arange(16) / 16)
            angles = t[:, None].float() * waves[None]
            time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
            high = self.high(self.first(x), time)
            low = self.low(self.down(high), time)
            return self.last(self.merged(torch.cat([self.up(low), high], 1), time))

    net = Net()
    x, noise = torch.tensor(normal(0, 8, 3, 32, 32)), torch.tensor(normal(1, 8, 3, 32, 32))
    t = torch.tensor(whole(2, 1000, 8))
    left = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)

    def loss() -> Any:
        kept = left[t][:, None, None, None]
        return F.mse_loss(net(kept.sqrt() * x + (1 - kept).sqrt() * noise, t), noise)

    return net, training(torch.optim.Adam(net.parameters(), lr=2e-4), loss)


PROGRAMS: dict[str, Program] = {"variational": variational, "adversarial": adversarial, "diffusion": diffusion}
