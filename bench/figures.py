"""Figures from repeated measurements: what is shown of them and how it is
judged.  A figure is a ratio to its yardstick; both come from one run."""

import math


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return (ordered[half - 1] + ordered[half]) / 2


def interval(values):
    """Where the true median lies in 95 of 100 cases, from the ranks of the
    values; of fewer than six values, the least and the greatest."""
    ordered = sorted(values)
    count = len(ordered)
    below = int((count - 1.96 * math.sqrt(count)) / 2) if count >= 6 else 0
    return ordered[below], ordered[count - 1 - below]


def in_pairs(values):
    """Means of two neighbours, for rounds that alternate who is first."""
    if len(values) < 4:
        return values
    return [math.sqrt(values[i] * values[i + 1])
            for i in range(0, len(values) - 1, 2)]


class Figure:
    """One row of the table.  "value" and "yardstick" are numbers of "unit";
    "ratios" holds one ratio for each round; "target" is (">=", 0.98),
    ("<=", 1.2), ("in", (0.98, 1.01)) or None for a row that is only told."""

    def __init__(self, group, name, unit, value, yardstick, ratios, target,
                 note=''):
        self.group = group
        self.name = name
        self.unit = unit
        self.value = value
        self.yardstick = yardstick
        self.ratio = median(ratios)
        self.low, self.high = interval(ratios)
        self.rounds = len(ratios)
        self.target = target
        self.note = note

    def verdict(self):
        """"unsure": the median misses, but by less than it is known to."""
        if self.target is None:
            return ''
        sense, wanted = self.target
        if sense == 'in':
            met = wanted[0] <= self.ratio <= wanted[1]
            possible = wanted[0] <= self.high and self.low <= wanted[1]
        elif sense == '>=':
            met, possible = self.ratio >= wanted, self.high >= wanted
        else:
            met, possible = self.ratio <= wanted, self.low <= wanted
        return 'met' if met else 'unsure' if possible else 'missed'

    def as_json(self):
        return {
            'group': self.group, 'name': self.name, 'unit': self.unit,
            'value': self.value, 'yardstick': self.yardstick,
            'ratio': self.ratio, 'low': self.low, 'high': self.high,
            'rounds': self.rounds,
            'target': wanted(self.target) if self.target else None,
            'verdict': self.verdict() or None, 'note': self.note,
        }


def wanted(target):
    """A target as people read it."""
    sense, value = target
    return '%s..%s' % value if sense == 'in' else '%s %s' % target


def number(value, unit):
    """A number as people read it."""
    if unit == 's':
        for factor, name in ((1, 's'), (1e-3, 'ms'), (1e-6, 'us')):
            if value >= factor:
                break
        value /= factor
        unit = name
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return '%s %s' % (format(value, ',.%df' % digits), unit)


def table(figures):
    """The lines of the table."""
    lines = []
    group = None
    for figure in figures:
        if figure.group != group:
            group = figure.group
            lines += ['', group['title'],
                      '  %-37s %12s %12s %6s  %-10s %-7s %s'
                      % ('', group['value'], group['yardstick'], 'ratio',
                         'target', '', 'spread')]
        lines.append(
            '  %-37s %12s %12s %6.3f  %-10s %-7s %.3f..%.3f of %d%s'
            % (figure.name, number(figure.value, figure.unit),
               number(figure.yardstick, figure.unit), figure.ratio,
               wanted(figure.target) if figure.target else '-',
               figure.verdict(), figure.low, figure.high, figure.rounds,
               '  ' + figure.note if figure.note else ''))
    return lines
