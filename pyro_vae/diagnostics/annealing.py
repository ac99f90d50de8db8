"""Annealed importance sampling from the guide to the posterior, forwards and backwards.

    f_t(z) = q(z | x)^(1 - b_t) p(x, z)^b_t,   0 = b_0 < ... < b_T = 1
    log w  = sum_t (b_t - b_{t-1}) [log p(x, z_{t-1}) - log q(z_{t-1} | x)]

with z_0 ~ q and z_t from a kernel that leaves f_t invariant. Then E w = p(x); and for chains that
start at an exact draw of the posterior and run backwards, E 1/w = 1/p(x).

Step sizes are learnt by datum and temperature in a pilot run with draws of its own, then frozen: a
kernel that adapts to the chain it moves leaves nothing invariant, and breaks the bounds.
"""

from __future__ import annotations

__all__ = ["Annealer", "Ladder", "Run"]

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from pyro_vae.diagnostics.moves import Coordinates
from pyro_vae.diagnostics.posterior import Block, Posterior, Scored, Values, seed_of

ACCEPTANCE = 0.75
"""What step sizes aim at."""

_WARM_UP, _RATE = 10, 0.5
# which stream of random numbers is for what
_SCALE, _PILOT, _CHAINS, _PROPOSALS, _START = range(1, 6)


class Ladder(NamedTuple):
    """The temperatures, and how chains move at each of them.

    Arguments:
        num_chains: K, the number of chains for each datum.
        num_steps: T, the number of temperatures after 0; with one, this is importance sampling.
        leapfrog: The number of leapfrog steps of a move.
    """

    num_chains: int = 16
    num_steps: int = 50
    leapfrog: int = 5

    def check(self) -> None:
        """Raise a ValueError if a number is not positive."""
        for name, number in self._asdict().items():
            if number < 1:
                raise ValueError(f"{name} must be positive, not {number}.")

    @property
    def pilot_steps(self) -> int:
        """How many moves a pilot makes."""
        return _WARM_UP + self.num_steps - 1 if self.num_steps > 1 else 0

    @property
    def temperatures(self) -> list[float]:
        """From b_0 = 0 to b_T = 1, evenly."""
        return [t / self.num_steps for t in range(self.num_steps + 1)]


class Run(NamedTuple):
    """What chains found.

    Arguments:
        log_weight: Of shape (K, B), in float64.
        acceptance: The share of moves accepted, by datum, (B,); NaN if none was made.
        lowest: That of the temperature at which it is lowest, (B,).
    """

    log_weight: Tensor
    acceptance: Tensor
    lowest: Tensor


class _State(NamedTuple):
    """Where the chains are; gradients are along the coordinates, the Jacobian's with them."""

    values: Values
    free: Values
    log_p: Tensor
    log_q: Tensor
    jacobian: Tensor
    log_proposal: Tensor
    along_p: Values
    along_q: Values

    def log_f(self, b: float) -> Tensor:
        return (1 - b) * self.log_q + b * self.log_p + self.jacobian

    def along_f(self, b: float) -> Values:
        return {n: (1 - b) * self.along_q[n] + b * self.along_p[n] for n in self.free}


class Annealer:
    """Chains for one block of data.

    Arguments:
        posterior: The densities.
        block: The data.
        coordinates: Those of their sites.
        ladder: Temperatures and moves.
    """

    def __init__(
        self, posterior: Posterior, block: Block, coordinates: Coordinates, ladder: Ladder
    ) -> None:
        self.posterior, self.block, self.ladder = posterior, block, ladder
        self.coordinates, self.batch = coordinates, block.batch
        self.scale = self._scale()

    def _where(self, *purpose: int) -> tuple[int, ...]:
        return (self.posterior.seed, self.block.number, *purpose)

    def _scale(self) -> Values:
        """The standard deviation of the guide's draws, coordinate by coordinate."""
        pyro.set_rng_seed(seed_of(*self._where(_SCALE)))
        drawn = self.posterior.draw(self.batch, max(2, self.posterior.stream.num_samples))
        free = self.coordinates.free(drawn)
        return {n: u.std(0).clamp_min(1e-8) for n, u in free.items()}

    def start(self, pilot: bool = False) -> Values:
        """Draws of the guide, one for each chain."""
        pyro.set_rng_seed(seed_of(*self._where(_START, int(pilot))))
        return self.posterior.draw(self.batch, self.ladder.num_chains)

    # ------------------------------------------------------------------------------- runs
    def pilot(self, tick: Callable[[], object] = lambda: None) -> Tensor:
        """Learn step sizes from chains that are then thrown away.

        Arguments:
            tick: Called after each temperature.

        Returns:
            By temperature and datum, (T + 1, B).
        """
        device = self.scale_device
        chance = _generator(device, *self._where(_PILOT))
        size = torch.full((self.block.size,), 0.5, dtype=torch.float64, device=device)
        found = size.repeat(self.ladder.num_steps + 1, 1)
        if not self.coordinates.transforms:
            return found
        state = self._state(self.start(pilot=True))
        temperatures = self.ladder.temperatures
        warm_up = [1] * _WARM_UP if self.ladder.num_steps > 1 else []
        for t in [*warm_up, *range(1, self.ladder.num_steps)]:
            state, accepted = self._hmc(state, temperatures[t], size, chance)
            size = size * torch.exp(_RATE * (accepted.nan_to_num(0.0).mean(0) - ACCEPTANCE))
            found[t] = size
            tick()
        return found

    def forward(self, sizes: Tensor, tick: Callable[[], object] = lambda: None) -> Run:
        """From the guide to the posterior: E w = p(x).

        Arguments:
            sizes: The step sizes of the pilot.
            tick: Called after each temperature.
        """
        state = self._state(self.start())
        total = torch.zeros_like(state.log_p)
        moves = _Acceptance()
        chance = _generator(total.device, *self._where(_CHAINS, 0))
        temperatures = self.ladder.temperatures
        for t in range(1, self.ladder.num_steps + 1):
            total += (temperatures[t] - temperatures[t - 1]) * (state.log_p - state.log_q)
            if t < self.ladder.num_steps:
                state = self._moved(state, t, sizes[t], chance, moves, backward=False)
            tick()
        return moves.run(total)

    def backward(
        self, exact: Values, sizes: Tensor, tick: Callable[[], object] = lambda: None
    ) -> Run:
        """From exact draws of the posterior to the guide: E 1/w = 1/p(x).

        Arguments:
            exact: Draws of the posterior, one for each datum, at which all chains start.
            sizes: The step sizes of the pilot.
            tick: Called after each temperature.
        """
        chains = self.ladder.num_chains
        state = self._state({n: v.expand(chains, *v.shape[1:]) for n, v in exact.items()})
        total = torch.zeros_like(state.log_p)
        moves = _Acceptance()
        chance = _generator(total.device, *self._where(_CHAINS, 1))
        temperatures = self.ladder.temperatures
        for t in range(self.ladder.num_steps, 0, -1):
            total += (temperatures[t] - temperatures[t - 1]) * (state.log_p - state.log_q)
            if t > 1:
                state = self._moved(state, t - 1, sizes[t - 1], chance, moves, backward=True)
            tick()
        return moves.run(total)

    # ------------------------------------------------------------------------------ kernels
    @property
    def scale_device(self) -> torch.device:
        """Where the values are."""
        for value in self.scale.values():
            return value.device
        return torch.device("cpu")

    def _state(self, values: Values) -> _State:
        free = self.coordinates.free(values)
        return self._at(free, {n: values[n] for n in self.coordinates.without})

    def _at(self, free: Values, others: Values) -> _State:
        """Score the values at coordinates, and at sites that have none."""
        posterior, batch = self.posterior, self.batch
        moved, jacobian = self.coordinates.values(free)
        values = {n: (moved if n in moved else others)[n] for n in batch.sites}
        p, q = (
            score(batch, values, gradient=bool(free))
            for score in (posterior.log_joint, posterior.log_q)
        )
        zero = torch.zeros_like(p.value)
        return _State(
            values,
            free,
            p.value,
            q.value,
            zero + jacobian,
            sum((q.by_site[n] for n in self.coordinates.without), zero),
            *(self._pulled(free, scored) for scored in (p, q)),
        )

    def _pulled(self, free: Values, scored: Scored) -> Values:
        return self.coordinates.pulled(free, scored.gradient)

    def _moved(
        self,
        state: _State,
        t: int,
        size: Tensor,
        chance: torch.Generator,
        moves: _Acceptance,
        *,
        backward: bool,
    ) -> _State:
        """One move at every site; backwards in the opposite order, which is the reversal."""
        b = self.ladder.temperatures[t]
        kernels = []
        if self.coordinates.transforms:
            kernels.append(lambda s: self._hmc(s, b, size, chance))
        if self.coordinates.without:
            kernels.append(lambda s: self._independence(s, b, (t, int(backward)), chance))
        for kernel in reversed(kernels) if backward else kernels:
            state, accepted = kernel(state)
            moves.add(accepted)
        return state

    def _hmc(
        self, state: _State, b: float, size: Tensor, chance: torch.Generator
    ) -> tuple[_State, Tensor]:
        """A leapfrog trajectory, accepted or not; the second is the probability of that."""
        step = {n: self._by_site(n, size) * s for n, s in self.scale.items()}
        momentum = {
            n: torch.randn(u.shape, generator=chance, dtype=u.dtype, device=u.device)
            for n, u in state.free.items()
        }
        start = self._kinetic(momentum)
        others = {n: state.values[n] for n in self.coordinates.without}
        new, free = state, state.free
        for i in range(self.ladder.leapfrog):
            along = new.along_f(b)
            half = 0.5 if i == 0 else 1.0
            momentum = {n: v + half * step[n] * along[n] for n, v in momentum.items()}
            free = {n: u + step[n] * momentum[n] for n, u in free.items()}
            new = self._at(free, others)
        along = new.along_f(b)
        momentum = {n: v + 0.5 * step[n] * along[n] for n, v in momentum.items()}
        ratio = new.log_f(b) - state.log_f(b) + start - self._kinetic(momentum)
        return self._accepted(state, new, ratio, chance)

    def _independence(
        self, state: _State, b: float, where: tuple[int, ...], chance: torch.Generator
    ) -> tuple[_State, Tensor]:
        """Fresh draws of the guide at the sites without coordinates, given the others."""
        pyro.set_rng_seed(seed_of(*self._where(_PROPOSALS, *where)))
        kept = {n: state.values[n] for n in self.coordinates.transforms}
        chains = self.ladder.num_chains
        proposed = self.posterior.draw(self.batch, chains, kept)
        new = self._at(state.free, {n: proposed[n] for n in self.coordinates.without})
        ratio = new.log_f(b) - state.log_f(b) + state.log_proposal - new.log_proposal
        return self._accepted(state, new, ratio, chance)

    def _accepted(
        self, old: _State, new: _State, ratio: Tensor, chance: torch.Generator
    ) -> tuple[_State, Tensor]:
        probability = ratio.clamp_max(0.0).exp().nan_to_num(0.0)  # NaN is off the support
        draw = torch.rand(ratio.shape, generator=chance, dtype=torch.float64, device=ratio.device)
        taken = draw < probability

        def either(a: Any, b: Any) -> Any:
            if isinstance(a, Tensor):
                return torch.where(taken, a, b)
            return {n: torch.where(self._by_site(n, taken), a[n], b[n]) for n in a}

        return _State(*(either(a, b) for a, b in zip(new, old, strict=True))), probability

    def _by_site(self, name: str, by_datum: Tensor) -> Tensor:
        shaped = self.posterior.to_values(self.batch, name, by_datum)
        return shaped if by_datum.dtype == torch.bool else shaped.to(self.scale[name].dtype)

    def _kinetic(self, momentum: Values) -> Tensor:
        total = 0.0
        for name, value in momentum.items():
            event = len(self.batch.sites[name].event)
            energy = value.double().square().sum(list(range(-event, 0))) if event else value**2
            total = total + self.posterior.to_data(self.batch, name, energy) / 2
        assert isinstance(total, Tensor)
        return total


class _Acceptance:
    """Keeps how many moves were accepted."""

    def __init__(self) -> None:
        self.shares: list[Tensor] = []

    def add(self, accepted: Tensor) -> None:
        self.shares.append(accepted.mean(0))

    def run(self, log_weight: Tensor) -> Run:
        if not self.shares:
            none = torch.full_like(log_weight[0], math.nan)
            return Run(log_weight, none, none)
        shares = torch.stack(self.shares)
        return Run(log_weight, shares.mean(0), shares.min(0).values)


def _generator(device: torch.device, *where: int) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed_of(*where))
