"""An adversary: it tells pictures of the corpus from made ones, patch by patch and knowing their look.

A patch discriminator (Isola et al. 2017) with spectral norms and hinge loss (Miyato et al. 2018), conditional on the
look by projection (Miyato & Koyama 2018); its features measure likeness (feature matching, Wang et al. 2018). Used in
training only. Knows nothing of latents.
"""

# torch's modules are typed more narrowly than they are
# pyright: reportCallIssue=false

import itertools

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (3, 32, 64, 128)
LEARNING_RATE = 1e-3


class Discriminator(nn.Module):
    """Pictures (n, 3, h, w) in [-1, 1] and their looks (n,) -> the features of each level, and scores (n, h/8, w/8) of
    patches of 38 px, higher for what looks real."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride=2, padding=1))
            for before, after in itertools.pairwise(WIDTHS)
        )
        self.levels.append(spectral_norm(nn.Conv2d(WIDTHS[-1], WIDTHS[-1], 3, padding=1)))
        self.score = spectral_norm(nn.Conv2d(WIDTHS[-1], 1, 1))
        self.looks = spectral_norm(nn.Embedding(looks, WIDTHS[-1]))

    def forward(self, pictures: Tensor, looks: Tensor) -> tuple[list[Tensor], Tensor]:
        features = []
        for level in self.levels:
            pictures = nn.functional.leaky_relu(level(pictures), 0.2)
            features.append(pictures)
        of_look = (pictures * self.looks(looks)[:, :, None, None]).sum(dim=1)
        return features, self.score(pictures)[:, 0] + of_look


class Adversary:
    """A discriminator that learns from every batch that it is shown."""

    def __init__(self, looks: int) -> None:
        self.discriminator = Discriminator(looks).to(memory_format=torch.channels_last)
        parameters = self.discriminator.parameters()
        self._optimizer = torch.optim.Adam(parameters, LEARNING_RATE, betas=(0.5, 0.99), fused=True)

    def learn(self, real: Tensor, made: Tensor, looks: Tensor) -> None:
        """One step; `real` and `made` (n, 3, h, w) are of the same `looks` (n,)."""
        self.discriminator.requires_grad_(True)
        _, scores = self.discriminator(torch.cat([real, made.detach()]), looks.repeat(2))
        of_real, of_made = scores.chunk(2)
        loss = nn.functional.relu(1 - of_real).mean() + nn.functional.relu(1 + of_made).mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()

    def against(self, real: Tensor, made: Tensor, looks: Tensor) -> tuple[Tensor, Tensor]:
        """What to minimise: how surely each made picture is told from real ones, (n,), and how unlike the real one its
        features are, (n,), a mean absolute difference over the levels."""
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            of_real, _ = self.discriminator(real, looks)
        of_made, scores = self.discriminator(made, looks)
        apart = [(ours - theirs).abs().mean(dim=(1, 2, 3)) for ours, theirs in zip(of_made, of_real, strict=True)]
        return -scores.mean(dim=(1, 2)), torch.stack(apart).mean(dim=0)
