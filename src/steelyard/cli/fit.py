"""``steelyard fit``: where a model can run, how fast, for how much."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import Parameter

from steelyard.cli.help import FIRST, WISHES, group, option
from steelyard.cli.options import ONE_REQUEST, Model, Wrong, options_of
from steelyard.cli.output import Output, write
from steelyard.errors import DoesNotFit, InputError
from steelyard.scenario.fields import GROUPS, Field, fields_of
from steelyard.scenario.words import Problems, read_value

Question: Any = options_of("estimate", ONE_REQUEST)
Users = Annotated[int, option("requests that run at once: room for all of them, the speed of each", topic=WISHES)]


def fit(
    model: Model,
    /,
    *,
    on: Annotated[
        str, Parameter(help="machines, NAME or NAME:COUNT, separated by commas; all: the catalogue", group=group(FIRST))
    ] = "all",
    question: Question = Question(),  # noqa: B008 - frozen
    context: Annotated[int, option("tokens one request must reach, prompt and answer", topic=WISHES)] = 0,
    users: Users = 1,
    max_usd_per_hour: Annotated[
        float | None, option("most for all devices together; needs a known price", topic=WISHES)
    ] = None,
    min_tokens_per_s: Annotated[float, option("least tokens/s of one user", topic=WISHES)] = 0.0,
    sort: Annotated[
        Literal["price", "speed", "cost"], Parameter(help="per hour, tokens/s, or per token", group=group(WISHES))
    ] = "price",
    output: Output = Output(),  # noqa: B008
    problems: Wrong,
) -> None:
    """Where can I run this model, how fast, for how much: every machine that holds it, the fewest devices of each.

    The weights as published, then narrower ones where they need fewer devices; or those of --weights fp8,int4.
    """
    problems.read(output.check)
    asked = asked_of(question, users, problems)
    problems.done()
    from steelyard.estimation import places
    from steelyard.report import places as report

    wish = places.Wish(asked, context, max_usd_per_hour, min_tokens_per_s)
    found = places.fit(model, on, wish=wish, sort=sort)
    write(
        output,
        data=lambda: report.to_dict(found),
        text=lambda columns: report.text(found, columns),
        rows=lambda: report.rows(found),
    )
    if not found.rows:
        raise DoesNotFit(
            f"{found.about} fits none of {found.tried} machines as asked",
            change="more devices (NAME:COUNT), a narrower format (--weights), or a wider price or speed",
        )


def asked_of(question: Any, users: int, problems: Problems) -> dict[str, Any]:
    """The fields of the request that were given; numbers as numbers; so many of it at once."""
    asked: dict[str, Any] = {}
    if users != 1:
        asked[GROUPS["batch"][0]] = problems.read(_users, users)
    for name in ONE_REQUEST:
        value = getattr(question, name)
        default = Question.__dataclass_fields__[name].default
        if value in ("", default):
            continue
        entry = fields_of("estimate")[name]
        asked[name] = problems.read(_read, entry, value) if isinstance(value, str) else value
    return {name: value for name, value in asked.items() if value != ""}


def _users(number: int) -> Any:
    try:
        return read_value(fields_of("estimate")[GROUPS["batch"][0]], number)
    except InputError as error:
        raise InputError(error.problems[0].message, field="users") from None


def _read(entry: Field, text: str) -> Any:
    return read_value(entry, text.replace("_", "") if entry.type == "whole" else text)
