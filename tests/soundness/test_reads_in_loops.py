"""Policies, adversaries, penalties on gradients and sequences that look at values in the middle of a step."""

from __future__ import annotations

import tracejit as tj
from harness import Case, Topic, arr, labels, perceptron
from tracejit import nn, optim
from tracejit.nn import functional as F

topic = Topic()


# --- policies ---------------------------------------------------------------------------------------------------------


class Corridor:
    """Six fields in a row; the prize is at the right end."""

    def __init__(self) -> None:
        self.at = 0

    def observe(self) -> tj.Tensor:
        """The field as a one-hot row."""
        return tj.tensor([[1.0 if i == self.at else 0.0 for i in range(6)]])

    def step(self, action: int) -> float:
        """Go right (1) or left (0); the reward."""
        self.at = max(0, min(5, self.at + (1 if action == 1 else -1)))
        return 1.0 if self.at == 5 else -0.1


def returns(rewards: list[float], gamma: float = 0.9) -> list[float]:
    """Discounted sums of rewards."""
    out, g = [], 0.0
    for r in reversed(rewards):
        g = r + gamma * g
        out.append(g)
    return out[::-1]


@topic.program("cut")
def reinforce_over_time_steps():
    policy = perceptron(6, 8, 2)
    opt = optim.Adam(policy.parameters(), lr=0.05)

    def f():
        world, logs, rewards = Corridor(), [], []
        for _ in range(4):
            logp = F.log_softmax(policy(world.observe()), dim=-1)
            action = tj.multinomial(logp.detach().exp(), 1)
            logs.append(logp.gather(1, action))
            rewards.append(world.step(action.item()))
        loss = -(tj.cat(logs).reshape(-1) * tj.tensor(returns(rewards))).sum()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return rewards, loss.item()

    return Case(f, state=lambda: (policy, opt))


@topic.program("cut")
def reinforce_weighted_by_python_floats():
    policy = perceptron(6, 8, 2)
    opt = optim.SGD(policy.parameters(), lr=0.1)

    def f():
        world, logs, rewards = Corridor(), [], []
        for _ in range(3):
            p = policy(world.observe()).softmax(-1)
            action = tj.multinomial(p.detach(), 1)
            logs.append(p.gather(1, action).log().sum())
            rewards.append(world.step(action.item()))
        loss = sum(-log * g for log, g in zip(logs, returns(rewards), strict=True))
        opt.zero_grad()
        loss.backward()
        opt.step()
        return rewards, loss

    return Case(f, state=lambda: (policy, opt))


@topic.program("branch", calls=16)
def greedy_policy_indexes_with_the_action():
    policy = perceptron(6, 8, 2)
    opt = optim.Adam(policy.parameters(), lr=0.02)

    def f(i):
        world, logs, rewards = Corridor(), [], []
        world.at = 2 + i % 2
        for _ in range(2):
            probs = policy(world.observe()).softmax(-1)
            action = probs.argmax().item()
            logs.append(probs[0, action].log())
            rewards.append(world.step(action))
        loss = -(tj.stack(logs) * tj.tensor(returns(rewards))).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return rewards

    return Case(f, lambda i: (i,), lambda: (policy, opt))


@topic.program("cut")
def actor_and_critic_over_time_steps():
    body, actor, critic = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 1)
    weights = [*body.parameters(), *actor.parameters(), *critic.parameters()]
    opt = optim.Adam(weights, lr=0.02)

    def f():
        world, logs, values, entropies, rewards = Corridor(), [], [], [], []
        for _ in range(3):
            h = body(world.observe()).relu()
            logp = F.log_softmax(actor(h), dim=-1)
            action = tj.multinomial(logp.detach().exp(), 1)
            entropies.append(-(logp.exp() * logp).sum())
            logs.append(logp.gather(1, action).squeeze())
            values.append(critic(h).squeeze())
            rewards.append(world.step(action.item()))
        target = tj.tensor(returns(rewards))
        value = tj.stack(values)
        advantage = target - value.detach()
        loss = -(tj.stack(logs) * advantage).mean() + F.mse_loss(value, target) - 0.01 * tj.stack(entropies).mean()
        opt.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        opt.step()
        return loss.item(), sum(rewards)

    return Case(f, state=lambda: (body, actor, critic, opt))


# --- two optimizers ---------------------------------------------------------------------------------------------------


@topic.program("cut")
def gan_step_reads_both_losses():
    g, d = perceptron(2, 6, 3), perceptron(3, 6, 1)
    og, od = optim.Adam(g.parameters(), lr=0.01), optim.Adam(d.parameters(), lr=0.02, betas=(0.5, 0.9))
    bce = F.binary_cross_entropy_with_logits

    def f(real):
        n = len(real)
        fake = g(tj.randn(n, 2))
        d_loss = bce(d(real), tj.ones(n, 1)) + bce(d(fake.detach()), tj.zeros(n, 1))
        seen = d_loss.item()
        od.zero_grad()
        d_loss.backward()
        od.step()
        g_loss = bce(d(fake), tj.ones(n, 1))
        print(f"{seen:.4f} {g_loss.item():.4f}")
        og.zero_grad()
        g_loss.backward()
        og.step()
        return d_loss, g_loss

    return Case(f, lambda i: arr(i, 4, 3), lambda: (g, d, og, od))


@topic.program("cut")
def gradient_penalty_with_reads():
    d = perceptron(3, 6, 1)
    opt = optim.Adam(d.parameters(), lr=0.01)

    def f(real, fake):
        a = tj.rand(len(real), 1)
        mixed = (a * real + (1 - a) * fake).requires_grad_()
        score = d(mixed).sum()
        print(score.item())
        (g,) = tj.autograd.grad(score, mixed, create_graph=True)
        penalty = ((g.norm(dim=1) - 1) ** 2).mean()
        seen = penalty.item()
        loss = d(fake).mean() - d(real).mean() + 10 * penalty
        opt.zero_grad()
        loss.backward()
        opt.step()
        return seen, loss

    return Case(f, lambda i: (arr(i, 4, 3), arr(i + 50, 4, 3)), lambda: (d, opt))


@topic.program("cut")
def third_order_gradient_with_reads_between():
    w = arr(0, 4).requires_grad_()

    def f(x):
        y = (w * x).tanh().exp().sum() + (w**3).sum() * 0.1
        a = y.item()
        (g,) = tj.autograd.grad(y, w, create_graph=True)
        b = g.sum().item()
        (h,) = tj.autograd.grad((g * g).sum(), w, create_graph=True)
        c = h.sum().item()
        (k,) = tj.autograd.grad((h * x).sum(), w)
        return a, b, c, k

    return Case(f, lambda i: arr(i, 4), lambda: w)


@topic.program("cut")
def penalty_on_gradients_of_weights():
    m = perceptron(3, 5, 2)
    opt = optim.SGD(m.parameters(), lr=0.05)

    def f(x, y):
        loss = F.cross_entropy(m(x), y)
        v = loss.item()
        grads = tj.autograd.grad(loss, list(m.parameters()), create_graph=True)
        norm = sum(g.pow(2).sum() for g in grads)
        print(f"{norm.item():.5f}")
        opt.zero_grad()
        (loss + 0.1 * norm).backward()
        opt.step()
        return v

    return Case(f, lambda i: (arr(i, 5, 3), labels(i, 5, 2)), lambda: (m, opt))


# --- sequences --------------------------------------------------------------------------------------------------------


@topic.program("cut")
def lstm_by_hand_reads_a_state():
    wx, wh, b = (arr(i, *s).requires_grad_() for i, s in enumerate([(3, 16), (4, 16), (16,)]))
    out = nn.Linear(4, 1)
    opt = optim.RMSprop([wx, wh, b, *out.parameters()], lr=0.01)

    def f(x):
        h = c = tj.zeros(len(x), 4)
        peak = []
        for t in range(x.shape[1] - 1):
            i, g, k, o = (x[:, t] @ wx + h @ wh + b).chunk(4, 1)
            c = k.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            if t % 2:
                peak.append(h.abs().max().item())
        loss = F.mse_loss(out(h)[:, 0], x[:, -1, 0])
        seen = loss.item()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return seen, peak

    return Case(f, lambda i: arr(i, 2, 5, 3), lambda: (wx, wh, b, out, opt))


@topic.program("cut")
def lstm_module_reads_the_loss():
    rnn, out = nn.LSTM(3, 4, num_layers=2, batch_first=True), nn.Linear(4, 1)
    opt = optim.Adam([*rnn.parameters(), *out.parameters()], lr=0.01)

    def f(x):
        y, (h, _) = rnn(x)
        print(h.abs().max().item())
        loss = F.mse_loss(out(y)[:, -1, 0], x[:, -1, 0])
        seen = loss.item()
        opt.zero_grad()
        loss.backward()
        opt.step()
        return seen

    return Case(f, lambda i: arr(i, 2, 5, 3), lambda: (rnn, out, opt))


test_program = topic.test()
