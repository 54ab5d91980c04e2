"""The figures as a picture: an SVG of one panel a group, drawn by hand so
that nothing need be installed for it."""

import math
from html import escape

from figures import number

WIDTH = 980
LEFT, RIGHT = 270, 250       # of the plot area, for names and numbers
ROW = 24
COLOURS = {'met': '#2a7f62', 'unsure': '#d08c1d', 'missed': '#c0392b',
           '': '#8a94a3'}
STYLE = '''
text { font-family: "DejaVu Sans", Verdana, Arial, sans-serif; fill: #26303c; }
.title { font-size: 21px; font-weight: bold; }
.group { font-size: 15px; font-weight: bold; }
.small { font-size: 11.5px; fill: #5b6675; }
.name, .number { font-size: 12.5px; }
.tick { font-size: 11px; fill: #5b6675; text-anchor: middle; }
.target { font-size: 11px; fill: #26303c; text-anchor: middle; }
'''


class Scale:
    """From a ratio to a place; logarithmic where ratios differ by far."""

    def __init__(self, figures, targets):
        values = targets + [v for f in figures
                            for v in (f.low, f.high, f.ratio)]
        low, high = min(values), max(values)
        self.log = high / low > 8
        if self.log:
            self.low, self.high = low / 1.6, high * 1.6
        else:
            room = (high - low) * 0.1 + 0.02
            self.low, self.high = max(0, low - room), high + room

    def place(self, value):
        low, high = self.low, self.high
        if self.log:
            value, low, high = map(math.log, (value, low, high))
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def ticks(self):
        if self.log:
            first = math.floor(math.log10(self.low))
            ticks = [10.0 ** n for n in range(first, first + 12)]
        else:
            step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
                        if (self.high - self.low) / s <= 9)
            first = math.ceil(self.low / step)
            ticks = [n * step for n in range(first, first + 12)]
        return [t for t in ticks if self.low <= t <= self.high]


def text(x, y, kind, words, anchor='start'):
    return ('<text x="%.1f" y="%.1f" class="%s" text-anchor="%s">%s</text>'
            % (x, y, kind, anchor, escape(words)))


def line(x1, y1, x2, y2, colour, width=1, dash=''):
    return ('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" '
            'stroke-width="%s"%s/>'
            % (x1, y1, x2, y2, colour, width,
               ' stroke-dasharray="%s"' % dash if dash else ''))


def row(figure, scale, y):
    """Name, dot with its spread, numbers."""
    colour = COLOURS[figure.verdict()]
    middle = y + ROW / 2
    at = scale.place(figure.ratio)
    return [
        text(LEFT - 14, middle + 4, 'name', figure.name, 'end'),
        line(scale.place(figure.low), middle, scale.place(figure.high),
             middle, colour, 6).replace('/>', ' opacity="0.3" '
                                        'stroke-linecap="round"/>'),
        '<circle cx="%.1f" cy="%.1f" r="5.5" fill="%s"/>'
        % (at, middle, colour),
        text(WIDTH - RIGHT + 14, middle + 4, 'number',
             '%.2f' % figure.ratio),
        text(WIDTH - RIGHT + 58, middle + 4, 'small', '%s  /  %s'
             % (number(figure.value, figure.unit),
                number(figure.yardstick, figure.unit))),
    ]


def panel(figures, y):
    """One group, from y downwards.  The lines and where it ends."""
    group = figures[0].group
    targets = [f.target for f in figures if f.target]
    sense, wanted = targets[0] if targets else ('', 1)
    low, high = wanted if sense == 'in' else (wanted, wanted)
    scale = Scale(figures, [low, high])
    top = y + 44
    bottom = top + ROW * len(figures)
    out = [text(28, y + 14, 'group', group['title']),
           text(28, y + 31, 'small', group['explained']),
           text(WIDTH - RIGHT + 14, y + 31, 'small', 'ratio'),
           text(WIDTH - RIGHT + 58, y + 31, 'small',
                '%s / %s' % (group['value'], group['yardstick']))]
    for index in range(0, len(figures), 2):
        out.append('<rect x="20" y="%.1f" width="%d" height="%d" '
                   'fill="#f3f5f8"/>' % (top + ROW * index, WIDTH - 40, ROW))
    for tick in scale.ticks():
        x = scale.place(tick)
        out += [line(x, top, x, bottom, '#d9dee6'),
                text(x, bottom + 15, 'tick', '%g' % round(tick, 6), 'middle')]
    x = scale.place(low)
    edge = {'>=': WIDTH - RIGHT, '<=': LEFT,
            'in': scale.place(high)}.get(sense, x)
    out += ['<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" '
            'fill="#2a7f62" opacity="0.07"/>'
            % (min(x, edge), top, abs(edge - x), bottom - top),
            line(x, top - 4, x, bottom + 4, '#26303c', 1.3, '4 3'),
            text(x, top - 8, 'target',
                 {'>=': 'target \u2265 %g' % low, '<=': 'target \u2264 %g' % low,
                  'in': 'target %g to %g' % (low, high), '': ''}[sense],
                 'middle')]
    for index, figure in enumerate(figures):
        out += row(figure, scale, top + ROW * index)
    return out, bottom + 44


CURVE_HEIGHT = 150
CURVE_COLOURS = ('#2a7f62', '#2c5f9e', '#b8651b', '#7a3f8f')


def curves(title, explained, lines, limit, y):
    """Numbers over seconds, lines as {name: [number of each second]}, and
    what they are to keep to.  The lines of the SVG and where it ends."""
    top, bottom = y + 44, y + 44 + CURVE_HEIGHT
    seconds = max(len(values) for values in lines.values())
    most = 1.1 * max([limit] + [max(values) for values in lines.values()])

    def at(second, value):
        return ('%.1f,%.1f' % (
            LEFT + (second + 0.5) / seconds * (WIDTH - LEFT - RIGHT),
            bottom - value / most * CURVE_HEIGHT))

    edge = bottom - limit / most * CURVE_HEIGHT
    out = [text(28, y + 14, 'group', title),
           text(28, y + 31, 'small', explained),
           line(LEFT, bottom, WIDTH - RIGHT, bottom, '#d9dee6'),
           line(LEFT, edge, WIDTH - RIGHT, edge, '#26303c', 1.3, '4 3'),
           text(LEFT - 14, edge + 4, 'name', format(limit, ','), 'end'),
           text(LEFT, bottom + 15, 'tick', '0 s', 'middle'),
           text(WIDTH - RIGHT, bottom + 15, 'tick', '%d s' % seconds,
                'middle')]
    for index, (name, values) in enumerate(lines.items()):
        colour = CURVE_COLOURS[index % len(CURVE_COLOURS)]
        out += ['<polyline fill="none" stroke="%s" stroke-width="1.8" '
                'points="%s"/>' % (colour, ' '.join(
                    at(s, value) for s, value in enumerate(values))),
                line(WIDTH - RIGHT + 14, top + 18 * index + 8,
                     WIDTH - RIGHT + 44, top + 18 * index + 8, colour, 3),
                text(WIDTH - RIGHT + 58, top + 18 * index + 12, 'name',
                     name)]
    return out, bottom + 44


def picture(figures, title, below, graphs=()):
    """The whole SVG as a string; graphs: what curves() takes."""
    groups = []
    for figure in figures:
        if not groups or groups[-1][0].group != figure.group:
            groups.append([])
        groups[-1].append(figure)
    body = [text(28, 40, 'title', title), text(28, 60, 'small', below)]
    x = 28
    for verdict, words in (('met', 'met'), ('unsure', 'within the spread'),
                           ('missed', 'missed'), ('', 'no target')):
        body += ['<circle cx="%.0f" cy="78" r="5" fill="%s"/>'
                 % (x + 5, COLOURS[verdict]), text(x + 16, 82, 'small', words)]
        x += 36 + 6.4 * len(words)
    y = 108
    for group in groups:
        lines, y = panel(group, y)
        body += lines
    for graph in graphs:
        lines, y = curves(*graph, y)
        body += lines
    return ('<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
            'viewBox="0 0 %d %d">\n<style>%s</style>\n'
            '<rect width="100%%" height="100%%" fill="white"/>\n%s\n</svg>\n'
            % (WIDTH, y, WIDTH, y, STYLE, '\n'.join(body)))
