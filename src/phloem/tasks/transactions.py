"""A generator of card transactions: rare fraud, at banks that each see only some of its patterns.

No public card data may be shipped, so this is synthetic and says so. What it has in common with real data:
fraud is rare (0.5 to 2 % of a bank's transactions), comes in episodes on few cards, and hides among honest
behaviour that looks alike (travel, sprees, subscriptions); banks differ in customers, and in the fraud that
reaches them.

**Customers.** A bank draws its customers' habits around its own profile: typical amount (log-normal), share
of online purchases, how often they travel, when they are awake, how many purchases a day. Purchases follow a
Poisson process over 60 days with a daily rhythm.

**Fraud.** Five patterns; bank number i meets patterns i and i + 1 (mod 5) in full, and the others hardly ever
(one episode in ten), so every pattern is seen by more than one bank and no bank knows them all:

    testing     many tiny online payments within minutes, to see whether a card number works
    spree       a stolen card: large purchases in shops far from home within hours, one after another
    takeover    an account taken over: large online payments at night to a payee never used before, new device
    skimming    a copied card: cash withdrawals abroad of round amounts, spread over days
    structuring payments just under the review limit of 250, by day, at shops, not far from home

Each episode is 2 to 12 transactions of one customer in the middle of that customer's own. Features are what a
bank knows at the moment of payment, in agreed units (logarithms and fixed constants, no pooled statistics).
The same seed gives the same data with the same NumPy; a run records the digest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from phloem.tensors import Array

Column = npt.NDArray[np.float64]

PATTERNS = ("testing", "spree", "takeover", "skimming", "structuring")
FEATURES = (
    "log amount",
    "amount against habit",
    "sine of hour",
    "cosine of hour",
    "online",
    "cash",
    "abroad",
    "log distance from home",
    "new payee",
    "new device",
    "log hours since the last",
    "log payments in 24 hours",
    "log amount in 24 hours",
    "round amount",
    "just under the limit",
)
DAYS = 60
PER_CUSTOMER = 40
"""Mean number of honest transactions of a customer in `DAYS` days."""
REVIEW_LIMIT = 250.0
FRAUD_RATE = (0.005, 0.02)
RARE_EPISODE = 1 / 10


@dataclass(frozen=True)
class Transactions:
    """A bank's transactions in order of customer and time, row by row."""

    features: Array
    """(n, 15), the columns of `FEATURES`."""
    fraud: npt.NDArray[np.int64]
    """1 for fraud."""
    pattern: npt.NDArray[np.int64]
    """The index into `PATTERNS`, −1 for honest; never shown to a model."""
    customer: npt.NDArray[np.int64]
    """Whose card; parts are split by customer."""


@dataclass(frozen=True)
class _Raw:
    """Columns before features are derived; `hours` counts from the first midnight."""

    customer: npt.NDArray[np.int64]
    hours: Column
    amount: Column
    online: Column
    cash: Column
    abroad: Column
    distance: Column
    new_payee: Column
    new_device: Column
    pattern: npt.NDArray[np.int64]


def generate(bank: int, transactions: int, rng: np.random.Generator) -> Transactions:
    """About `transactions` transactions of bank number `bank`, fraud included."""
    customers = max(8, round(transactions / PER_CUSTOMER))
    habit = np.exp(rng.normal(3.3 + 0.5 * rng.standard_normal(), 0.5, customers))  # typical amount
    online_share = np.clip(rng.normal(rng.uniform(0.2, 0.5), 0.15, customers), 0.02, 0.95)
    travels = rng.beta(1, 30 * rng.uniform(0.6, 2.0), customers)
    honest = _honest(habit, online_share, travels, rng)
    rate = float(np.exp(rng.uniform(*np.log(FRAUD_RATE))))
    raw = _merged([honest, *_episodes(bank, round(rate * len(honest.hours)), habit, rng)])
    return Transactions(_features(raw, habit), (raw.pattern >= 0).astype(np.int64), raw.pattern, raw.customer)


def _honest(habit: Column, online_share: Column, travels: Column, rng: np.random.Generator) -> _Raw:
    counts = rng.poisson(rng.gamma(4, PER_CUSTOMER / 4, len(habit)))
    who = np.repeat(np.arange(len(habit)), counts)
    total = len(who)
    awake = rng.normal(15, 2, len(habit))[who]  # the middle of the customer's day
    hours = np.floor(rng.uniform(0, DAYS, total)) * 24 + (awake + rng.normal(0, 4, total)) % 24
    spree = rng.random(total) < 0.08  # shopping trips: the payment repeats the hour of the one before
    hours[1:][spree[1:]] = hours[:-1][spree[1:]] + rng.exponential(0.5, int(spree[1:].sum()))
    online = rng.random(total) < online_share[who]
    cash = ~online & (rng.random(total) < 0.08)
    away = rng.random(total) < travels[who]
    abroad = away & (rng.random(total) < 0.5)
    amount = habit[who] * np.exp(rng.normal(0, 0.8, total))
    amount = np.where(
        online & (rng.random(total) < 0.1), rng.uniform(0.5, 5, total), amount
    )  # apps, subscriptions
    amount = np.where(
        rng.random(total) < 0.02, amount * rng.uniform(4, 12, total), amount
    )  # furniture, flights
    amount = np.where(cash, np.ceil(amount / 10) * 10, amount)
    far = np.where(abroad, rng.lognormal(7, 0.6, total), rng.lognormal(5, 0.7, total))
    distance = np.where(online, 0, np.where(away, far, rng.lognormal(1.5, 1.0, total)))
    return _Raw(
        customer=who,
        hours=hours,
        amount=amount,
        online=online.astype(float),
        cash=cash.astype(float),
        abroad=abroad.astype(float),
        distance=distance,
        new_payee=(rng.random(total) < np.where(online, 0.25, 0.35)).astype(float),
        new_device=(online & (rng.random(total) < 0.05)).astype(float),
        pattern=np.full(total, -1, np.int64),
    )


def _episodes(bank: int, wanted: int, habit: Column, rng: np.random.Generator) -> list[_Raw]:
    """Episodes of fraud until `wanted` transactions are reached."""
    common = (bank % len(PATTERNS), (bank + 1) % len(PATTERNS))
    episodes, total = [], 0
    while total < wanted:
        rare = rng.random() < RARE_EPISODE
        pattern = int(rng.integers(len(PATTERNS))) if rare else common[int(rng.integers(2))]
        customer = int(rng.integers(len(habit)))
        episodes.append(_episode(pattern, customer, float(habit[customer]), rng))
        total += len(episodes[-1].hours)
    return episodes


def _episode(pattern: int, customer: int, habit: float, rng: np.random.Generator) -> _Raw:
    name = PATTERNS[pattern]
    low, high = {"testing": (5, 13), "spree": (3, 8), "takeover": (2, 6), "skimming": (2, 6)}.get(
        name, (3, 9)
    )
    count = int(rng.integers(low, high))
    ones, zeros = np.ones(count), np.zeros(count)
    day = np.floor(rng.uniform(0, DAYS))
    online, cash, abroad, distance = zeros, zeros, zeros, zeros
    new_payee, new_device = ones, zeros
    if name == "testing":
        start, gap, online = rng.uniform(0, 24), 0.1, ones
        amount = rng.lognormal(0.5, 0.6, count)
        new_device = (rng.random(count) < 0.3).astype(float)
    elif name == "spree":
        start, gap = rng.normal(16, 3), 0.7
        amount = habit * rng.lognormal(1.3, 0.5, count)
        distance = ones * rng.lognormal(4.5, 0.8) + rng.exponential(5, count)
        new_payee = (rng.random(count) < 0.8).astype(float)
    elif name == "takeover":
        start, gap, online = rng.normal(27, 1.5), 1.0, ones
        amount = habit * rng.lognormal(1.5, 0.6, count)
        new_device = (rng.random(count) < 0.6).astype(float)
    elif name == "skimming":
        start, gap, cash = rng.uniform(8, 22), 20.0, ones
        amount = np.ceil(rng.lognormal(4.8, 0.5, count) / 50) * 50
        abroad, distance = ones, rng.lognormal(7, 0.5) + rng.exponential(20, count)
    else:  # structuring
        start, gap = rng.normal(14, 2.5), 6.0
        amount = REVIEW_LIMIT - rng.exponential(8, count)
        distance = rng.lognormal(2.0, 1.0, count)
        new_payee = (rng.random(count) < 0.5).astype(float)
    return _Raw(
        customer=np.full(count, customer),
        hours=day * 24 + start + np.cumsum(rng.exponential(gap, count)),
        amount=np.maximum(amount, 0.5),
        online=online,
        cash=cash,
        abroad=abroad,
        distance=distance,
        new_payee=new_payee,
        new_device=new_device,
        pattern=np.full(count, pattern),
    )


def _merged(pieces: list[_Raw]) -> _Raw:
    """All pieces in order of customer and time."""
    columns = {
        name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in _Raw.__annotations__
    }
    order = np.lexsort((columns["hours"], columns["customer"]))
    return _Raw(**{name: column[order] for name, column in columns.items()})


def _features(raw: _Raw, habit: Column) -> Array:
    """What the bank knows when the payment is asked for, (n, 15), each column of order one."""
    rows = np.arange(len(raw.hours))
    clock = (
        raw.customer * (DAYS * 24 * 10.0) + raw.hours
    )  # ascending; customers lie further apart than any window
    first_in_day = np.searchsorted(clock, clock - 24.0)
    before = np.concatenate([[0.0], np.cumsum(raw.amount)])
    same = np.append(False, raw.customer[1:] == raw.customer[:-1])
    since = np.where(same, np.diff(raw.hours, prepend=raw.hours[0]), 24.0 * 7)
    angle = raw.hours * (2 * np.pi / 24)
    columns = [
        (np.log(raw.amount) - 3.5) / 1.5,
        np.log(raw.amount / habit[raw.customer]),
        np.sin(angle),
        np.cos(angle),
        raw.online,
        raw.cash,
        raw.abroad,
        np.log1p(raw.distance) / 3,
        raw.new_payee,
        raw.new_device,
        np.log(since + 0.1) / 3,
        np.log(rows - first_in_day + 1),
        (np.log(before[rows + 1] - before[first_in_day]) - 3.5) / 1.5,
        (np.mod(raw.amount, 10) == 0).astype(float),
        ((raw.amount >= 0.9 * REVIEW_LIMIT) & (raw.amount < REVIEW_LIMIT)).astype(float),
    ]
    result: Array = np.stack(columns, axis=1).astype(np.float32)
    return result
