"""Draws the rooms of jssl and the imports between them: docs/rooms.txt and docs/rooms.svg.

Both are made from the code, by `JSSL_UPDATE_GOLDEN=1 pytest tests/test_docs.py`.
"""

from collections import defaultdict
from xml.sax.saxutils import escape

from test_imports import FLOORS, GRAPH

WIDTH, ROW, TOP, LEFT, HEIGHT = 1240, 92, 64, 40, 34
# Where a room that is alone on its floor stands, as a share of the width; the middle otherwise.
ASIDE = {"evaluate": 0.65, "run": 0.47, "data": 0.74, "methods": 0.44, "parallel": 0.12,
         "parallel.collectives": 0.34, "numerics": 0.6}  # fmt: skip
BASE = 2  # the lowest floors: nearly everything imports them, and their arrows are not drawn


def _groups():
    """{name in FLOORS: its room}: parts of one package on one floor are one room."""
    found = {}
    for names in FLOORS:
        parts = defaultdict(list)
        for name in names:
            parts[name.split(".")[0] if "." in name else name].append(name)
        for package, members in parts.items():
            ends = sorted(name.removeprefix(f"{package}.") for name in members)
            room = members[0] if len(members) == 1 else f"{package}.{{{','.join(ends)}}}"
            found.update(dict.fromkeys(members, room))
    return found


ROOM_OF = _groups()
LEVEL = {ROOM_OF[name]: level for level, names in enumerate(FLOORS) for name in names}


def room(module):
    """The room of a module: that of the longest name in FLOORS that fits it."""
    parts = module.split(".")[1:] or ["__init__"]
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next(ROOM_OF[name] for name in names if name in ROOM_OF)


def arrows():
    """{room: the other rooms that its modules import}."""
    found = {name: set() for name in LEVEL}
    for module, targets in GRAPH.items():
        found[room(module)] |= {room(target) for target in targets}
    return {name: targets - {name} for name, targets in found.items()}


def text():
    """The rooms floor by floor, from the top, each with the rooms that it imports."""
    found = arrows()
    count = sum(map(len, found.values()))
    lines = [f"{len(found)} rooms, {len(FLOORS)} floors, {count} arrows"]
    for level in reversed(range(len(FLOORS))):
        lines += ["", f"floor {level}"]
        for name in (n for n in sorted(found) if LEVEL[n] == level):
            lines.append(f"  {name} -> {', '.join(sorted(found[name])) or 'nothing'}")
    return "\n".join(lines) + "\n"


def _reachable(found, start):
    seen, waiting = set(), [start]
    while waiting:
        for target in found[waiting.pop()] - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def _box_width(name):
    return 28 + 8.6 * len(name)


def _centres():
    """The middle (x, y) of each room, those of a floor spread evenly."""
    places = {}
    for level in range(len(FLOORS)):
        names = list(dict.fromkeys(ROOM_OF[name] for name in FLOORS[level]))
        free = WIDTH - 2 * LEFT - sum(map(_box_width, names))
        gap = free / (len(names) + 1)
        if len(names) == 1:
            gap = ASIDE.get(names[0], 0.5) * WIDTH - LEFT - _box_width(names[0]) / 2
        x, y = LEFT + gap, TOP + (len(FLOORS) - 1 - level) * ROW
        for name in names:
            places[name] = (x + _box_width(name) / 2, y)
            x += _box_width(name) + gap
    return places


def _curve(name, target, places, style):
    (x, y), (u, v) = places[name], places[target]
    if y == v:  # on one floor, from side to side
        side = 1 if u > x else -1
        x, u = x + side * _box_width(name) / 2, u - side * (_box_width(target) / 2 + 4)
        return f'<path d="M{x:.0f},{y:.0f} L{u:.0f},{v:.0f}" {style}/>'
    # Arrows begin and end along the box in the direction of the other one.
    x += max(-1, min(1, (u - x) / 500)) * (_box_width(name) / 2 - 10)
    u += max(-1, min(1, (places[name][0] - u) / 500)) * (_box_width(target) / 2 - 10)
    y, v = y + HEIGHT / 2, v - HEIGHT / 2 - 4
    bend = (v - y) / 2
    path = f"M{x:.0f},{y:.0f} C{x:.0f},{y + bend:.0f} {u:.0f},{v - bend:.0f} {u:.0f},{v:.0f}"
    return f'<path d="{path}" {style}/>'


def svg():
    """The picture: an arrow is dark where no other way leads to the room, and pale elsewhere."""
    found, places = arrows(), _centres()
    height = TOP + (len(FLOORS) - 1) * ROW + 70
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="DejaVu Sans Mono, monospace" '
        'font-size="14">',
        '<defs><marker id="end" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#1f4e79"/></marker>'
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="26" font-family="DejaVu Sans, sans-serif" font-size="13">'
        "Rooms of jssl. An arrow is an import; "
        "pale where a chain of dark ones leads to the same room. Arrows to the grey rooms are left "
        "out: nearly all import them.</text>",
    ]
    pale, dark = [], []
    for name in sorted(found):
        for target in sorted(t for t in found[name] if LEVEL[t] >= BASE):
            others = found[name] - {target}
            if any(target in _reachable(found, other) for other in others):
                pale.append(_curve(name, target, places, 'fill="none" stroke="#c3cfdd"'))
            else:
                style = 'fill="none" stroke="#1f4e79" stroke-width="1.6" marker-end="url(#end)"'
                dark.append(_curve(name, target, places, style))
    lines += pale + dark
    for level in range(len(FLOORS)):
        y = TOP + (len(FLOORS) - 1 - level) * ROW
        lines.append(f'<text x="10" y="{y + 5}" fill="#777777">{level}</text>')
    for name, (x, y) in places.items():
        width, fill = _box_width(name), "#f2f2f2" if LEVEL[name] < BASE else "#e3eefa"
        lines += [
            f'<rect x="{x - width / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{width:.0f}" '
            f'height="{HEIGHT}" rx="5" fill="{fill}" stroke="#1f4e79"/>',
            f'<text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle">{escape(name)}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
