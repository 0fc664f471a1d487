"""Terms in plain words: what is agreed, what a change would change, and what a weaker term means for people's privacy."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from . import output

Terms = Mapping[str, Any]  # of a document: fractions are text, no noise is None


def sentences(terms: Terms) -> list[str]:
    """Return what two sides have agreed on, a sentence for each thing that a person may care about."""
    days, epoch_days = terms["window_days"], terms["epoch_days"]
    said = [
        f"An estimate needs {_people(terms['minimum_segment'])} in the segment and {_people(terms['minimum_universe'])} "
        f"at the side that answers, and it gives a number if {_people(terms['minimum_overlap'])} or more are in both.",
        _noise(terms),
        f"A feed gives no segment of fewer than {_people(terms['minimum_segment'])}.",
        f"Who receives a feed may have {_times(terms)} as many people tested against it as it has, in {_days(days)}: also "
        "people whom it has only thought of.",
        f"Who answers estimates shows at most {terms['generations']:,} versions of its people in {_days(days)}, and no side "
        f"may have more than {_people(terms['maximum_universe'])} of one kind of identity.",
        f"Keys are destroyed after {_days(epoch_days)}.",
    ]
    if waits := runs_wait(terms):
        said.append(waits)
    return said


def runs_wait(terms: Terms) -> str | None:
    """Return the warning that feeds will wait between windows, None if they will not."""
    epochs = -(-terms["window_days"] // terms["epoch_days"])
    if Fraction(terms["evaluations"]) >= epochs:
        return None
    return (
        f"Keys change {epochs} times in {_days(terms['window_days'])}, and with new keys all people have to be tested again, "
        f"but only {_times(terms)} as many may be: feeds will wait for the rest of the {_days(terms['window_days'])}."
    )


def changes(before: Terms, after: Terms, gone: Sequence[str] = (), new: Sequence[str] = ()) -> list[str]:
    """Return what a change of terms and namespaces changes."""
    said = [f"It adds {name}." for name in new]
    said += [f"It takes out {name}: who matched by it alone is no member any more." for name in gone]
    for name, sentence in _CHANGED.items():
        if before[name] != after[name]:
            said.append(sentence.format(now=_value(name, after[name]), before=_value(name, before[name])))
    return said


def stricter(ours: Terms, agreed: Terms) -> list[str]:
    """Return the terms of which the partner asks for more than we do."""
    return [
        f"{output.words(name)} {_value(name, agreed[name])} (you asked for {_value(name, ours[name])})"
        for name in _CHANGED
        if ours[name] != agreed[name]
    ]


def weakened(before: Terms, after: Terms) -> list[str]:
    """Return what each term that is weaker than before means for people's privacy."""
    return [
        meaning.format(now=_value(name, after[name]))
        for name, (weaker, meaning) in _WEAKER.items()
        if weaker(_number(before[name]), _number(after[name]))
    ]


def _people(count: int) -> str:
    return f"{count:,} {'person' if count == 1 else 'people'}"


def _days(count: int) -> str:
    return f"{count:,} {'day' if count == 1 else 'days'}"


def _times(terms: Terms) -> str:
    return f"{float(Fraction(terms['evaluations'])):g} times"


def _noise(terms: Terms) -> str:
    from psi.noise import quantile

    if terms["epsilon"] is None:
        return "Numbers are exact: who asks many questions can learn of single people whether the other side has them."
    epsilon, budget = Fraction(terms["epsilon"]), Fraction(terms["budget"])
    return (
        f"Each number has noise, up to {quantile(epsilon, 2):,} more or less in 95 of 100 cases, and one organisation gets "
        f"about {budget // epsilon:,} of them in {_days(terms['window_days'])}."
    )


def _value(name: str, value: Any) -> str:
    if name == "epsilon":
        return "none" if value is None else f"{value}"
    if name.endswith("_days"):
        return _days(value)
    return f"{value:,}" if isinstance(value, int) else f"{float(Fraction(value)):g}"


def _number(value: Any) -> Fraction | None:
    return None if value is None else Fraction(value)


def _less(before: Any, after: Any) -> bool:
    return bool(after < before)


def _more(before: Any, after: Any) -> bool:
    return bool(after > before)


def _more_or_none(before: Any, after: Any) -> bool:
    return before is not None and (after is None or bool(after > before))


_CHANGED = {
    "minimum_universe": "An estimate needs {now} people at the side that answers, instead of {before}.",
    "minimum_segment": "An estimate or a feed needs {now} people in a segment, instead of {before}.",
    "minimum_overlap": "An estimate gives a number from {now} common people on, instead of {before}.",
    "maximum_universe": "A side may have {now} people of one kind of identity, instead of {before}.",
    "epsilon": "The noise of a number is by epsilon {now}, instead of {before} (less epsilon is more noise).",
    "budget": "One organisation may use up an epsilon of {now} in a window, instead of {before}.",
    "window_days": "What is used up counts for {now}, instead of {before}.",
    "generations": "An answering side may show {now} versions of its people in a window, instead of {before}.",
    "evaluations": "A receiver may have {now} times as many people tested as it has, instead of {before} times.",
    "epoch_days": "Keys are destroyed after {now}, instead of {before}.",
}
_WEAKER = {
    "minimum_universe": (
        _less,
        "With as few as {now} people at the side that answers, a number can say something about each of them.",
    ),
    "minimum_segment": (
        _less,
        "Segments of {now} people may be asked about and shared: the fewer they are, the more it says of each of them.",
    ),
    "minimum_overlap": (
        _less,
        "Partners are told numbers from {now} common people on: the fewer they are, the more a number says of each of them.",
    ),
    "maximum_universe": (_more, "A partner may try up to {now} people whom it has only thought of."),
    "epsilon": (
        _more_or_none,
        "With epsilon {now} numbers have less noise or none: by many questions a partner can learn of single people "
        "whether you have them.",
    ),
    "budget": (
        _more,
        "With an epsilon of {now} a partner gets more numbers, and learns more of single people from them.",
    ),
    "window_days": (
        _less,
        "What a partner used up counts for {now} only: it may ask again sooner, and learns more in a year.",
    ),
    "generations": (_more, "A partner may compare your people with {now} sets of its own choice in a window."),
    "evaluations": (
        _more,
        "A partner may have {now} times as many people tested against your feeds as it has: the more, the more whom it has "
        "only thought of.",
    ),
    "epoch_days": (_more, "Keys are kept for {now}: who steals them meanwhile can open what came in that time."),
}


def show_last_change(name: str, document: Mapping[str, Any]) -> None:
    """Print what the last change of the agreement changed, and which terms are as strict as the partner asks for."""
    if last := document["last_change"]:
        gone, new = _moved(last["namespaces_before"], document["namespaces"])
        output.echo(f"\nThe last change came into force at {output.time(last['at'])}:")
        for sentence in changes(last["terms_before"], document["terms"], gone, new):
            output.say(sentence)
    if document["our_terms"] and (more := stricter(document["our_terms"], document["terms"])):
        output.echo(f"\n{name} asks for more than you: {'; '.join(more)}")


def _moved(before: list[str], after: list[str]) -> tuple[list[str], list[str]]:
    """Return the namespaces that are gone and those that are new."""
    return [each for each in before if each not in after], [each for each in after if each not in before]


def _overridden(change: Mapping[str, Any]) -> list[str]:
    """Return the terms that the partner proposes to change and that stay stricter by our own."""
    proposed, before, after = (change[each] for each in ("proposed_terms", "terms_before", "terms"))
    return [
        f"{output.words(name)} {_value(name, proposed[name])} (you: {_value(name, after[name])})"
        for name in _CHANGED
        if proposed[name] not in (before[name], after[name])
    ]


def show_change(change: Mapping[str, Any]) -> None:
    """Print what a change of an agreement would change, and what that means for people's privacy."""
    gone, new = _moved(change["namespaces_before"], change["namespaces"])
    said = changes(change["terms_before"], change["terms"], gone, new)
    if change["step"] == "propose":
        if not said and (wished := changes(change["terms_before"], change["our_terms"])):
            said = [
                "This alone changes nothing: the partner asks for more than you in these terms, and the stricter side counts. "
                "Once the partner asks for no more than you:"
            ]
            said += wished
        said += [
            f"You offer {each}, the partner does not: it is not agreed on until the partner has some and proposes it."
            for each in change["only_ours"]
        ]
    else:
        said = said or ["It changes nothing here."]
        if overridden := _overridden(change):
            said.append(
                f"What else the partner proposes stays as it is, because you ask for more: {'; '.join(overridden)}."
            )
        said += [
            f"The partner offers {each} too, which this project does not have." for each in change["only_proposed"]
        ]
    for sentence in said or ["It changes nothing here."]:
        output.say(sentence)
    risks = weakened(change["terms_before"], change["terms"])
    if risks:
        output.echo("\nWhat that means for people's privacy:")
    for sentence in risks:
        output.echo(sentence)


def of(document: Terms) -> list[tuple[str, Any]]:
    """Return terms, the agreed or our own, as they are printed beside the sentences."""
    return [(output.words(name), "none" if value is None else value) for name, value in document.items()]


def fingerprint(key: str) -> str:
    """Return the beginning of a key in groups of four, to be compared by telephone."""
    return " ".join(key[start : start + 4] for start in range(0, 32, 4))
