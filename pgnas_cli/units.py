"""How numbers are written: counts, shares and durations as a person reads them."""

from __future__ import annotations

_UNITS = "kMGT"


def human(n: float) -> str:
    """A count in three digits: 44_400_000 -> `44.4 M`, 193_000 -> `193 k`, 512 -> `512`."""
    if abs(n) < 999.5:
        return f"{n:.0f}" if float(n).is_integer() or abs(n) >= 100 else f"{n:.3g}"
    power = 1
    while abs(n) >= 999.5 * 1000**power and power < len(_UNITS):
        power += 1
    scaled = n / 1000**power
    decimals = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
    return f"{scaled:.{decimals}f} {_UNITS[power - 1]}"


def percent(value: float, low: float | None = None, high: float | None = None) -> str:
    """A fraction in percent, with its interval if both ends are given: `97.25 % (95.1-98.5)`."""
    text = f"{100 * value:.2f} %"
    return text if low is None or high is None else f"{text} ({100 * low:.1f}-{100 * high:.1f})"


def seconds(duration: float) -> str:
    """A duration: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`."""
    if duration < 59.95:
        return f"{duration:.2f} s" if duration < 9.995 else f"{duration:.1f} s"
    whole = round(duration)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
