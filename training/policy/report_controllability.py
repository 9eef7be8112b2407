"""The policy report's pictures of controllability (MOSLIM, Fig. 5 and 6). Knows results only."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from training.figures.axis import Axis
from training.figures.markup import Element, element, figure, folded, missing
from training.figures.numbers import NOTHING, count, number, signed
from training.figures.plane import Plane, plots
from training.figures.strips import Mark, Row, Span, Strips, legend
from training.policy.radar import LEAST_AXES, Web, radar
from training.policy.report_mapped_reward import Named, Seeds, learned
from training.policy.results import Cell, Controllability, Dimension, DimensionPair, Measured

COLOURS: Final = ("first", "second", "third", "fourth")
LARGEST_LEVEL: Final = 7
"""Of the style's colours; 8 is too dark for a number."""


def controllability_section(found: Seeds) -> list[Element]:
    """Draw what was learned, what level each requested level gets, and the rank correlation of the two."""
    if not found:
        return [missing("No policy was measured for controllability: run the stage controllability.")]
    named = {name: judges for seeds in found.values() for name, judges in seeds.items()}
    return [*learned(found), _correlations(named), _lines(named), *_pairs(named), *_radars(named)]


def _judges(found: Named) -> dict[str, str]:
    """Return the colour of each judge, in the order in which they are named."""
    names = dict.fromkeys(seen.judge for judges in found.values() for seen in judges)
    return dict(zip(names, COLOURS, strict=False))


def _correlations(found: Named) -> Element:
    colours = _judges(found)
    groups = [
        (policy, [_correlation_row(name, judges, colours) for name in dict.fromkeys(_dimensions(judges))])
        for policy, judges in found.items()
    ]
    header = ("dimension", "Spearman's ρ of asked and got", *[f"ρ, {name}" for name in colours])
    slopes = tuple(f"slope, {name}" for name in colours)
    strips = Strips(Axis(-1.0, 1.0), (*header, *slopes), groups, reference=0.0)
    caption = (
        "Rank correlation of the level that a prefix asks for and the mean level Σ c · p[c] that a judge sees, within "
        "each prompt and averaged over prompts: 1 where every step up gets more, 0 (dashed) where the prefix changes "
        "nothing. Pale bars: 95% intervals from resampling prompts. Slope: levels got per level asked for."
    )
    key = legend([("dot", colour, f"judge: {name}") for name, colour in colours.items()])
    return figure("Does a policy give what it is asked for?", caption, key, strips.drawn())


def _dimensions(judges: Sequence[Controllability]) -> Iterator[str]:
    yield from (dimension.name for seen in judges for dimension in seen.dimensions)


def _correlation_row(name: str, judges: Sequence[Controllability], colours: Mapping[str, str]) -> Row:
    by_judge = {seen.judge: each for seen in judges for each in seen.dimensions if each.name == name}
    spans: list[Mark | Span] = []
    dots: list[Mark | Span] = []
    for judge, dimension in by_judge.items():
        if (rho := dimension.spearman) is not None:
            said = f"{judge}: {signed(rho.value)}, {_interval(rho)}"
            spans.append(Span(rho.low, rho.high, "thick", said))
            dots.append(Mark(rho.value, "dot", colours[judge], said))
    correlations = [_signed(by_judge[judge].spearman if judge in by_judge else None) for judge in colours]
    slopes = [_signed(by_judge[judge].slope if judge in by_judge else None) for judge in colours]
    levels = next(iter(by_judge.values())).levels
    return Row(f"{name}, {levels} levels", (*spans, *dots), (*correlations, *slopes))


def _signed(found: Measured | None) -> str:
    return NOTHING if found is None else signed(found.value, 2)


def _interval(found: Measured) -> str:
    return f"{signed(found.low)} to {signed(found.high)}, {count(found.num_prompts)} prompts"


def _lines(found: Named) -> Element:
    colours = _judges(found)
    drawn = [
        _line_plot(policy, name, judges, colours)
        for policy, judges in found.items()
        for name in dict.fromkeys(_dimensions(judges))
    ]
    caption = (
        "The level asked for (across) and the mean level got (up), with 95% intervals over prompts. Dashed: what a "
        "policy that obeys to the letter would get from a judge that is always sure."
    )
    key = legend([("curve", colour, f"judge: {name}") for name, colour in colours.items()])
    return figure("Level got by level asked for (Fig. 5)", caption, key, plots(drawn))


def _line_plot(policy: str, name: str, judges: Sequence[Controllability], colours: Mapping[str, str]) -> Element:
    dimensions = {seen.judge: each for seen in judges for each in seen.dimensions if each.name == name}
    top = float(max(each.levels for each in dimensions.values()))
    plane = Plane(Axis(0.8, top + 0.2), Axis(0.95, max(top, 2.0) + 0.05), f"{name} asked for", "mean level got")
    content = [plane.segment((1.0, 1.0), (top, top), "reference")]
    for judge, dimension in dimensions.items():
        content += _line(plane, dimension, colours[judge], judge)
    return plane.drawn(f"{policy}: {name}", content)


def _line(plane: Plane, dimension: Dimension, colour: str, judge: str) -> list[Element]:
    got = [
        (float(cell.targets[dimension.name]), cell.expected[dimension.name])
        for cell in dimension.cells
        if dimension.name in cell.expected
    ]
    drawn = [
        plane.segment((asked, found.low), (asked, found.high), f"interval {colour}") for asked, found in got
    ] + plane.curve([(asked, found.value) for asked, found in got], colour, f"judge: {judge}")
    return drawn + [
        plane.point(
            (asked, found.value), 3.0, f"dot {colour}", f"{judge}: asked {asked:.0f}, got {number(found.value, 2)}"
        )
        for asked, found in got
    ]


def _pairs(found: Named) -> list[Element]:
    shown, *others = [
        (f"{policy}, judge: {seen.judge}", _maps(seen)) for policy, judges in found.items() for seen in judges
    ]
    if not shown[1]:
        return [missing("No pair of dimensions was measured: there is only one.")]
    caption = (
        "Two dimensions asked for at once: rows are the level of one, columns that of the other, a cell is the mean "
        "level got in the dimension that the title names. Colours go from the lowest to the highest level that the "
        "dimension has. A policy that obeys changes along its own dimension and not along the other."
    )
    first = figure(f"Pairs of dimensions (Fig. 6): {shown[0]}", caption, plots(shown[1]))
    return [first, *[folded(f"Pairs of dimensions: {name}", plots(maps)) for name, maps in others]]


def _maps(seen: Controllability) -> list[Element]:
    levels = {each.name: each.levels for each in seen.dimensions}
    return [_map(pair, head, levels) for pair in seen.pairs for head in (pair.first, pair.second)]


def _map(pair: DimensionPair, head: str, levels: Mapping[str, int]) -> Element:
    rows, columns = (sorted({cell.targets[name] for cell in pair.cells}) for name in (pair.first, pair.second))
    cells = {(cell.targets[pair.first], cell.targets[pair.second]): cell.expected.get(head) for cell in pair.cells}
    top = element(
        "tr", None, element("th", {"scope": "col"}, pair.first), *[_column(pair.second, one) for one in columns]
    )
    body = [
        element(
            "tr",
            None,
            element("th", {"scope": "row"}, str(row)),
            *[_heat_cell(cells.get((row, column)), levels[head]) for column in columns],
        )
        for row in rows
    ]
    drawn = element("table", {"class": "heat"}, element("thead", None, top), element("tbody", None, *body))
    return element("div", {"class": "plot"}, element("h4", None, f"{head} got"), drawn)


def _column(name: str, level: int) -> Element:
    return element("th", {"scope": "col"}, f"{name} {level}")


def _heat_cell(found: Measured | None, levels: int) -> Element:
    if found is None:
        return element("td", {"class": "level0"}, NOTHING)
    level = min(LARGEST_LEVEL, round(LARGEST_LEVEL * _share(found, levels)))
    said = f"{number(found.value)}, 95% interval {number(found.low)} to {number(found.high)}"
    return element("td", {"class": f"level{level}", "title": said}, number(found.value, 2))


def _share(found: Measured, levels: int) -> float:
    return (found.value - 1) / max(1, levels - 1)


def _radars(found: Named) -> list[Element]:
    webs = {
        f"{policy}, judge: {seen.judge}": (seen, _webs(seen)) for policy, judges in found.items() for seen in judges
    }
    drawn = [
        radar(title, [each.name for each in seen.dimensions], shapes)
        for title, (seen, shapes) in webs.items()
        if shapes
    ]
    if not drawn:
        return []
    caption = (
        "What is got in every dimension where none is asked for, and where two are asked for at their highest level: "
        "the centre is a dimension's lowest level, the rim its highest."
    )
    names = {web.name: web.colour for _, shapes in webs.values() for web in shapes}
    key = legend([("curve", colour, name) for name, colour in names.items()])
    return [figure("Two dimensions at their highest (Fig. 6)", caption, key, plots(drawn))]


def _webs(seen: Controllability) -> list[Web]:
    levels = {each.name: each.levels for each in seen.dimensions}
    if len(levels) < LEAST_AXES:
        return []
    highest = [
        cell
        for pair in seen.pairs
        for cell in pair.cells
        if all(level == levels[name] for name, level in cell.targets.items())
    ]
    cells = [("nothing asked for", seen.plain, "grey")]
    cells += [(" and ".join(cell.targets), cell, colour) for cell, colour in zip(highest, COLOURS, strict=False)]
    return [Web(name, shares, colour) for name, cell, colour in cells if (shares := _shares(cell, levels))]


def _shares(cell: Cell, levels: Mapping[str, int]) -> tuple[float, ...]:
    """Return a share per dimension, none at all where one was not measured."""
    if levels.keys() - cell.expected.keys():
        return ()
    return tuple(_share(cell.expected[name], count) for name, count in levels.items())
