"""Programs that look at images."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.programs.parts import Program, Step, normal, training, whole


def unet(torch: Any) -> tuple[Any, Step]:
    """A segmentation net with two halvings of the resolution, batch norm, and transposed convolutions."""
    nn = torch.nn
    F = nn.functional

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)
            self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

        def forward(self, x: Any) -> Any:
            return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2, self.middle = Block(1, 16), Block(16, 32), Block(32, 64)
            self.up2, self.up1 = nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ConvTranspose2d(32, 16, 2, stride=2)
            self.merge2, self.merge1, self.out = Block(64, 32), Block(32, 16), nn.Conv2d(16, 2, 1)

        def forward(self, x: Any) -> Any:
            first = self.down1(x)
            second = self.down2(F.max_pool2d(first, 2))
            x = self.up2(self.middle(F.max_pool2d(second, 2)))
            x = self.up1(self.merge2(torch.cat([x, second], 1)))
            return self.out(self.merge1(torch.cat([x, first], 1)))

    net = UNet()
    x, y = torch.tensor(normal(0, 4, 1, 64, 64)), torch.tensor(whole(1, 2, 4, 64, 64))
    return net, training(torch.optim.Adam(net.parameters(), lr=1e-3), lambda: F.cross_entropy(net(x), y))


def vision_transformer(torch: Any) -> tuple[Any, Step]:
    """Patches of 8x8 as tokens, with a class token, and attention written out."""
    nn = torch.nn
    F = nn.functional

    class Attention(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.heads = heads
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

        def forward(self, x: Any) -> Any:
            n, tokens, width = x.shape
            size = width // self.heads
            q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
            weights = (q @ k.transpose(-2, -1) / math.sqrt(size)).softmax(-1)
            return self.out((weights @ v).transpose(1, 2).reshape(n, tokens, width))

    class Layer(nn.Module):
        def __init__(self, width: int, heads: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = Attention(width, heads)
            self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.mlp(self.norm2(x))

    class Net(nn.Module):
        def __init__(self, width: int = 96) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, width, 8, stride=8)
            self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 65, width))
            self.layers = nn.ModuleList([Layer(width, 4) for _ in range(3)])
            self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 10)

        def forward(self, x: Any) -> Any:
            x = self.patches(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
            for layer in self.layers:
                x = layer(x)
            return self.out(self.norm(x[:, 0]))

    net = Net()
    x, y = torch.tensor(normal(0, 8, 3, 64, 64)), torch.tensor(whole(1, 10, 8))
    return net, training(torch.optim.AdamW(net.parameters(), lr=1e-3), lambda: F.cross_entropy(net(x), y))


def mobile_net(torch: Any) -> tuple[Any, Step]:
    """Inverted bottlenecks with depthwise convolutions, by SGD with Nesterov's momentum."""
    nn = torch.nn
    F = nn.functional

    def block(inputs: int, outputs: int) -> Any:
        wide = 4 * inputs
        return nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 2, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU6(), block(16, 24), block(24, 32)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    x, y = torch.tensor(normal(0, 16, 3, 32, 32)), torch.tensor(whole(1, 10, 16))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4, nesterov=True)
    return net, training(optimizer, lambda: F.cross_entropy(net(x), y))


def mixer(torch: Any) -> tuple[Any, Step]:
    """Layers over the tokens and over the channels in turn."""
    nn = torch.nn
    F = nn.functional

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(128), nn.LayerNorm(128)
            self.tokens = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
            self.channels = nn.Sequential(nn.Linear(128, 256), nn.GELU(), nn.Linear(256, 128))

        def forward(self, x: Any) -> Any:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norm2(x))

    body = nn.Sequential(*[Layer() for _ in range(3)], nn.LayerNorm(128))
    net = nn.ModuleDict({"body": body, "out": nn.Linear(128, 10)})
    x, y = torch.tensor(normal(0, 16, 64, 128)), torch.tensor(whole(1, 10, 16))
    return net, training(
        torch.optim.AdamW(net.parameters()), lambda: F.cross_entropy(net["out"](net["body"](x).mean(1)), y)
    )


def contrastive(torch: Any) -> tuple[Any, Step]:
    """Two views of each example against all others (SimCLR's loss)."""
    nn = torch.nn
    F = nn.functional
    net = nn.Sequential(nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 64))
    one, other = torch.tensor(normal(0, 128, 128)), torch.tensor(normal(1, 128, 128))
    own = torch.eye(256, dtype=torch.bool)
    partners = torch.cat([torch.arange(128, 256), torch.arange(128)])

    def loss() -> Any:
        z = F.normalize(net(torch.cat([one, other])), dim=1)
        return F.cross_entropy((z @ z.T / 0.5).masked_fill(own, -1e9), partners)

    return net, training(torch.optim.Adam(net.parameters(), lr=1e-3), loss)


PROGRAMS: dict[str, Program] = {
    "U-Net": unet,
    "vision transformer": vision_transformer,
    "MobileNet": mobile_net,
    "MLP mixer": mixer,
    "contrastive": contrastive,
}
