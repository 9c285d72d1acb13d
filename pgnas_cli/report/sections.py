"""The sections of a report about candidates: the architecture, how they scored, the front, the race, their fidelity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pgnas_cli.report import architecture, fidelity, front, histogram, numbers, race, structure
from pgnas_cli.report.document import Block, Code, Commands, Figure, Inline, Number, Paragraph, Section, Table
from pgnas_cli.report.facts import Facts, Row, typed
from pgnas_cli.report.repeat import uniform_commands
from pgnas_cli.report.words import missing, to_do

_FEWEST = 3
"""Candidates of which it can be asked whether their order is that of a training from scratch."""
_CERTIFIED = 8
_MOST_SAMPLES = 6
"""That one histogram shows."""
_UNIFORM = "uniform"
"""The strategy that draws without a posterior."""
_LEAST = 100
"""Channels from which on their mean number is rounded to a whole one."""


def architecture_section(facts: Facts) -> Section:
    """The network that was found, drawn; before the ranking the most probable one, or the supernet."""
    found = structure.of_run(facts.run)
    when = "by now" if facts.training else "after the training"
    whose: tuple[Inline, ...] = {
        "winner": ("The chosen candidate ", Code(found.candidate), " inside its supernet."),
        "most probable": (f"The most probable network {when}: every group with p below 0.5 is kept.",),
    }.get(found.source, ("The supernet: nothing is dropped yet.",))
    blocks: list[Block] = [Paragraph(whose), architecture.figure(found)]
    if facts.ranking is None:
        blocks.append(missing(facts, "No candidate has been chosen.", to_do(facts, "rank")))
    return Section("architecture", "Architecture", tuple(blocks))


# ---- candidates ---------------------------------------------------------------------------------------------


def samples(facts: Facts, label: str = "") -> dict[str, list[float]]:
    """Label -> accuracies of a run's ranked candidates, by the strategy that drew them."""
    found: dict[str, list[float]] = {}
    for row in facts.leaderboard:
        found.setdefault(f"{label}{row['strategy']}", []).append(row["accuracy"])
    return found


def candidates_section(facts: Facts) -> Section:
    """How the candidates scored, beside those of uniform baselines, and how different they are."""
    record, ranking = facts.stage("sample"), facts.ranking
    blocks: list[Block] = []
    if ranking is None:
        done = "The candidates have not been ranked." if record is not None else "No candidates have been drawn."
        blocks.append(missing(facts, done, to_do(facts, "rank")))
    elif len(facts.leaderboard) > 1:
        found = samples(facts)
        for name, baseline in facts.baselines.items():
            if (baseline.stage("train") or {}).get("fixed_drop") and len(found) < _MOST_SAMPLES:
                found |= {f"baseline {name}": [row["accuracy"] for row in baseline.leaderboard]}
        blocks.append(histogram.candidates(found, winner=ranking["selection_accuracy"]["value"], note=_note(facts)))
        others = [(f"baseline {name}", baseline) for name, baseline in facts.baselines.items()]
        blocks += _without_uniform(facts)
        blocks.append(spread_table([("this run", facts), *others]))
    else:
        blocks.append(Paragraph(("One candidate was ranked: there is nothing to compare it with.",)))
    if record is not None:
        blocks += _drawn(record)
    return Section("candidates", "Candidates", tuple(blocks))


def _without_uniform(facts: Facts) -> list[Block]:
    """How candidates come to stand beside uniform ones; nothing where they do."""
    train, strategies = facts.stage("train") or {}, {row["strategy"] for row in facts.leaderboard}
    if train.get("fixed_drop") is not None:
        line, told = Code("pgnas report --compare RUN RUN"), " draws them and those of a run with one on the same axis."
        return [Paragraph(("These candidates come from no posterior; ", line, told))]
    rated = any(found.ranking and (found.stage("train") or {}).get("fixed_drop") for found in facts.baselines.values())
    if rated or _UNIFORM in strategies:
        return []
    told = "No uniform candidates stand beside these. These commands draw and rank them inside this run, and "
    lines = uniform_commands(facts, facts.run.baseline_path(_UNIFORM))
    return [Paragraph((told, Code(typed(facts.run, "report")), " then shows both on one axis.")), Commands(lines)]


def _note(facts: Facts) -> str:
    assert facts.ranking is not None
    if facts.ranking["method"] != "race":
        return "Accuracies on the whole selection split."
    whole = sum(row["n"] == facts.ranking["selection_accuracy"]["n"] for row in facts.leaderboard)
    return (
        f"Accuracies are estimates: {whole} of {len(facts.leaderboard)} candidates saw the whole selection split, the "
        "others left the race with a part of it."
    )


def spread_table(runs: Iterable[tuple[str, Facts]]) -> Table:
    """Mean, spread and extremes of the candidates of (name, run), of those that are ranked."""
    rows = []
    for name, found in runs:
        if found.ranking is None:
            continue
        spread, estimated = found.ranking["distribution"], found.ranking["method"] == "race"
        many = found.ranking["candidates"] > 1
        deviation = Number(f"{100 * spread['std']:.2f} points", spread["std"]) if many else numbers.NONE
        cells = [numbers.accuracy(spread[key]) for key in ("mean", "median", "min", "max")]
        rows.append((name, numbers.whole(found.ranking["candidates"]), cells[0], deviation, *cells[1:],
                     "estimates of a race" if estimated else "the whole split"))  # fmt: skip
    return Table(
        "Selection accuracy of all candidates",
        ("candidates of", "number", "mean", "standard deviation", "median", "least", "most", "seen"),
        tuple(rows),
    )


def _drawn(record: Row) -> list[Block]:
    """How the candidates were drawn, and how much they differ."""
    diversity = record["diversity"]
    how = {"strategy": record["strategy"], "source": "before the commit" if record["source"] == "soft" else ""}
    drawn = ", ".join(part for part in how.values() if part)
    if record["candidates"] == 1:
        return [
            Paragraph(
                (f"One candidate ({drawn}) was drawn, of ", numbers.count(record["params"]["mean"]), " parameters.")
            )
        ]
    sentence: tuple[Inline, ...] = (
        numbers.whole(record["candidates"]), f" distinct candidates ({drawn}) were drawn, of ",
        numbers.count(record["params"]["min"]), " to ", numbers.count(record["params"]["max"]), " parameters.",
    )  # fmt: skip
    apart = diversity["hamming"]
    channels = Number(f"{apart:,.0f}" if apart >= _LEAST else f"{apart:.1f}", apart)
    differ = (" Two of them differ in ", channels, " channels on average, ", numbers.share(diversity["hamming_share"]),
              " of those with gates.")  # fmt: skip
    return [Paragraph((*sentence, *differ))]


# ---- the ranking --------------------------------------------------------------------------------------------


def front_section(facts: Facts) -> Section:
    """Accuracy against every cost."""
    ranking = facts.ranking
    if ranking is None:
        lines = to_do(facts, "rank", "--front")
        return Section("front", "Front", (missing(facts, "The candidates have not been ranked.", lines),))
    blocks: list[Block] = list(front_figures(facts))
    if "front" not in ranking:
        lines = (typed(facts.run, "rank", "--front"),)
        early = ", and members of the front that left the race early have not been evaluated to the end"
        what = f"Latency has not been measured{early if ranking['method'] == 'race' else ''}."
        blocks.append(missing(facts, what, lines))
    line = Code(typed(facts.run, "export", "--candidate", "ID"))
    blocks.append(Paragraph(("Accuracies are those of the selection split. Any point can be exported: ", line, ".")))
    return Section("front", "Front", tuple(blocks))


def front_figures(facts: Facts, objectives: Sequence[str] = ("params", "macs", "latency")) -> list[Figure]:
    """A figure for each cost that is known."""
    assert facts.ranking is not None
    part, winner = facts.part("front"), facts.ranking["winner"]
    found = (front.front(objective, facts.leaderboard, part, winner) for objective in objectives)
    return [figure for figure in found if figure is not None]


def race_section(facts: Facts) -> Section:
    """How the candidates were compared, what that cost and what it certifies."""
    ranking = facts.ranking
    if ranking is None:
        lines = to_do(facts, "rank")
        return Section("race", "Race", (missing(facts, "The candidates have not been ranked.", lines),))
    figure = race.race(ranking)
    blocks: list[Block] = [] if figure is None else [figure]
    blocks.append(Paragraph(_compared(ranking)))
    if ranking["asked"]["evolve"]:
        fewer = (
            "" if ranking["evolved"] == ranking["asked"]["evolve"] else f" of {ranking['asked']['evolve']} asked for"
        )
        blocks.append(Paragraph((numbers.whole(ranking["evolved"]), f" candidates{fewer} were added by evolution.")))
    return Section("race", "Race", tuple(blocks))


def _compared(ranking: Row) -> tuple[Inline, ...]:
    many = " candidates were compared with " if ranking["candidates"] > 1 else " candidate was evaluated with "
    cost: tuple[Inline, ...] = (
        numbers.whole(ranking["candidates"]), many, numbers.whole(ranking["images"]),
        " images in ", numbers.seconds(ranking["seconds"]),
    )  # fmt: skip
    if ranking["method"] != "race":
        return (*cost, ": the whole selection split for each, so there was no race.")
    margin = Number(f"{100 * ranking['margin']:.2f} points", ranking["margin"])
    level = Number(f"{100 * ranking['confidence']:g} %", ranking["confidence"])
    return (
        *cost, ", ", numbers.share(ranking["images"] / ranking["images_exhaustive"]),
        " of those of an exhaustive ranking (", numbers.whole(ranking["images_exhaustive"]),
        "). With a confidence of ", level, " no candidate is more than ", margin,
        " above the winner on the selection split.",
    )  # fmt: skip


def fidelity_section(facts: Facts) -> Section:
    """Whether the order of the ranking is that of a training from scratch."""
    found = facts.part("certify")
    title = "Fidelity"
    if found is None:
        what = "No candidate has been trained from scratch."
        return Section("fidelity", title, (missing(facts, what, _certifying(facts)),))
    tau = numbers.estimate(found["tau"])
    regret = numbers.estimate(found["regret_at_1"], times=100, unit=" points")
    intervals = any(found[name]["low"] is not None for name in ("tau", "regret_at_1"))
    note = f" In parentheses: {100 * found['confidence']:g} % bootstrap intervals over the candidates."
    sentence: tuple[Inline, ...] = (
        numbers.whole(found["k"]), " candidates at equal steps over the ranking were trained from scratch for ",
        numbers.whole(found["epochs"]), f" epoch{'s' if found['epochs'] > 1 else ''} each. Kendall's tau between "
        "the two orders is ", tau, "; the best of them is ", regret, " above the one that the ranking puts first.",
        note if intervals else "",
    )  # fmt: skip
    return Section("fidelity", title, (fidelity.scatter(found), Paragraph(sentence)))


def _certifying(facts: Facts) -> tuple[str, ...]:
    """What certifies; a run with too few candidates has to draw more first."""
    ranked = None if facts.ranking is None else facts.ranking["candidates"]
    if ranked is not None and ranked < _FEWEST:
        soft = ("--from", "soft") if (facts.stage("train") or {}).get("soft") is not None else ()
        return (
            typed(facts.run, "sample", "-n", "100", *soft, "--force"),
            typed(facts.run, "rank", "--certify", str(_CERTIFIED)),
        )
    return to_do(facts, "rank", "--certify", str(min(ranked or _CERTIFIED, _CERTIFIED)))
